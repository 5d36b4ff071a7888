-- Effects that change how many instances of a process a release has.

local json = require "json"
local drain_deadline = require "nd.effect.drain"

local function release_of(ctx, handle) return ctx.d.releases:get(ctx.app, handle.release) end

local args = { { "release", "release" }, { "process", "text" }, { "replicas", "number" } }

local M = {}

-- Starts what is missing to that many instances, without traffic. Its undo removes them. Without a
-- process: those of a release that was started with some of them, whose undo removes it as a whole.
M["app.grow"] = {
  version = 1, class = "act", capability = "app",
  args = { args[1], { "process", "text", "optional" }, args[3] },
  label = function(release, process, count)
    return ("start what %s lacks to %d instances"):format(process or "release " .. release.release, count)
  end,
  act = function(ctx, handle, process, count)
    if not process then return ctx.d.scale:fill(ctx, release_of(ctx, handle), count) end
    return ctx.d.scale:grow(ctx, release_of(ctx, handle), process, count)
  end,
  observe = function(ctx, handle, process) return ctx.d.scale:grew(ctx, release_of(ctx, handle), process) end,
  clean = function(ctx, handle) ctx.d.instances:shrink(release_of(ctx, handle)) end,
  undo = function(_, result)
    if #result.instances == 0 or not result.process then return nil end
    return { effect = "app.trim", args = { { release = result.release }, result.process, { drain = 0 } },
      label = ("remove the new instances of %s"):format(result.process) }
  end,
  plan = function(ctx, handle, process, count)
    if process then ctx.d.scale:config(ctx.app, release_of(ctx, handle), process, count) end
    handle.instances = json.array {}
    return handle
  end,
}

-- Records the number; traffic goes to that many.
M["app.scale"] = {
  version = 1, class = "act", capability = "app", args = args,
  label = function(_, process, count) return ("scale %s to %d: traffic goes to that many"):format(process, count) end,
  act = function(ctx, handle, process, count)
    return ctx.d.scale:set(ctx.app, release_of(ctx, handle), process, count, ctx.happened)
  end,
  undo = function(call, result)
    return { effect = "app.scale", args = { call[1], call[2], result.before },
      label = ("scale %s back to %d"):format(result.process, result.before) }
  end,
  plan = function(ctx, handle, process, count)
    local release = release_of(ctx, handle)
    if ctx.live and ctx.live.number == release.number then release = ctx.live end -- scaled by this plan
    local config, before = ctx.d.scale:config(ctx.app, release, process, count)
    ctx.live = { id = release.id, number = release.number, image = release.image, image_id = release.image_id,
      config = json.encode(config) }
    return { release = release.number, process = process, before = before, replicas = count }
  end,
}

-- Drains and removes the instances beyond the recorded number.
M["app.trim"] = {
  version = 1, class = "act", capability = "app",
  args = { { "release", "release" }, { "process", "text" }, { "options", "table", "optional" } },
  label = function(_, process) return ("drain and remove the instances of %s that are too many"):format(process) end,
  deadline = function(_, _, _, options) return drain_deadline(options) end,
  act = function(ctx, handle, process, options)
    return ctx.d.scale:trim(release_of(ctx, handle), process, options and options.drain)
  end,
  plan = function() return { removed = 0 } end,
}

return M
