-- spine_world.lua - the services between the API and Docker, with a real database, and a Docker and a
-- network that a spec slows down or changes at any call: for what happens when two of them meet.
--
--   local w = World.new([dir])      w.d: the daemon as its services know it; `dir`: with a database in it
--   w:app(name, replicas, config) -> app, release     live, with running containers
--   w:before(call, fn)              fn(...) runs, and may wait, before each docker call of this name
--   w:event(action, name)           tells the watch as Docker's event stream does
--   w:row(sql, ...)                 what is committed now, also what was only posted before
--   w:until_true(fn)                polls for at most 5 s
--   w:close()

local clock = require "clock"
local fs = require "fs"
local json = require "json"
local task = require "task"
local Store = require "nd.store"

local World = {}
World.__index = World

local Docker = {}

local function docker_call(name, fn)
  Docker[name] = function(self, ...)
    self.calls[#self.calls + 1] = name .. " " .. tostring((...))
    if self.hooks[name] then self.hooks[name](...) end
    return fn(self, ...)
  end
end

docker_call("list", function(self)
  local list = {}
  for _, c in pairs(self.containers) do
    list[#list + 1] = { Id = c.Id, Names = { "/" .. c.Name }, Labels = c.Labels,
      State = c.State.Running and "running" or "exited" }
  end
  return list
end)

docker_call("inspect", function(self, name) return self:find(name) end)
docker_call("image", function() return { Id = "sha256:1", Config = { Cmd = { "/app" } } } end)
docker_call("update", function(self, name, spec)
  local c = self:find(name)
  if not c then error(task.error { code = "docker_not_found", message = "no such container" }, 0) end
  c.Policy = spec.RestartPolicy.Name
end)

docker_call("create", function(self, name, spec)
  self.containers[name] = { Id = "id-" .. name, Name = name, Labels = spec.Labels or {},
    State = { Running = false } }
  return "id-" .. name
end)

docker_call("start", function(self, name)
  self:find(name).State.Running = true
end)

docker_call("stop", function(self, name)
  local c = self:find(name)
  if not c then error(task.error { code = "docker_not_found", message = "no such container" }, 0) end
  if c.State.Running then
    c.State.Running = false
    self.world:event("die", c.Name)
  end
end)

docker_call("remove", function(self, name)
  local c = self:find(name)
  if not c then error(task.error { code = "docker_not_found", message = "no such container" }, 0) end
  self.containers[c.Name] = nil
  if c.State.Running then self.world:event("die", c.Name) end
end)

-- By name or id.
function Docker:find(name)
  if self.containers[name] then return self.containers[name] end
  for _, c in pairs(self.containers) do
    if c.Id == name then return c end
  end
end

local function key_of(key) return ("%s/%s:%d"):format(key.app, key.process or "web", key.port or 80) end

local Network = {}
Network.__index = Network

function Network:find_service(key) return self.services[key_of(key)] end

function Network:service(key)
  local s = self.services[key_of(key)] or { key = key, at = "10.0.0.1:80", targets = {} }
  self.services[key_of(key)] = s
  return s
end

function Network:switch_all(wanted)
  task.sleep(1)
  for _, w in ipairs(wanted) do
    if #w.targets > 0 or self:find_service(w.key) then
      local s = self:service(w.key)
      s.targets, s.weights = w.targets, w.weights
    end
  end
end

function Network:targets(key)
  local s = self:find_service(key)
  if not s then return {} end
  return s.targets, s.weights
end

function Network:services_of(app)
  local list = {}
  for _, s in pairs(self.services) do
    if s.key.app == app.app then list[#list + 1] = s.key end
  end
  return list
end

function Network:remove(key) self.services[key_of(key)] = nil end
function Network:container_address()
  self.given = (self.given or 0) + 1
  return "10.0.100." .. self.given
end
function Network.ensure_bridge() return { network = "net" } end
function Network:drain() return { count = self.connected, peers = {} } end
function Network.start() end
function Network.remove_bridge() end
function Network.container_stops() end
function Network.container_gone() end

local function new_dir()
  local dir = os.tmpname()
  os.remove(dir)
  fs.mkdir(dir, 448)
  return dir
end

function World.new(dir)
  dir = dir or new_dir()
  local d = { options = { state_dir = dir, run_dir = dir .. "/run", recipe_dir = dir, init_path = "/init" } }
  local self = setmetatable({ dir = dir, d = d }, World)
  fs.mkdir(dir .. "/run/secrets", 493)
  d.store = Store.open(dir, "a machine")
  d.docker = setmetatable({ world = self, containers = {}, hooks = {}, calls = {} }, { __index = Docker })
  d.network = setmetatable({ services = {}, connected = 0 }, Network)
  local nothing = setmetatable({}, { __index = function() return function() end end })
  d.proxy, d.jobs, d.schedule, d.logs, d.gc, d.certs = nothing, nothing, nothing, nothing, nothing, nothing
  d.metrics = setmetatable({}, { __index = function() return nothing end })
  d.health = { probe = function() return true end, check = function() return true, nil, 1 end,
    wait = function() end }
  d.runs = { conflict = function() end, live = {} }
  for name, module in pairs { apps = "app", releases = "release", instances = "instances",
    traffic = "traffic", shift = "shift", drain = "drain", guard = "guard", watch = "watch", queue = "queue",
    images = "images", recipes = "recipe",
    scale = "scale", seal = "seal", secrets = "secrets", redaction = "redaction" } do
    d[name] = require("nd.service." .. module).new(d)
  end
  return self
end

-- A release with running containers, in this state.
function World:release(app, number, state, replicas, config)
  local d, now = self.d, clock.now()
  config = config or {}
  config.port, config.env, config.routes, config.replicas = 8080, {}, json.array {}, replicas
  local statements = { { [[INSERT INTO release (app, number, state, image, image_id, config, run, key, was_healthy,
    created_at, live_at) VALUES (?, ?, ?, 'img', 'sha256:1', ?, 'r', ?, 1, ?, ?)]], app.id, number, state,
    json.encode(config), app.name .. number, now, state == "created" and require "db".null or now } }
  for i = 1, replicas do
    local name = ("%s-%d-%d"):format(app.name, number, i)
    d.docker.containers[name] = { Id = "id-" .. name, Name = name, Labels = {}, State = { Running = true, Pid = 1 } }
    statements[#statements + 1] = { [[INSERT INTO instance (release, process, position, name, container, address,
      state) VALUES ((SELECT id FROM release WHERE key = ?), 'web', ?, ?, ?, ?, 'running')]],
      app.name .. number, i, name, "id-" .. name, ("10.0.%d.%d"):format(number, i) }
  end
  d.store:commit(statements)
  return d.releases:find(app, number)
