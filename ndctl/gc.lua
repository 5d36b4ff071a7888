-- gc.lua - `ndctl gc`: what takes the disk, and removing what nothing needs of it.

local clock = require "clock"
local out = require "ndctl.lib.out"
local outcome = require "ndctl.lib.outcome"
local tables = require "ndctl.lib.table"
local text = require "ndctl.lib.text"

local present = outcome.present

local function show_use(report)
  local used = report.used
  out.print(("%s of %s: images %s, build cache %s, logs %s, database %s"):format(text.bytes(report.total),
    text.bytes(report.limit), text.bytes(used.images), text.bytes(used.build_cache), text.bytes(used.logs),
    text.bytes(used.database)))
end

local function id_of(row) return present(row.id) and text.digest(row.id) end

local function show_items(title, items, size, last)
  if #items == 0 then return end
  local now = clock.now()
  out.print("")
  out.print(tables.render({
    { title, "name" },
    { "ID", id_of },
    { size, function(row) return text.bytes(row.bytes) end, right = true },
    { "USED", function(row) return present(row.used_at) and text.ago(row.used_at, now) end },
    last,
  }, items))
end

return {
  name = "gc",
  summary = "Remove images and build cache that nothing needs, as far as the disk budget asks for it.",
  notes = {
    "Only images that NextDeploy pulled or that its releases ran from, the one longest unused first; never those "
      .. "of a release that is there or can be gone back to (`keep_releases` of each app), of an app that a person "
      .. "stopped, or that any container uses. Docker's build cache goes first.",
    "The daemon does the same by itself, once an hour and after deploys, when all of it takes more than "
      .. "`disk_budget` or the disk is nearly full.",
  },
  args = {},
  options = {
    { "plan", type = "flag", doc = "print what would go and why the rest stays; exit status 1 if anything would" },
    { "all", type = "flag", doc = "all that nothing needs, whatever the budget" },
  },
  permission = "admin", json = "GcReport", plan = "GcReport",
  examples = {
    { "ndctl gc" },
    { "ndctl gc --plan", "what would go, how much, and why the rest stays" },
    { "ndctl gc --all", skip = "another test may want the images" },
  },
  run = function(ctx)
    local o = ctx.options
    local report = ctx.client():call("POST", "/gc", { timeout_ms = 900000,
      query = { plan = o.plan and "true" or nil, all = o.all and "true" or nil } })
    local status = o.plan and #report.removed > 0 and 1 or 0
    if o.json then
      out.json(report)
      return status
    end
    show_use(report)
    show_items(o.plan and "WOULD GO" or "GONE", report.removed, "FREES")
    if o.plan then show_items("STAYS", report.kept, "SIZE", { "WHY", "why" }) end
    if report.over > 0 then
      out.print("")
      out.print(("%s too much, of what is needed: %s"):format(text.bytes(report.over), present(report.hint) or ""))
    end
    out.progress((o.plan and "%s would be free again." or "%s are free again."):format(text.bytes(report.freed)))
    return status
  end,
}
