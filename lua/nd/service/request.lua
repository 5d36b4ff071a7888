-- What people ask for, as requests of runs.
--
-- Only from the body, so that one which has to wait is made anew when its turn comes: what it
-- doesn't say stays then as the release has it that is live by that time.
--
--   request.make(d, kind, body, owner) -> what runs:start takes; raises bad_request, not_found ...
--       kind: "deploy" | "swap" | "rollback" | "scale" | "run", as the API's bodies of these names
--   request.strategy(body, spec) -> the recipe that deploys `spec`
-- Nothing here waits for anything but the database.

local duration = require "nd.duration"
local who = require "nd.service.who"
local err = require "nd.error"
local permission = require "nd.permission"
local policy = require "nd.service.policy"
local Process = require "nd.service.process"

local M = {}

local strategies = { ["blue-green"] = "bluegreen", blue_green = "bluegreen" }

local beside = { bluegreen = true, rolling = true, canary = true } -- those that run two versions at once

-- A volume has one writer unless it says `shared`.
function M.strategy(body, spec)
  local name = strategies[body.strategy] or body.strategy
  local exclusive
  for _, volume in ipairs(Process.one_writer(spec)) do
    if volume.long then exclusive = exclusive or volume.name end
  end
  if exclusive and beside[name] then
    err.raise("bad_request", ("the volume '%s' has one writer, and %s would run two"):format(exclusive, name),
      "deploy with --strategy recreate, or mark the volume `shared = true` if the app can share it")
  end
  return name or exclusive and "recreate" or "bluegreen"
end

-- A copy, since the same body may be asked with again.
local function params_of(app, body, more)
  local params = {}
  for name, value in pairs(body.params or {}) do params[name] = value end
  for name, value in pairs(more or {}) do params[name] = value end
  params.app = app.name
  return params
end

local kinds = {}

function kinds.deploy(d, body)
  local app = d.apps:prepare(body)
  local spec = d.apps:spec(app, body)
  d.apps:check_routes(app, spec)
  return { app = app, recipe = M.strategy(body, spec), spec = spec, tags = d.apps.check_tags(body.tags),
    params = params_of(app, body, { image = body.image }) }
end

function kinds.rollback(d, body)
  local app = d.apps:get(body)
  d.releases:to_go_back(app, body.to)
  return { app = app, recipe = "rollback", params = { app = app.name, to = body.to } }
end

-- Without an image, to the other of the two that served last, and so back and forth.
function kinds.swap(d, body)
  local app = d.apps:get(body)
  local other = not body.image and d.releases:other(app)
  if not body.image then return kinds.rollback(d, { app_name = body.app_name, project = body.project,
    environment = body.environment, to = other and other.number }) end
  local spec = d.apps:spec(app, {})
  return { app = app, recipe = M.strategy({}, spec), spec = spec,
    params = { app = app.name, image = body.image } }
end

function kinds.scale(d, body)
  local app = d.apps:get(body)
  local live = d.releases:live(app)
  if not live then
    err.raise("app_not_live", ("'%s' has no live release to scale"):format(app.name), "deploy one first")
  end
  local process = body.process or "web"
  d.scale:config(app, live, process, body.replicas)
  return { app = app, recipe = "scale", params = { app = app.name, process = process, replicas = body.replicas,
    drain = body.drain } }
end

function kinds.run(d, body)
  local app = d.apps:get(body)
  return { app = app, recipe = body.recipe, spec = d.apps:spec(app, {}), params = params_of(app, body) }
end

function M.make(d, kind, body, owner)
  local request = kinds[kind](d, body)
  request.owner = owner
  request.deadline = body.deadline and duration.ms("deadline", body.deadline)
  if request.deadline == 0 then
    err.raise("bad_request", "deadline: the run needs some time", "leave it out, or write 30s, 5m or 1h30m")
  end
  local rights = who.rights(d, owner)
  if not permission.allows(rights, "deploy", request.app) then -- it may have waited, and its owner be gone
    err.raise("forbidden", ("%s may not deploy '%s' any more"):format(owner, request.app.name),
      "have somebody ask for it who may")
  end
  if request.spec then policy.check(rights, request.app.name, request.spec) end
  return request
end

return M
