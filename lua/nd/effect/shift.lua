-- Effects on an app that is between two releases. app.unshift is an undo only.

local drain_deadline = require "nd.effect.drain"

local function text_of(number) return ("%g"):format(number) end

local function label(_, release, options)
  if options.weight then
    return ("send %s %% of the traffic to release %d"):format(text_of(options.weight), release.release)
  end
  return ("let %s of release %d take the place of as many old ones"):format(
    options.instances == 1 and "1 instance" or ("%d instances"):format(options.instances or 0), release.release)
end

return {
  -- Raising, it has given all traffic back to the live release.
  ["app.shift"] = {
    version = 1, class = "act", capability = "app",
    args = { { "app", "app" }, { "release", "release" }, { "options", "table" } },
    label = label,
    deadline = function(_, _, _, options) return drain_deadline(options) end,
    act = function(ctx, _, handle, options)
      return ctx.d.shift:set(ctx.app, ctx.d.releases:get(ctx.app, handle.release), options)
    end,
    clean = function(ctx, _, _, options) ctx.d.shift:back(ctx.app, options.drain) end,
    undo = function(args, result)
      return { effect = "app.unshift", args = { args[1], { drain = args[3].drain } },
        label = ("give all traffic back to release %d"):format(result.before) }
    end,
    plan = function(ctx, _, handle, options)
      local live = ctx.d.releases:live(ctx.app)
      return { release = handle.release, before = live and live.number or 0, instances = options.instances,
        weight = options.weight }
    end,
  },

  ["app.unshift"] = {
    version = 1, class = "act", capability = "app",
    args = { { "app", "app" }, { "options", "table", "optional" } },
    label = function(app) return "give all traffic of " .. app .. " back to its live release" end,
    act = function(ctx, _, options) ctx.d.shift:back(ctx.app, options and options.drain) end,
    plan = function() end,
  },
}
