-- rollback.lua - `ndctl rollback`: an older release serves again.

local act = require "ndctl.lib.act"
local out = require "ndctl.lib.out"

return {
  name = "rollback",
  summary = "Go back to the release before, or to a given one.",
  notes = {
    "Each rollback goes further back: to what the live release replaced when it first served, never to one "
      .. "that was left by going back. `ndctl swap APP` goes back and forth.",
    "The release comes back as it was: image by digest, environment, port, host names. It takes a moment while its "
      .. "containers are kept (`--keep` of the deploy), else as long as a start, else as a pull.",
  },
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
