-- The daemon: its parts put together, started in order and stopped in order.
--
-- `d` is what every part gets: options, store, docker, network, proxy, and the services. It holds
-- no truth of its own; after a crash all of it is made again from the database.

local clock = require "clock"
local docker = require "docker"
local fs = require "fs"
local json = require "json"
local log = require "log"
local proc = require "proc"
local server = require "server"
local door_tls = require "nd.service.door_tls"
local task = require "task"
local api = require "nd.api"
local app_config = require "nd.service.app_config"
local config = require "nd.config"
local network = require "nd.service.network"
local proxy = require "nd.service.proxy"
local err = require "nd.error"
local Store = require "nd.store"
local tasks = require "nd.tasks"
local tls = require "tls"

local GRACE_MS = 1000
local HAND_OVER_MS = 500 -- the same while new requests wait for the program that comes
local REST_MS = 30000
local LOCK_MS = 2000
local ECHO_MOST = 4 << 20 -- bytes that /_test/echo takes, which asks for no token
local REPLACE = -1       -- what `run` returns instead of an exit status: the program on disk is to go on

local M = {}
local d -- the one daemon of this process; for `stop`

-- Secrets live in memory only: a tmpfs of our own, whatever run_dir is on.
local function prepare_run_dir(o)
  fs.mkdir(o.run_dir, 493)   -- 0755
  fs.mkdir(o.run_dir .. "/secrets", 493)
  if fs.stat(o.run_dir .. "/secrets").device == fs.stat(o.run_dir).device then
    fs.mount_tmpfs(o.run_dir .. "/secrets", { size = 64 << 20, mode = 448 })
  end
  fs.chmod(o.run_dir .. "/secrets", 448) -- 0700: what is below it is for containers, not for the host's users
end

local function network_store(store)
  return {
    all = function(_, kind)
      local out = {}
      for _, row in ipairs(store:all("SELECT * FROM network WHERE kind = ?", kind)) do
        out[row.key] = json.decode(row.row)
      end
      return out
    end,
    put = function(_, kind, key, row)
      if not row then
        store:commit { { "DELETE FROM network WHERE kind = ? AND key = ?", kind, key } }
      else
        store:commit { { [[INSERT INTO network (kind, key, row) VALUES (?, ?, ?)
          ON CONFLICT (kind, key) DO UPDATE SET row = excluded.row]], kind, key, json.encode(row) } }
      end
    end,
  }
end

local function on_event(kind, data)
  d.store:post { d.store:event(kind, nil, nil, data) }
end

local function build(o, programs)
  d.docker = docker.connect { socket = o.docker_host:gsub("^unix://", "") }
  d.network = network.new {
    instance = d.store.instance, cidr = o.service_cidr, state_dir = o.state_dir, docker = d.docker,
    store = network_store(d.store), on_event = on_event,
  }
  d.proxy = proxy.new {
    instance = d.store.instance, state_dir = o.state_dir, run_dir = o.run_dir,
    default = o.proxy, http_port = o.http_port, https_port = o.https_port,
    nginx_http_port = o.nginx_http_port, nginx_https_port = o.nginx_https_port,
    address = o.proxy_address, on_event = on_event,
    acme = { directory = o.acme_directory, email = o.acme_email, ca = o.acme_ca },
    bundle = function(host) return d.certs:bundle(host) end,
  }
  app_config.default_proxy = o.proxy
  d.metrics = require("nd.service.metrics").new(d) -- first: the others may add theirs
  d.worker_options = { path = programs .. "/nd-worker" }
  for name, module in pairs {
    apps = "app", releases = "release", instances = "instances", traffic = "traffic", edge = "edge",
    recipes = "recipe", runs = "runs", queue = "queue", health = "health", drain = "drain",
    guard = "guard", watch = "watch", jobs = "jobs", schedule = "schedule", scale = "scale",
    shift = "shift", gate = "gate", exec = "exec", registries = "registry", seal = "seal", logs = "logs",
    images = "images", upgrade = "upgrade", gc = "gc", people = "people", guesses = "guesses", audit = "audit",
    secrets = "secrets", redaction = "redaction", certs = "certs",
  } do
    d[name] = require("nd.service." .. module).new(d)
  end
  d.store.redact = function(app, data) return d.redaction:value(app, data) end
