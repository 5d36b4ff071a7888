-- Apps: project / environment / app, what they are configured to be, and what they are right now.
--
-- Everything a person reads about an app is computed here from the database (`status`), and the
-- database follows Docker's events (watch.lua), so that the answer is the truth.

local clock = require "clock"
local db = require "db"
local json = require "json"
local task = require "task"
local err = require "nd.error"
local tasks = require "nd.tasks"
local config = require "nd.service.app_config"
local publish = require "nd.service.network_publish"
local Process = require "nd.service.process"
local release_config = require "nd.service.release_config"

local LIKELY = 200   -- names that one not found is compared with
local PAGE = 100     -- apps of a list
local BURST = 50     -- ... described at once

local Apps = {}
Apps.__index = Apps

function Apps.new(d) return setmetatable({ d = d, tagging = tasks.lock() }, Apps) end

-- Names become container names and labels: letters, digits, inner dashes.
function Apps.check_name(what, name)
  if type(name) ~= "string" or #name > 40 or not name:match "^[a-z0-9][a-z0-9-]*$"
    or name:match "%-$" then
    err.raise("bad_request", ("%s is not a name for %s"):format(json.encode(name), what),
      "use 1 to 40 of a-z, 0-9 and -, beginning and ending with a letter or digit")
  end
  return name
end

-- {app_name | app, project?, environment?} -> project, environment, name
function Apps.key(request)
  return Apps.check_name("a project", request.project or "default"),
    Apps.check_name("an environment", request.environment or "production"),
    Apps.check_name("an app", request.app_name or request.app)
end

function Apps:find(request)
  local project, environment, name = Apps.key(request)
  return self.d.store:get(
    "SELECT * FROM app WHERE project = ? AND environment = ? AND name = ?",
    project, environment, name)
end

