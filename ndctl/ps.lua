-- ps.lua - `ndctl ps`: the instances (containers) of all apps, or of one.

local clock = require "clock"
local out = require "ndctl.lib.out"
local outcome = require "ndctl.lib.outcome"
local tables = require "ndctl.lib.table"
local text = require "ndctl.lib.text"

return {
  name = "ps",
  summary = "List the running instances, each a container.",
  args = { { "app", optional = true } },
  options = { { "tag", value = "TAG", doc = "only those of apps with this tag" } },
  permission = "read", json = "Instance[]",
  examples = { { "ndctl ps" }, { "ndctl ps --tag team-a" }, { "ndctl ps web --json" } },
  run = function(ctx)
    local c = ctx.client()
    local apps = ctx.args.app
      and { (c:call("GET", "/status", { query = c:scoped { app = ctx.args.app } })) } or c:apps(nil, ctx.options.tag)
    local rows = require("json").array {}
    for _, app in ipairs(apps) do
      for _, instance in ipairs(outcome.present(app.instances) or {}) do
        instance.app_name = app.app_name
        rows[#rows + 1] = instance
      end
    end
    if ctx.options.json then return out.json(rows) end
    if #rows == 0 then return out.progress("No instances.") end
    local now = clock.now()
    out.print(tables.render({
      { "APP", "app_name" },
      { "INSTANCE", function(row) return row.name or row.id end },
      { "CONTAINER", function(row) return (row.container_id or ""):sub(1, 12) end },
      { "PROCESS", "process" },
      { "RELEASE", "release", right = true },
      { "STATE", "state" },
      { "ADDRESS", "address" },
      { "RESTARTS", "restarts", right = true },
      { "STARTED", function(row) return text.ago(row.started_at, now) end },
    }, rows))
  end,
}