end

-- The group whose members may use the socket, where the host has it; else only root may.
local function socket_group()
  return ("\n" .. fs.read "/etc/group"):find("\nnextdeploy:", 1, true) and "nextdeploy" or nil
end

local function close_doors()
  d.runs:wake() -- whoever waits for a run's end is told that he has to ask again
  tasks.each("close", d.doors, function(door)
    if d.replaced then door:hand_over(HAND_OVER_MS) else door:close(GRACE_MS) end
  end)
end

local function listen(o)
  local handler = api.handler(d)
  d.tls = o.tls and door_tls.new(o) or nil
  d.doors = {
    server.listen({ unix = o.socket, mode = 432, group = socket_group() }, handler), -- 0660
    server.listen({ address = o.address, port = o.tcp_port, tls = d.tls and d.tls.files,
      limits = o.test_endpoints and { body_unknown = ECHO_MOST } or nil }, handler),
  }
  server.drop_inherited()
  if d.tls then d.tls:watch(d.doors[2]) end
end

-- Problems of the network that only a person can solve; others (Docker is down) pass.
local fatal = { range_overlap = true, bad_cidr = true, netfilter_mixed = true }

-- What serves is brought back first, then what was under way.
local function recover(interrupted)
  local ok, e = pcall(d.network.start, d.network)
  if not ok and fatal[e.code] then error(e, 0) end
  if not ok then log.error("the network is not set up: " .. tostring(e)) end
  d.traffic:retarget_all()
  local routes = {}
  for _, r in ipairs(d.store:all(
    "SELECT app.*, domain, tls, proxy_type, port FROM route JOIN app ON app.id = route.app")) do
    local service = d.network:find_service(d.apps.route_service(r, r))
    if service then
      routes[r.domain] = { at = service.at, tls = r.tls, proxy_type = r.proxy_type,
        canary = not r.port and d.shift:canary(r) or nil }
    end
  end
  d.proxy:set_all(routes)
  d.edge:restore()
  d.redaction:start()
  d.instances:refill_all()
  d.proxy:start()
  d.proxy:watch()
  d.watch:start()
  d.metrics:start()
  d.drain:resume() -- before the runs, which may have a release back from it
  d.guard:resume()
  d.shift:start()
  d.runs:resume(interrupted)
  d.queue:resume()
  d.jobs:resume()
  d.schedule:start()
  d.gc:start()
  d.certs:start()
  if d.seal:exchanging() then task.spawn("exchange of the agent's key", d.secrets.resume, d.secrets) end
end

-- A daemon at rest is small, from its start on.
local function rest()
  collectgarbage()
  while not d.stopping do
    proc.rest()
    task.sleep(REST_MS)
  end
end

-- Two daemons never share a directory. A child of one that was killed has its lock until it has begun its
-- own program, hence the patience.
local function lock_state(o)
  local path, deadline = o.state_dir .. "/lock", clock.monotonic() + LOCK_MS
  while true do
    local ok, lock = pcall(fs.lock, path)
    if ok then return lock end
    if lock.code ~= "locked" or clock.monotonic() > deadline then error(lock, 0) end
    task.sleep(20)
  end
end