function Apps:get(request)
  local app = self:find(request)
  if app then return app end
  local names = {}
  local wanted = request.app_name or request.app
  for _, row in ipairs(self.d.store:all([[SELECT DISTINCT name FROM app WHERE abs(length(name) - ?) < 3
    ORDER BY substr(name, 1, 1) = ? DESC LIMIT ?]], #wanted, wanted:sub(1, 1), LIKELY)) do
    names[#names + 1] = row.name
  end
  local near = err.nearest(wanted, names)
  err.raise("app_not_found", ("there is no app '%s' in %s/%s"):format(
    request.app_name or request.app, request.project or "default",
    request.environment or "production"),
    near and ("did you mean '%s'? `ndctl ps` lists all apps"):format(near)
    or "`ndctl ps` lists all apps; `ndctl deploy IMAGE --app NAME` makes one")
end

function Apps:by_id(id) return self.d.store:get("SELECT * FROM app WHERE id = ?", id) end

-- The app, or what it will be once its first run begins: a row without an id.
function Apps:prepare(request)
  local project, environment, name = Apps.key(request)
  return self:find(request)
    or { id = 0, project = project, environment = environment, name = name, stopped = 0 }
end

function Apps:ensure(app)
  if app.id ~= 0 then return app end
  local now, project, environment, name = clock.now(), app.project, app.environment, app.name
  self.d.store:commit {
    { "INSERT OR IGNORE INTO app (project, environment, name, created_at, updated_at) VALUES (?, ?, ?, ?, ?)",
      project, environment, name, now, now },
  }
  return self:find { project = project, environment = environment, app = name }
end

-- The key of a service address: unless it is said, the app's own, which is its web process's port 80.
function Apps.service(app, process, port, proto)
  return { project = app.project, environment = app.environment, app = app.name,
    process = process or "web", port = port or 80, proto = proto ~= "tcp" and proto or nil }
end

-- Where the proxies send the callers of a canary: the next release, and at all other times the live one.
function Apps.canary(app) return Apps.service(app, "web.canary") end

-- Where a route of the app leads: its own service, or that of another of its ports.
function Apps.route_service(app, route)
  return route.port and Apps.service(app, "web.ports", route.port) or Apps.service(app)
end

-- The key of its network.
function Apps.net(app)
  return { project = app.project, environment = app.environment, app = app.name }
end

-- The configuration a new release gets: that of the live release (or the last one), changed by
-- what the request says. Unset things stay as they were; `env` is replaced as a whole.
function Apps:spec(app, request)
  local row = self.d.store:get(
    "SELECT * FROM release WHERE app = ? AND was_healthy = 1 ORDER BY id DESC LIMIT 1", app.id)
  local live = app.live and self.d.store:get("SELECT * FROM release WHERE id = ?", app.live)
  local base = live or row
  return self:pin_secrets(app, config.merge(base and release_config.of(base) or {}, request))
end

-- The configuration with the newest versions of its secrets.
function Apps:pin_secrets(app, spec)
  if spec.secrets and next(spec.secrets) then
    spec.secrets = self.d.secrets:pin(app, spec.secrets)
  else
    spec.secrets = nil
  end
  return spec
end

-- Two apps can't claim one host or one port of the machine: raises host_taken or port_taken, naming
-- the owner.
function Apps:check_routes(app, spec)
  for _, route in ipairs(spec.routes or {}) do
    local row = self.d.store:get([[SELECT app.project, app.environment, app.name FROM route
      JOIN app ON app.id = route.app WHERE domain = ? AND app.id <> ?]], route.domain, app.id)
    if row then
      err.raise("host_taken", ("the host %s belongs to the app '%s' in %s/%s"):format(
        route.domain, row.name, row.project, row.environment),
        ("give '%s' another domain, or `ndctl destroy %s` first"):format(app.name, row.name))
    end
  end
  publish.check(self.d.network, Apps.net(app), Process.published(spec))
end

-- ---- what it is right now ----

local function instances_of(d, release)
  local list = json.array {}
  for _, row in ipairs(d.store:rows(
    [[SELECT * FROM instance WHERE release = ? AND gone_at IS NULL
      ORDER BY process <> 'web', process, position]], release.id)) do
    list[#list + 1] = {
      id = row.id, name = row.name, container_id = row.container, release = release.number,
      process = row.process, index = row.position, state = row.state, address = row.address,
      restarts = row.restarts, exit_code = row.exit_code,
      started_at = row.started_at and clock.format(row.started_at),
    }
  end
  return list
end

-- running | stopped | error | updating | degraded, and a sentence where it needs one.
local function summarise(d, app, release, instances, run)
  if run and (run.state == "running" or run.state == "sleeping" or run.state == "rolling_back") then
    local step = d.runs:step_of(run.id)
    return "updating", ("run %s (%s)%s"):format(run.id, run.recipe, step and ": " .. step.label or "")
  end
  if app.stopped == 1 then return "stopped", "stopped by a person" end
  if not release then
    if run and run.state == "failed" then
      return "error", "no release is live; the last run failed: see `ndctl runs show " .. run.id .. "`"
    end
    return "stopped", "nothing was deployed yet"
  end
  local up = 0
  for _, instance in ipairs(instances) do
    if instance.state == "running" then up = up + 1 end
  end
  if up == #instances and up > 0 then return "running", nil end
  if up == 0 then return "error", "no instance of the live release runs" end
  return "degraded", ("%d of %d instances run"):format(up, #instances)
end

-- The image and configuration of what is live; while nothing is, of what was asked for last.
local function describe(release, run)
  if release and release_config.problem(release) then return "", {} end
  if release then return release.image, release_config.of(release) end
  if not run or not run.spec or run.damaged then return "", {} end
  return json.decode(run.params).image or "", json.decode(run.spec)
end

local function first_domain(routes, settings)
  local route = routes[1] or settings.routes and settings.routes[1]
  return route and route.domain or ""
end

-- A host name that the proxy doesn't serve is the app's problem too.
local function unserved(d, routes)
  for _, route in ipairs(d.proxy and routes or {}) do
    local problem = d.proxy:problem(route.proxy_type)
    if problem then return ("%s is not served: %s"):format(route.domain, problem.message) end
  end
end

local function paused_until(d, app)
  local ends = d.edge and d.edge:paused_until(app)
  return ends and clock.format(ends)
end

-- The processes of a release whose configuration names them; nil for an app that is just `web`.
local function processes_of(d, app, settings, instances)
  if not settings.processes then return nil end
  local list = json.array {}
  for i, process in ipairs(Process.list(settings)) do
    local running = 0
    for _, instance in ipairs(instances) do
      if instance.process == process.name and instance.state == "running" then running = running + 1 end
    end
    local long = Process.LONG[process.kind]
    local service = process.port and d.network:find_service(Apps.service(app, process.name,
      process.name == "web" and 80 or process.port))
    local due = process.kind == "cron" and d.schedule:next(app, process.name)
    list[i] = { name = process.name, kind = process.kind, replicas = long and process.replicas or nil,
      running = long and running or nil, address = service and service.at or nil,
      schedule = process.schedule, zone = process.zone, next = due and clock.format(due) or nil }
  end
  return list
end

function Apps:status(app)
  local d = self.d
  app = self:by_id(app.id) or app
  local release = app.live and d.store:get("SELECT * FROM release WHERE id = ?", app.live)
  local run = d.store:get(
    [[SELECT * FROM run WHERE app = ?
      ORDER BY started_at DESC, rowid DESC LIMIT 1]], app.id)
  local instances = release and instances_of(d, release) or json.array {}
  local status, message = summarise(d, app, release, instances, run)
  local problem = release and release_config.problem(release)
  if problem then status, message = "error", problem.message end
  local image, settings = describe(release, run)
  local routes = json.array {}
  for _, r in ipairs(d.store:rows(
    "SELECT domain, tls, proxy_type, port FROM route WHERE app = ? ORDER BY domain", app.id)) do
    routes[#routes + 1] = r
  end
  local previous = d.releases:previous(app)
  local service = d.network and d.network:find_service(Apps.service(app))
  return {
    app_name = app.name, project = app.project, environment = app.environment,
    image = image, digest = release and not problem and release.image_id or nil,
    status = status, message = message or status == "running" and unserved(d, routes) or nil, error = problem,
    port = settings.port or 0,
    domain = first_domain(routes, settings), updated_at = clock.format(app.updated_at),
    release = release and release.number, previous = previous and previous.number,
    strategy = app.strategy, run_id = run and run.id,
    service_address = service and service.at, routes = routes, instances = instances,
    published = settings.publish, maintenance = app.maintenance == 1 or nil, paused_until = paused_until(d, app),
    processes = release and processes_of(d, app, settings, instances) or nil,
    tags = app.tags and app.tags ~= "[]" and json.decode(app.tags) or nil,
  }
end

local function status_json(self, request) return json.encode(self:status(self:get(request))) end

-- The same as JSON, for what is asked for again and again: made once, kept until something changes.
function Apps:status_json(request)
  local d = self.d
  local key = "status " .. (request.project or "default") .. " "
    .. (request.environment or "production") .. " " .. request.app
  return json.raw(d.store:memo(key, d.network and d.network.version or 0, status_json, self, request))
end

-- A page of apps by project, environment and name: those after the key `filter.after`
-- (project/environment/app), `filter.limit` of them; of `filter.seen` only, a condition of permission.where.
function Apps:list(filter)
  local where, args = { "(project, environment, name) > (?, ?, ?)" }, { Apps.after(filter.after) }
  for field, clause in pairs { project = "project = ?", environment = "environment = ?",
    tag = "EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?)" } do
    if filter[field] then
      where[#where + 1] = clause
      args[#args + 1] = filter[field]
    end
  end
  if filter.seen then
    where[#where + 1] = filter.seen.sql
    table.move(filter.seen.args, 1, #filter.seen.args, #args + 1, args)
  end
  args[#args + 1] = filter.limit or PAGE
  local list = json.array {}
  for i, app in ipairs(self.d.store:all(([[SELECT project, environment, name AS app FROM app WHERE %s
    ORDER BY project, environment, name LIMIT ?]]):format(table.concat(where, " AND ")), table.unpack(args))) do
    if i % BURST == 0 then task.yield() end
    local ok, status = pcall(self.status_json, self, app)
    if ok then list[#list + 1] = status end -- else it was destroyed while we looked
  end
  return list
end

-- "project/environment/app" -> the three; the empty text comes before all.
function Apps.after(key)
  if not key then return "", "", "" end
  local project, environment, name = key:match "^([^/]+)/([^/]+)/([^/]+)$"
  if not project then
    err.raise("bad_request", ("query.after: %q is not the key of an app"):format(key),
      "write project/environment/app of the last app that you have, as in default/production/web")
  end
  return project, environment, name
end

-- ---- tags ----

-- Raises unless it is a list of tags.
function Apps.check_tags(list)
  for _, tag in ipairs(list or {}) do
    if #tag > 40 or not tag:match "^[%l%d][%l%d._-]*$" then
      err.raise("bad_request", ("%s is not a tag"):format(json.encode(tag)),
        "use 1 to 40 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit")
    end
  end
  return list
end

-- Makes the app's tags those of `list`; or, without one, adds and removes.
function Apps:tag(app, list, add, remove)
  local _ <close> = self.tagging:hold(app.id)
  local set, tags = {}, json.array {}
  local now = self:by_id(app.id)
  for _, tag in ipairs(list or json.decode(now.tags)) do set[tag] = true end
  for _, tag in ipairs(Apps.check_tags(add) or {}) do set[tag] = true end
  for _, tag in ipairs(remove or {}) do set[tag] = nil end
  for tag in pairs(set) do tags[#tags + 1] = tag end
  table.sort(tags)
  if json.encode(tags) == now.tags then return end
  self.d.store:commit {
    { "UPDATE app SET tags = ?, updated_at = ? WHERE id = ?", json.encode(tags), clock.now(), app.id },
    self.d.store:event("app.changed", app.id, nil, { tags = tags }) }
end

-- Statements that note a change of the app, for a commit.
function Apps:touch(app, data)
  return { "UPDATE app SET updated_at = ? WHERE id = ?", clock.now(), app.id },
    self.d.store:event("app.changed", app.id, nil, data)
end

-- ---- routes ----

local function says(r) return ("%s %s %s"):format(r.tls, r.proxy_type, r.port or "") end

local function record_routes(self, app, routes, old)
  local statements, wanted, had = {}, {}, {}
  for _, r in ipairs(old) do had[r.domain] = says(r) end
  for _, r in ipairs(routes) do
    wanted[r.domain] = true
    statements[#statements + 1] = had[r.domain] ~= says(r) and {
      [[INSERT INTO route (domain, app, tls, proxy_type, port, created_at) VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT (domain) DO UPDATE SET tls = excluded.tls, proxy_type = excluded.proxy_type,
        port = excluded.port WHERE app = excluded.app]], r.domain, app.id, r.tls, r.proxy_type,
      r.port or db.null, clock.now(), expect = 1 } or nil
  end
  for _, r in ipairs(old) do
    if not wanted[r.domain] then
      statements[#statements + 1] = { "DELETE FROM route WHERE domain = ? AND app = ?", r.domain, app.id }
    end
  end
  if #statements == 0 then return end
  local ok, e = pcall(self.d.store.try, self.d.store, statements)
  if not ok then
    if e.code == "stale" then self:check_routes(app, { routes = routes }) end
    error(e, 0)
  end
end

-- Makes the app's host names those of `routes`: rows first, then the proxies.
function Apps:set_routes(app, routes)
  local d, wanted, had = self.d, {}, {}
  local old = d.store:all("SELECT * FROM route WHERE app = ?", app.id)
  record_routes(self, app, routes, old)
  for _, r in ipairs(old) do had[r.domain] = says(r) end
  for _, r in ipairs(routes) do
    wanted[r.domain] = true
    if had[r.domain] ~= says(r) then
      if app.maintenance == 1 then d.proxy:mark("maintenance", r.domain, true) end
      d.proxy:set(r.domain, d.network:service(Apps.route_service(app, r)).at, r.tls, r.proxy_type)
    end
  end
  for _, r in ipairs(old) do
    if not wanted[r.domain] then d.proxy:remove(r.domain) end
  end
  d.certs:wake()
end

-- Removes the app and all that is its own.
function Apps:destroy(app)
  local d = self.d
  local _ <close> = d.releases:stops(app)
  d.store:commit { { "UPDATE app SET stopped = 1 WHERE id = ?", app.id } } -- nobody brings back what goes
  self:set_routes(app, {})
  for _, key in ipairs(d.network:services_of(Apps.net(app))) do d.network:remove(key) end
  for _, release in ipairs(d.store:all("SELECT * FROM release WHERE app = ? AND state <> 'gone'", app.id)) do
    release.damaged = nil -- whatever it was
    d.releases:remove(app, release, 10)
  end
  d.jobs:halt_all(app, "the app was destroyed") -- as well what was fired just before it was to go
  d.network:remove_bridge(Apps.net(app))
  local ok, e = pcall(d.store.try, d.store, {
    { "UPDATE app SET live = NULL WHERE id = ?", app.id },
    { [[DELETE FROM app WHERE id = ? AND NOT EXISTS (SELECT 1 FROM run WHERE run.app = app.id
      AND state IN ('running', 'sleeping', 'rolling_back'))]], app.id, expect = 1 },
    d.secrets.forget(app),
    d.store:event("app.removed", db.null, nil, { app_name = app.name }),
  })
  if ok then
    d.redaction:forget(app)
    return d.logs:forget(app)
  end
  d.runs:conflict(app) -- a run that has begun since
  if self:by_id(app.id) then error(e, 0) end
end

return Apps
