-- Which app a request is about, and whether who asks may do to it what the route does.
--
-- Each route says where its app is named:
--
--   "body" | "query" | "path"   there; a query without an app is about all that one may see
--   "scope"                     body or query; without an app it is all apps of the environment
--   "run" | "job" | "domain"    it is whose run, job or host name the path names
--   "host"                      the daemon and the host as a whole
--   "any"                       nothing that belongs to an app: who has the permission on some app may ask
--
-- What one can't see isn't there: the answer is that of a name that nobody has. Where one sees an app and may
-- not do the thing, it is 403.
--
--   about.ask(route, user, why)  raises unauthorized or forbidden, before anything of the request is read
--   about.check(route, c)        raises the same, or not found, once it is; c.place: the app, {project, environment,
--                                name}, name = "*" for all of an environment; nil where it is about no app
--   about.narrow(c)              for lists: c.sees(app), and c.query.seen: permission.where's condition
--   about.guarded(c, serve)      a WebSocket's function, which lasts as long as what the user may stays the same
--   about.discreet(e) -> e       an error without the names of others' apps (discreet.lua)

local json = require "json"
local task = require "task"
local err = require "nd.error"
local permission = require "nd.permission"
local Apps = require "nd.service.app"
local config = require "nd.service.app_config"
local who = require "nd.service.who"

local M = { discreet = require "nd.service.discreet" }

local function key_of(request)
  local project, environment, name = Apps.key(request)
  return { project = project, environment = environment, name = name }
end

-- c -> the app: {project, environment, name}; SOME; nil where there is no such thing.
local resolvers = {
  body = function(c) return key_of(c.body) end,
  query = function(c) return c.query.app and key_of(c.query) or permission.SOME end,
  path = function(c)
    return key_of { app = c.path.app, project = c.query.project, environment = c.query.environment }
  end,
  scope = function(c)
    local request = c.body or c.query
    local project, environment = Apps.key { project = request.project, environment = request.environment,
      app = request.app or "any" }
    return { project = project, environment = environment, name = request.app or "*" }
  end,
  run = function(c)
    local row = c.d.store:get("SELECT app FROM run WHERE id = ?1 UNION ALL SELECT app FROM waiting WHERE id = ?1",
      c.path.id)
    return row and c.d.apps:by_id(row.app)
  end,
  job = function(c)
    return c.d.store:get([[SELECT project, environment, app.name FROM job JOIN app ON app.id = job.app
      WHERE job.id = ?]], math.tointeger(tonumber(c.path.id)) or -1)
  end,
  domain = function(c)
    return c.d.store:get([[SELECT project, environment, app.name FROM route JOIN app ON app.id = route.app
      WHERE domain = ?]], config.domain(c.path.domain))
  end,
}

local unknown = {
  run = function(c)
    err.raise("run_not_found", ("there is no run '%s'"):format(c.path.id), "`ndctl runs list` shows them")
  end,
  job = function(c)
    err.raise("job_not_found", ("there is no job %s"):format(c.path.id), "`ndctl job list` shows them")
  end,
  domain = function(c)
    err.raise("route_not_found", ("no app has the host name %s"):format(c.path.domain),
      "`ndctl proxy list` shows all")
  end,
}

local function no_app(app)
  err.raise("app_not_found", ("there is no app '%s' in %s/%s"):format(app.name, app.project, app.environment),
    "`ndctl ps` lists the apps that you may see")
end

local function refuse(user, name, app)
  err.raise("forbidden", ("the role %s may not do this%s; it needs the permission '%s'"):format(user.role,
    app and (" to %s/%s/%s"):format(app.project, app.environment, app.name) or "", name),
    "ask an admin for another role")
end

function M.ask(route, user, why)
  local name = route.permission
  if name == "none" then return end
  if why then error(why, 0) end
  if not user then
    err.raise("unauthorized", "this needs a token", "`ndctl token create --name NAME` makes one; "
      .. "send it as Authorization: Bearer TOKEN")
  end
  if user.full or name == "self" or route.own and user.kind == "session" then return end
  local where
  if route.about ~= "host" then where = permission.SOME end
  if not permission.allows(user.rights, name, where) then refuse(user, name) end
end

function M.check(route, c)
  local find, user = resolvers[route.about], c.user
  if not find or route.permission == "none" then return end
  local app = find(c)
  if app == permission.SOME then return end
  c.place = app
  if user.full then return end
  if app and app.name == "*" then -- an environment is no secret
    if not permission.allows(user.rights, route.permission, app) then refuse(user, route.permission, app) end
    return
  end
  if not app or not permission.allows(user.rights, "read", app) then
    c.unseen = app ~= nil -- a refusal, though it doesn't say so
    if unknown[route.about] then unknown[route.about](c) end
    no_app(app)
  end
  if not permission.allows(user.rights, route.permission, app) then refuse(user, route.permission, app) end
end

local lists = { any = true, query = true }

function M.narrow(c)
  local user = c.user
  if not lists[c.route.about] then return end
  function c.sees(app) return user.full or permission.allows(user.rights, "read", app) end
  if user and not user.full then c.query.seen = permission.where(user.rights, "read") end
end

local LOOK_MS = 60000 -- at the clock, where nobody's rights change

local function as_text(user) return user and json.encode(user.rights) end

function M.guarded(c, serve)
  local d, user = c.d, c.user
  if not user or user.kind == "unix" then return serve end
  local rights = as_text(user)
  return function(ws)
    local guard = task.spawn("rights", function()
      while as_text(who.still(d, user)) == rights do d.people.changed:wait(LOOK_MS) end
      ws:close(1008, "what you may has changed")
    end)
    local ok, e = pcall(serve, ws)
    guard:cancel()
    if not ok then error(e, 0) end
  end
end

return M
