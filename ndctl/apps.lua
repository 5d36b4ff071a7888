-- apps.lua - `ndctl apps`: every app of every project and environment, one line each.

local clock = require "clock"
local out = require "ndctl.lib.out"
local outcome = require "ndctl.lib.outcome"
local tables = require "ndctl.lib.table"
local text = require "ndctl.lib.text"

local present = outcome.present

local function up(app)
  local running, instances = 0, present(app.instances) or {}
  for _, instance in ipairs(instances) do
    if instance.state == "running" then running = running + 1 end
  end
  return ("%d/%d"):format(running, #instances)
end

return {
  name = "apps",
  summary = "List all apps: scope, release, instances that are up, strategy, host names.",
  options = { { "tag", value = "TAG", doc = "only those with this tag" } },
  notes = { "--project and --env list those of one project or environment." },
  permission = "read", json = "AppStatus[]",
  examples = {
    { "ndctl apps" },
    { "ndctl apps --tag team-a" },
    { "ndctl apps --env staging --json" },
  },
  run = function(ctx)
    local c = ctx.client()
    local payload = c:apps("/apps", ctx.options.tag)
    if ctx.options.json then return out.json(payload) end
    if #payload == 0 then return out.progress("No apps yet: ndctl deploy IMAGE --app NAME") end
    local now = clock.now()
    out.print(tables.render({
      { "APP", "app_name" },
      { "PROJECT", "project" },
      { "ENVIRONMENT", "environment" },
      { "STATUS", "status" },
      { "UP", up, right = true },
      { "RELEASE", "release", right = true },
      { "BEFORE", "previous", right = true },
      { "IMAGE", "image" },
      { "STRATEGY", "strategy" },
      { "URL", outcome.urls },
      { "UPDATED", function(row) return text.ago(row.updated_at, now) end },
    }, payload))
  end,
}
