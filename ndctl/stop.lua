-- stop.lua - `ndctl stop`: drains an app and stops its instances.

local act = require "ndctl.lib.act"
local out = require "ndctl.lib.out"

return {
  name = "stop",
  summary = "Stop an app: no new requests, wait for those in flight, then SIGTERM.",
  args = { { "app" } },
  options = { act.options.wait },
  notes = { "A stopped app stays stopped, also after a reboot, until `ndctl restart`." },
  permission = "deploy", json = "AppStatus", conflict = true,
  examples = { { "ndctl stop web" } },
  run = function(ctx)
    local app = ctx.args.app
    out.progress(("Stopping %s ..."):format(app))
    return act.post(ctx, {
      path = "/stop", body = { app_name = app },
      done = function(status) out.print(("%s is %s"):format(app, status.status)) end,
    })
  end,
}
