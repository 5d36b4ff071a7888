-- destroy.lua - `ndctl destroy`: removes an app and everything that was made for it.
--
-- It can't be taken back, so that a "y" isn't enough: the app's name is typed, or given twice.

local client = require "ndctl.lib.client"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local plan = require "ndctl.lib.plan"

local function confirm(ctx, app)
  local given = ctx.options.confirm
  if given and given ~= app then
    fail.usage(("--confirm names %s, and this is about %s"):format(given, app))
  end
  if given or ctx.options.yes then return end
  plan.confirm_name(app, ("This removes %s with all its releases; it can't be undone.")
    :format(app), ("ndctl destroy %s --confirm %s"):format(app, app))
end

return {
  name = "destroy",
  summary = "Remove an app: its containers, network, address and routes. Asks for its name.",
  args = { { "app" } },
  options = {
    { "confirm", value = "NAME", complete = "apps",
      doc = "the app's name once more, for scripts: nothing is asked" },
  },
  notes = {
    "Without --confirm (or --yes) the app's name has to be typed; anything else removes nothing "
      .. "and is exit status 1. A name of --confirm that isn't the app's is exit status 2.",
  },
  permission = "admin", conflict = true,
  json = { type = "object", required = { "app_name" },
    properties = { app_name = { type = "string" } } },
  examples = {
    { "ndctl destroy web", "asks for the name", answer = "web" },
    { "ndctl destroy web --confirm web", "for scripts" },
  },
  run = function(ctx)
    local app, c = ctx.args.app, ctx.client()
    local path = "/apps/" .. client.escape(app)
    if not ctx.options.yes and not ctx.options.confirm then
      -- An unknown app is said before the question.
      c:call("GET", path, { query = c:scoped {} })
    end
    confirm(ctx, app)
    local payload = c:call("DELETE", path, { query = c:scoped {}, timeout_ms = 900000 })
    if ctx.options.json then return out.json(payload or {}) end
    out.print(app .. " is removed")
  end,
}
