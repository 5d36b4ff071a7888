-- restart.lua - `ndctl restart`: starts the live release anew, or a stopped app again.

local act = require "ndctl.lib.act"
local out = require "ndctl.lib.out"

return {
  name = "restart",
  summary = "Restart an app's live release, or start an app that was stopped.",
  args = { { "app" } },
  options = { act.options.wait },
  permission = "deploy", json = "AppStatus", conflict = true,
  examples = { { "ndctl restart web" } },
  run = function(ctx)
    local app = ctx.args.app
    out.progress(("Restarting %s ..."):format(app))
    return act.post(ctx, {
      path = "/restart", body = { app_name = app },
      done = function(status) out.print(("%s is %s"):format(app, status.status)) end,
    })
  end,
}
