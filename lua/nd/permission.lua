-- Who may do what: the one table that every route, WebSocket and effect asks.
--
-- A grant is a permission, for the whole host or, after an @, for some apps:
--
--   "deploy"                      everywhere
--   "deploy@default/staging/*"    project/environment/app; * is any
--
-- A role is a list of grants. Rights are a list of such lists, each of which has to allow a thing: what a
-- token may is what its role, its own limits and the person it belongs to all allow, as it is now.
--
--   permission.names                    all there are
--   permission.roles                    the built-in ones: name -> grants
--   permission.effects                  what an effect's capability asks of who began the run
--   permission.check_grant(text)        raises bad_request
--   permission.allows(rights, name, where)   where: {project, environment, name}, as a row of
--                                       `app`; permission.SOME: on some app; nil: on the whole host
--   permission.within(grants, rights)   whether who has `rights` has all that the grants give
--   permission.where(rights, name) -> nil | {sql=, args=}      the apps it is allowed on, where not all are:
--                                       a condition on the columns of the table `app`
--   permission.check_route(route)       raises where a route doesn't say who may ask, and about what

local err = require "nd.error"

local M = {}

-- What each is for, and what it brings along.
local rows = {
  { "read", "see apps, their runs, logs, events and metrics" },
  { "deploy", "deploy, stop, scale, go back, run recipes, jobs and commands inside an app", { "read" } },
  { "secrets:read", "see the names and versions of secrets, never their values", { "read" } },
  { "secrets:write", "set, rotate and remove secrets", { "secrets:read", "read" } },
  { "audit", "read the audit log" },
  { "people", "invite people, give them roles, make and remove everybody's tokens" },
  { "admin", "everything: the host, its registries and certificates, and what else there is" },
}

M.names, M.doc = {}, {}
local brings = {} -- permission -> set of all that it gives
for i, row in ipairs(rows) do
  M.names[i], M.doc[row[1]] = row[1], row[2]
  brings[row[1]] = { [row[1]] = true }
  for _, other in ipairs(row[3] or {}) do brings[row[1]][other] = true end
end
for _, name in ipairs(M.names) do brings.admin[name] = true end

M.roles = {
  admin = { "admin" },
  deployer = { "deploy", "secrets:write" },
  viewer = { "read" },
}

-- By capability. Waiting is an effect like any other: a run whose owner may no longer deploy gets no further.
M.effects = { app = "deploy", docker = "deploy", http = "deploy", time = "deploy" }

M.SOME = {}
M.ALL = { { "admin" } } -- the rights of the unix socket, and of the daemon itself

-- ---- grants ----

-- -> permission, project, environment, app; nil for "any"
local function parts(grant)
  local name, scope = grant:match "^([^@]*)@?(.*)$"
  if scope == "" then return name end
  local project, environment, app = scope:match "^([^/]+)/([^/]+)/([^/]+)$"
  return name, project ~= "*" and project or nil, environment ~= "*" and environment or nil,
    app ~= "*" and app or nil
end

function M.check_grant(grant)
  local name = parts(grant)
  if not brings[name] then
    local near = err.nearest(name or "", M.names)
    err.raise("bad_request", ("there is no permission '%s'"):format(name or grant),
      near and ("did you mean '%s'?"):format(near) or "there are " .. table.concat(M.names, ", "))
  end
  local scope = grant:match "@(.*)$"
  if not scope then return end
  for part in (scope .. "/"):gmatch "([^/]*)/" do
    if part ~= "*" and (#part > 40 or not part:match "^[%l%d][%l%d-]*$") then scope = "" end
  end
  if select(2, scope:gsub("/", "")) ~= 2 then
    err.raise("bad_request", ("'%s' doesn't say for which apps"):format(grant),
      "write PERMISSION@PROJECT/ENVIRONMENT/APP, with * for any, as in deploy@*/staging/shop")
  end
end

local read = {} -- grants as they are stored -> their parts

local function covers(grant, name, where)
  local p = read[grant]
  if not p then
    p = { parts(grant) }
    read[grant] = p
  end
  local given, project, environment, app = p[1], p[2], p[3], p[4]
  if not (brings[given] or {})[name] then return false end
  if where == M.SOME then return true end
  if not where then return not (project or environment or app) end
  return (not project or project == where.project) and (not environment or environment == where.environment)
    and (not app or app == where.name)
end

local function layer_allows(layer, name, where)
  for _, grant in ipairs(layer) do
    if covers(grant, name, where) then return true end
  end
  return false
end

function M.allows(rights, name, where)
  for _, layer in ipairs(rights) do
    if not layer_allows(layer, name, where) then return false end
  end
  return #rights > 0
end

-- A part that is any is covered by any only: no app is called *.
local function asked_for(project, environment, app)
  if not (project or environment or app) then return nil end
  return { project = project or "*", environment = environment or "*", name = app or "*" }
end

function M.within(grants, rights)
  for _, grant in ipairs(grants) do
    local name, project, environment, app = parts(grant)
    if not M.allows(rights, name, asked_for(project, environment, app)) then return false end
  end
  return true
end

-- ---- SQL ----

-- The condition of one grant; nil where it is for all apps.
local function condition(grant, args)
  local _, project, environment, app = parts(grant)
  local tests = {}
  for i, value in pairs { project or false, environment or false, app or false } do
    if value then
      tests[#tests + 1] = ("app.%s = ?"):format(({ "project", "environment", "name" })[i])
      args[#args + 1] = value
    end
  end
  return #tests > 0 and "(" .. table.concat(tests, " AND ") .. ")" or nil
end

function M.where(rights, name)
  local all, args = {}, {}
  for _, layer in ipairs(rights) do
    local any, any_args, whole = {}, {}, false
    for _, grant in ipairs(layer) do
      if covers(grant, name, M.SOME) then
        local text = condition(grant, any_args)
        whole = whole or not text
        any[#any + 1] = text
      end
    end
    if not whole then
      all[#all + 1] = #any > 0 and "(" .. table.concat(any, " OR ") .. ")" or "0"
      table.move(any_args, 1, #any_args, #args + 1, args)
    end
  end
  if #rights == 0 then return { sql = "0", args = {} } end
  if #all == 0 then return nil end
  return { sql = table.concat(all, " AND "), args = args }
end

-- ---- routes ----

-- What a route may be about; lua/nd/api/about.lua finds out which app that is.
M.about = { host = true, any = true, body = true, query = true, path = true, scope = true, run = true, job = true,
  domain = true }

function M.check_route(route)
  local name = route.permission
  if name == "none" or name == "self" then return end
  if not brings[name] then
    error(("%s %s says no permission that there is: %s"):format(route.method, route.path, tostring(name)), 0)
  end
  if not M.about[route.about] then
    error(("%s %s doesn't say what it is about: about = \"host\", \"any\", or where its app is named"):format(
      route.method, route.path), 0)
  end
end

return M
