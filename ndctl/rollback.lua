-- rollback.lua - `ndctl rollback`: an older release serves again.

local act = require "ndctl.lib.act"
local out = require "ndctl.lib.out"

return {
  name = "rollback",
  summary = "Go back to the release before, or to a given one.",
  args = { { "app" } },
  options = {
    { "to", type = "int", least = 1, value = "N", complete = "releases",
      doc = "the release; the previous one by default" },
    table.unpack(act.run_options),
  },
  permission = "deploy", json = "AppStatus", conflict = true,
  examples = {
    { "ndctl rollback web" },
    { "ndctl rollback web --to 7", "`ndctl status web` lists the releases" },
  },
  run = function(ctx)
    local app = ctx.args.app
    local body = { app_name = app, to = ctx.options.to }
    if ctx.options.plan then return act.plan(ctx, "/rollback", body) end
    out.progress(("Rolling %s back ..."):format(app))
    return act.post(ctx, { path = "/rollback", body = body })
  end,
}
