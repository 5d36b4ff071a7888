-- destroy.lua - `ndctl destroy`: removes an app and everything that was made for it.

local client = require "ndctl.lib.client"
local out = require "ndctl.lib.out"
local plan = require "ndctl.lib.plan"

return {
  name = "destroy",
  summary = "Remove an app: its containers, network, address and routes. Asks first.",
  args = { { "app" } },
  options = {},
  examples = { { "ndctl destroy web" }, { "ndctl destroy web --yes" } },
  run = function(ctx)
    local app, c = ctx.args.app, ctx.client()
    local path = "/apps/" .. client.escape(app)
    if not ctx.options.yes then
      -- An unknown app is said before the question.
      c:call("GET", path, { query = c:scoped {} })
    end
    plan.confirm(ctx, ("Remove %s and all its releases?"):format(app),
      ("ndctl destroy %s --yes"):format(app))
    local payload = c:call("DELETE", path, { query = c:scoped {}, timeout_ms = 900000 })
    if ctx.options.json then return out.json(payload or {}) end
    out.print(app .. " is removed")
  end,
}