end

-- A live one, and its app.
function World:app(name, replicas, config)
  local d = self.d
  local app = d.apps:ensure { id = 0, project = "default", environment = "production", name = name }
  local release = self:release(app, 1, "live", replicas or 1, config)
  d.store:commit { { "UPDATE app SET live = ? WHERE id = ?", release.id, app.id } }
  d.network:service(d.apps.service(app))
  d.traffic:retarget(app)
  return d.apps:by_id(app.id), release
end

function World:before(call, fn) self.d.docker.hooks[call] = fn end

function World:event(action, name)
  local c = self.d.docker:find(name)
  self.d.watch:on_event { Type = "container", Action = action,
    Actor = { ID = c and c.Id or "id-" .. name, Attributes = { name = name, exitCode = "0" } } }
end

function World:row(...)
  self.d.store:commit {}
  return self.d.store:get(...)
end

function World.until_true(_, fn)
  for _ = 1, 500 do
    if fn() then return true end
    task.sleep(10)
  end
  error("it did not come true within 5 s", 2)
end

-- How often a docker call was made.
function World:count(call)
  local n = 0
  for _, made in ipairs(self.d.docker.calls) do
    if made == call then n = n + 1 end
  end
  return n
end

function World:close()
  for _, w in pairs(self.d.guard.watched) do w.task:cancel() end
  for _, driver in pairs(self.d.drain.active) do driver:cancel() end
  task.sleep(10)
  self.d.store:close()
  fs.remove(self.dir, { recursive = true })
end

return World
