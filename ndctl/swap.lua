-- swap.lua - `ndctl swap`: blue-green to another image, or back to the kept release.

local act = require "ndctl.lib.act"
local out = require "ndctl.lib.out"

return {
  name = "swap",
  summary = "Swap blue and green: to IMAGE, or without one back to the kept release.",
  args = { { "app" }, { "image", optional = true } },
  options = act.run_options,
  permission = "deploy", json = "AppStatus", conflict = true,
  examples = {
    { "ndctl swap web nginx:1.28" },
    { "ndctl swap web", "back to the release that is kept" },
  },
  run = function(ctx)
    local app, image = ctx.args.app, ctx.args.image
    local body = { app_name = app, image = image }
    if ctx.options.plan then return act.plan(ctx, "/swap", body) end
    out.progress(("Swapping %s to %s ..."):format(app, image or "the kept release"))
    return act.post(ctx, { path = "/swap", body = body })
  end,
}
