-- Effects on an app's releases. A release is handed to the recipe as
--   {app, release = number, state, image, id, instances = {{name, address, process, index}},
--    replicas = the most that a process of it has once it has all,
--    one_writer = true where a volume of it allows no second container}
-- and named by its number from then on. app.resume, app.deactivate and app.offline are undos only.

local duration = require "nd.duration"
local json = require "json"
local drain_deadline = require "nd.effect.drain"
local policy = require "nd.service.policy"
local release_config = require "nd.service.release_config"

local function releases(ctx) return ctx.d.releases end

local function number(release) return ("release %d"):format(release.release) end

local function handle_or_null(ctx, release)
  return release and releases(ctx):handle(ctx.app, release) or json.null
end

-- The row of a release in a plan, which may have made it.
local function planned(ctx, handle)
  for _, release in ipairs(ctx.made) do
    if release.number == handle.release then return release end
  end
  return releases(ctx):get(ctx.app, handle.release)
end

local app_arg = { "app", "app" }
local release_arg = { "release", "release" }

local function read(label, act)
  return { version = 1, class = "read", capability = "app", label = label, act = act, plan = act }
end

local M = {}

M["app.live"] = read(function(app) return "look up what is live of " .. app end,
  function(ctx) return handle_or_null(ctx, releases(ctx):live(ctx.app)) end)
M["app.live"].args = { app_arg }

M["app.previous"] = read(function(app) return "look up the last good release of " .. app end,
  function(ctx) return handle_or_null(ctx, releases(ctx):previous(ctx.app)) end)
M["app.previous"].args = { app_arg }

-- A release by its number; without one, the last good one before the live.
M["app.release"] = read(
  function(app, n)
    if n then return ("look up release %d of %s"):format(n, app) end
    return "look up the last good release of " .. app
  end,
  function(ctx, _, n)
    return releases(ctx):handle(ctx.app, releases(ctx):to_go_back(ctx.app, n ~= json.null and n or nil))
  end)
M["app.release"].args = { app_arg, { "number", "number", "optional" } }

local function release_command(ctx)
  local spec = ctx.spec or ctx.d.apps:spec(ctx.app, {})
  return not spec.prepared and spec.release and spec
end

-- Runs the app's release command, where it has one, in a container of the new image; a failure of
-- it ends the run before anything was switched.
M["app.prepare"] = {
  version = 1, class = "read", planned = true, capability = "app", args = { app_arg, { "image", "image" } },
  label_of = function(ctx)
    local spec = release_command(ctx)
    return spec and "run the release command: " .. table.concat(spec.release.command, " ") or ""
  end,
  deadline = false, -- the command has a timeout
  act = function(ctx, _, image)
    local spec = release_command(ctx)
    if not spec then return json.null end
    ctx.intend()
    return ctx.d.jobs:release_command(ctx, image, spec)
  end,
  clean = function(ctx) ctx.d.jobs:release_clean(ctx) end,
  plan = function() return json.null end,
}

M["app.start"] = {
  version = 1, class = "act", capability = "app", commits = true,
  args = { app_arg, { "image", "image" }, { "options", "table", "optional" } },
  label = function(app, image, options)
    local some = options and options.instances and (", %d of each process at first"):format(options.instances)
    return ("start %s from %s%s"):format(app, image.image or image.id, some or "")
  end,
  act = function(ctx, _, image, options) return releases(ctx):start(ctx, image, options or {}) end,
  observe = function(ctx) return releases(ctx):started(ctx) end,
  clean = function(ctx)
    ctx.intend() -- a cancelled start may still be recording its release
    releases(ctx):remove_by_key(ctx.app, ctx.key)
  end,
  undo = function(_, result)
    return { effect = "app.remove", args = { { release = result.release } },
      label = ("remove release %d"):format(result.release) }
  end,
  plan = function(ctx, _, image, options)
    local spec = releases(ctx):spec(ctx, options or {})
    policy.enforce(ctx.d, ctx.run.row.owner, ctx.app.name, spec)
    if not ctx.stopped then releases(ctx):check_writers(ctx.app, spec) end
    local release = { number = releases(ctx):next_number(ctx.app) + #ctx.made, image = image.image or image.id,
      image_id = image.id, config = json.encode(spec) }
    table.insert(ctx.made, release)
    return { app = ctx.app.name, release = release.number, state = "created", image = image.image, id = image.id,
      instances = json.array {}, replicas = releases(ctx).replicas_of(spec) }
  end,
}

local function put_to_rest(ctx, handle)
  local release = releases(ctx):get(ctx.app, handle.release)
  if handle.state == "gone" then return releases(ctx):remove(ctx.app, release, 0) end
  releases(ctx):deactivate(ctx.app, release)
end

local from = { draining = ", which still drains", kept = " from its kept containers", gone = " from its image" }

-- Makes an older release run again: its kept container, else a new one from its image.
M["app.activate"] = {
  version = 1, class = "act", capability = "app", args = { release_arg },
  label = function(release) return "bring back " .. number(release) .. (from[release.state] or "") end,
  act = function(ctx, handle)
    return releases(ctx):activate(ctx, releases(ctx):get(ctx.app, handle.release))
  end,
  clean = put_to_rest,
  undo = function(args, result)
    if result.state == "live" then return nil end
    return { effect = "app.deactivate", args = { { release = result.release, state = args[1].state } },
      label = ("put release %d back to rest"):format(result.release) }
  end,
  plan = function(ctx, handle)
    local release = releases(ctx):get(ctx.app, handle.release)
    if not ctx.stopped then releases(ctx):check_writers(ctx.app, release_config.of(release), release) end
    return handle
  end,
}