local function serve(o, programs)
  d = { options = o, version = M.version, argv = M.argv, program = M.program, started = clock.monotonic(),
    stop = M.stop, stop_signal = task.signal(), recovering = task.signal() }
  fs.mkdir(o.state_dir, 448) -- 0700
  local lock <close> = lock_state(o) -- luacheck: ignore
  o.init_path = programs .. "/nd-init"
  d.store = Store.open(o.state_dir, fs.machine_id())
  prepare_run_dir(o)
  build(o, programs)
  d.audit:open()
  local sound = task.spawn("check of the database", d.store.verify, d.store)
  d.proxy:write_config()
  local interrupted = d.runs:interrupted()
  listen(o)
  log.info(("nextdeployd %s, instance %s, on %s and %s"):format(M.version, d.store.instance, o.socket, o.listen))
  sound:join() -- nothing is acted on before
  recover(interrupted)
  interrupted = nil -- luacheck: ignore (this function lasts, and they may be a thousand)
  local recovered = d.recovering
  d.recovering = nil
  recovered:notify()
  log.info(("ready after %d ms"):format(clock.monotonic() - d.started))
  task.spawn("rest", rest)
  if not d.stopping then d.stop_signal:wait() end
  close_doors()
  d.logs:stop()
  d.network:flush()
  d.network:stop()
  d.metrics:stop()
  pcall(d.runs.park, d.runs)
  d.audit:close()
  d.store:close()
  log.info(d.replaced and "the program on disk takes over" or "stopped; what serves goes on serving")
  return d.replaced and REPLACE
end

-- Whether `serve` would come up: what is asked of a new program before the old one makes way for it.
local function check(o, programs)
  Store.check(o.state_dir)
  if o.tls_cert then tls.check { cert = o.tls_cert, key = o.tls_key, ca = o.tls_client_ca } end
  for _, name in ipairs { "nd-worker", "nd-init" } do
    if not fs.exists(programs .. "/" .. name) then
      err.raise("incomplete", ("there is no %s in %s"):format(name, programs), "install all programs of one release")
    end
  end
  print("nextdeployd " .. M.version)
end

local function restore_network(o)
  log.info(require "nd.service.network_restore"(o.state_dir))
end

local function remove_network(o)
  local lock <close> = lock_state(o) -- luacheck: ignore
  d = { options = o, store = Store.open(o.state_dir, fs.machine_id()) }
  build(o, "")
  d.network:down()
  d.store:close()
end

-- No restart mends these.
local hopeless = { db_corrupt = true, db_damaged = true, db_newer = true }

-- argv, directory of the programs, version, path of this program -> exit status, or REPLACE:
-- 0 stopped, 1 failed, 2 bad options, 3 hopeless
function M.run(argv, programs, version, program)
  M.version, M.argv, M.program = version, argv, program
  local ok, o = pcall(config.load, argv)
  if not ok then
    io.stderr:write("nextdeployd: ", o.message or tostring(o), "\n", o.hint and "  " .. o.hint .. "\n" or "")
    return 2
  end
  if o.help then print(config.help()) return 0 end
  if o.version then print("nextdeployd " .. version) return 0 end
  log.setup { format = o.log_format, level = o.log_level }
  local action = o.restore_network and restore_network or o.remove_network and remove_network
    or o.check and check or serve
  local done, e = pcall(action, o, programs)
  if done then return e or 0 end
  log.error(tostring(e.message or e) .. (e.hint and " - " .. e.hint or ""))
  if e.traceback then log.error(e.traceback) end
  return hopeless[e.code] and 3 or 1
end

-- SIGTERM: live runs stay in the journal and go on at the next start.
function M.stop()
  if not d then return end
  d.replaced = false
  if d.stopping then return end
  d.stopping = true
  d.stop_signal:notify()
end

-- SIGHUP: the certificate is read again.
function M.reload()
  if d and d.tls and d.tls.door then d.tls:reload() end
end

-- SIGUSR2: as POST /upgrade.
function M.upgrade()
  while d and d.recovering do d.recovering:wait() end
  if not d then return end
  local ok, e = pcall(d.upgrade.begin, d.upgrade, "a signal")
  if not ok then log.error(("not upgraded: %s"):format(e.message or e)) end
end

return M