M["app.deactivate"] = {
  version = 1, class = "act", capability = "app", args = { release_arg },
  label = function(release) return "put " .. number(release) .. " back to rest" end,
  act = put_to_rest,
  plan = function() end,
}

-- The switch doesn't need the proxy; who wants the host names does, and is told.
local function warn_unserved(ctx, release)
  local d, routes = ctx.d, release_config.of(release).routes or {}
  for _, route in ipairs(routes) do
    local kind = route.proxy_type
    if d.proxy:state(kind) ~= "up" and d.proxy:sync(kind) ~= "up" then
      local problem = d.proxy:problem(kind)
      d.store:post { ctx.run:event("run.log", { level = "warn", text = ("warning: %s is not served: %s (%s)"):format(
        route.domain, problem.message, problem.hint) }) }
    end
  end
end

-- Sends new connections to this release. Established ones stay where they are. As the pivot it has
-- no undo.
M["app.switch"] = {
  version = 1, class = "act", capability = "app", args = { app_arg, release_arg },
  label = function(app, release) return ("switch %s to %s"):format(app, number(release)) end,
  act = function(ctx, _, handle)
    local release = releases(ctx):get(ctx.app, handle.release)
    releases(ctx):check_runs(ctx.app, release)
    local result = ctx.d.traffic:switch(ctx.app, release, ctx.happened)
    pcall(warn_unserved, ctx, release) -- it has happened, also if somebody cancels now
    ctx.d.shift:ended(ctx.app)
    return result
  end,
  clean = function(ctx) ctx.d.traffic:put_back(ctx.app) end,
  undo = function(args, result)
    if not result.before then
      return { effect = "app.offline", args = { args[1] }, label = "take " .. args[1] .. " out of service" }
    elseif result.before ~= result.release then
      return { effect = "app.resume", args = { { release = result.before } },
        label = ("switch back to release %d"):format(result.before) }
    end
  end,
  plan = function(ctx, _, handle)
    local live = releases(ctx):live(ctx.app)
    ctx.live = planned(ctx, handle)
    return { release = handle.release, before = live and live.number }
  end,
}

M["app.offline"] = {
  version = 1, class = "act", capability = "app", args = { app_arg },
  label = function(app) return "take " .. app .. " out of service" end,
  act = function(ctx) releases(ctx):offline(ctx.app) end,
  plan = function(ctx) ctx.live = false end,
}

-- Records that a release is done with; the daemon drains, keeps and removes it later.
M["app.retire"] = {
  version = 1, class = "act", capability = "app",
  args = { { "release", "release", "optional" }, { "options", "table", "optional" } },
  label = function(release, options)
    if not release then return "retire nothing: there was no earlier release" end
    return ("retire %s: drain up to %s, keep for %s"):format(number(release),
      duration.text(options and options.drain or 30000), duration.text(options and options.keep or 300000))
  end,
  act = function(ctx, handle, options)
    if not handle then return json.null end
    return releases(ctx):retire(ctx.app, releases(ctx):get(ctx.app, handle.release), options or {})
  end,
  plan = function() return json.null end,
}

-- Takes a release out of service and stops it: route, drain, SIGTERM, grace, SIGKILL.
M["app.stop"] = {
  version = 1, class = "act", capability = "app",
  args = { { "release", "release", "optional" }, { "options", "table", "optional" } },
  label = function(release)
    if not release then return "stop nothing: no release is live" end
    return "stop " .. number(release) .. ": from here on nothing serves"
  end,
  deadline = function(_, _, options) return drain_deadline(options) end,
  act = function(ctx, handle, options)
    if not handle then return json.null end
    return releases(ctx):stop_for_recreate(ctx, releases(ctx):get(ctx.app, handle.release),
      options and options.drain or 0)
  end,
  clean = function(ctx, handle)
    local release = handle and releases(ctx):find(ctx.app, handle.release)
    if release and releases(ctx):serves(ctx.app, release) then releases(ctx):resume(ctx, release) end
  end,
  undo = function(_, result)
    if type(result) ~= "table" or not result.was_live then return nil end
    return { effect = "app.resume", args = { { release = result.release } },
      label = ("start release %d again and serve it"):format(result.release) }
  end,
  plan = function(ctx, handle)
    if not handle then return json.null end
    ctx.stopped = true
    local release = releases(ctx):find(ctx.app, handle.release)
    handle.was_live = release ~= nil and releases(ctx):serves(ctx.app, release)
    if handle.was_live then ctx.live = false end
    return handle
  end,
}

M["app.resume"] = {
  version = 1, class = "act", capability = "app", args = { release_arg },
  label = function(release) return "start " .. number(release) .. " again and serve it" end,
  act = function(ctx, handle)
    return releases(ctx):resume(ctx, releases(ctx):get(ctx.app, handle.release))
  end,
  plan = function(ctx, handle) ctx.live = planned(ctx, handle) end,
}

M["app.remove"] = {
  version = 1, class = "act", capability = "app", args = { release_arg },
  label = function(release) return "remove " .. number(release) end,
  act = function(ctx, handle)
    local release = releases(ctx):find(ctx.app, handle.release)
    if not release then return end
    releases(ctx):check_not_live(ctx.app, release)
    releases(ctx):remove(ctx.app, release, 0)
  end,
  plan = function() end,
}

return M
