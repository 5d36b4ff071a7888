-- network.lua - service addresses, bridges and the rules that move traffic between instances.
--
-- A deploy moves one service address from old instances to new ones by one iptables-restore, and
-- nothing else changes: not the proxy, not the callers, not established connections. This module
-- owns the instance's chains, its route, its bridges, and who has which address. What the rules
-- look like is in network_rules.lua, how the range is divided in network_address.lua, what is kept
-- on disk in network_state.lua.
--
--   network.new{ instance="3fa2", cidr="10.201.0.0/16", state_dir=, docker=d|nil, store=s|nil,
--                on_event=function(kind, data)|nil } -> net   checks the arguments, nothing else
--   net:start()                parks; checks the range, sets route and sysctls, applies all rules,
--                              then watches and repairs until net:stop()
--   net:restore()              parks; the same without watching: at boot, from net/net.json alone
--   net:service(key) -> {address=, port=, at="ip:port", index=}   parks; allocates at first
--       key = {project=, environment=, app=, process="web", port=80, proto="tcp"}; port is the
--       service's, not the container's
--   net:find_service(key) -> the same, or nil where it has none
--   net:switch(key, {"ip:port", ...})   parks; these instances get new connections, {}: rejected;
--       allocates the service address where there is none yet
--   net:switch_all{{key=, targets=, weights=, published=}, ...}   parks; the same for several at once,
--       or for none; weights={[target]=number}: whose share is how large, left out: all the same;
--       published={{port=, from={cidr}}, ...} are ports of the host that lead there (see
--       network_publish.lua), left out: as they were
--   net:hold(app, on)          parks; new connections to the app's services wait (their SYN is
--       dropped, and sent again by the caller) or go on; ends with the daemon
--   net:services_of(app) -> {key, ...}      the services an app has
--   net:targets(key) -> {"ip:port", ...}, weights   net:remove(key)   parks; the address rests 120 s
--   net:ensure_bridge(app) -> {network=, bridge=, subnet=, gateway=, index=}   parks; idempotent;
--       app = {project=, environment=, app=}; makes the Docker network where it is missing
--   net:remove_bridge(app)     parks; the Docker network must be without containers
--   net:container_address(app, used) -> "ip"   parks; `used`: addresses of existing containers
--   net:container_stops(ip)    parks; before Docker stops a container from which traffic was taken
--   net:container_gone(ip)     parks; its container was removed: forgets what connections it had
--   net:drain(pid, port) -> {count=, peers={"ip:port", ...}, idle=, half=}   parks; established
--       connections of a container's port; idle: how many of them had their answer and are quiet
--       for a second (keep-alive, or a silent WebSocket); half: whose peer has stopped sending
--   net:repair([all]) -> list of what was wrong | nil    parks; brings kernel and model together
--   net:check() -> {{name=, ok=, message=, hint=}, ...}   for `ndctl doctor`
--   net:down()                 parks; removes every chain, jump, route and network of the instance
--   net:stop()                 ends the watch; rules stay, since serving doesn't need the daemon
--   net:flush()                parks until net/net.json and net/rules.v4 hold the current state
--
-- `store` keeps what must not be lost: store:all(kind) -> {[key]=row}, store:put(kind, key, row or
-- nil), both may park; kind is "service" or "bridge", row a flat table. Without one net.json is it.
-- Events: network.switched, network.repaired{chains}, network.failed{error}.
-- Errors: bad_cidr, range_overlap, range_full, bridge_full, bridge_taken, bad_target,
-- netfilter_*.

local clock = require "clock"
local fs = require "fs"
local json = require "json"
local netfilter = require "netfilter"
local proc = require "proc"
local task = require "task"
local address = require "nd.service.network_address"
local host = require "nd.service.network_host"
local iptables = require "nd.service.iptables"
local publish = require "nd.service.network_publish"
local rules = require "nd.service.network_rules"
local state = require "nd.service.network_state"

local network = {}
local Network = {}
Network.__index = Network

local REST = 120 * 1000      -- ms; what conntrack keeps a closed connection for
local CLAIM = 60 * 1000        -- ms; by then the container exists, or never will
local CHECK_EVERY = 60 * 1000
local LABEL = "nextdeploy.instance"

local function fail(code, hint, format, ...)
  error(task.error { code = code, message = string.format(format, ...), hint = hint }, 0)
end

local function app_key(app)
  return table.concat({ app.project, app.environment, app.app }, "/")
end

local function service_key(key)
  return string.format("%s/%s/%d", app_key(key), key.process or "web", key.port or 80)
    .. (key.proto == "udp" and "/udp" or "")
end

function network.new(o)
  local layout, why = address.layout(o)
  if not layout then
    fail("bad_cidr", "give a free private range, as in --service-cidr 10.201.0.0/16",
      "can't use %s for service addresses: %s", tostring(o.cidr), why)
  end
  return setmetatable({
    layout = layout,
    dir = o.state_dir .. "/net",
    docker = o.docker,
    store = o.store,
    on_event = o.on_event or function() end,
    services = {},   -- key -> {index, address, port, proto, comment, targets, weights?, published?, held?,
                     -- freed_at?}
    bridges = {},    -- key -> {index, bridge, subnet, gateway, network, group, freed_at?}
    sysctls = {},    -- name -> the value before ours, for down()
    last_used = {},  -- container address -> wall ms when it was last given out or freed
    claimed = {},    -- container address -> wall ms when it was given out, until freed
    free = task.signal(),
    started = task.signal(),
    dirty = task.signal(),
    written = task.signal(),
    version = 0,     -- of what is to be written
    saved = 0,       -- the version on disk
  }, Network)
end

-- One change at a time: two that interleaved would each undo what the other had just written. Who
-- lets go and comes back at once (the watch, while others change rules all the time) finds before it
-- whoever has waited.
local function locked(self, fn, ...)
  task.yield()
  while self.busy do self.free:wait() end
  self.busy = true
  local result = table.pack(pcall(fn, ...))
  self.busy = false
  self.free:notify()
  if not result[1] then error(result[2], 0) end
  return table.unpack(result, 2, result.n)
end

local function changed(self)
  self.version = self.version + 1
  self.dirty:notify()
end

function Network:flush() state.flush(self) end

---- the kernel's side ----

-- What failed at the start (a range in use, a missing iptables) is tried again by whoever needs
-- it, and then it is their error.
local function need(self)
  if not self.up then self:start() end
end

-- While a restore runs, and after one that failed, what the kernel has isn't known: a cancelled
-- one may have acted. The watch then looks, whoever made the change.
local function apply(self, text)
  local before = self.unsure
  self.unsure = true
  self.backend:restore(text)
  self.unsure = before
end

local function mend(self, all)
  local text, wrong = rules.mend(self.layout, rules.model(self), self.backend:save(), all)
  if text then self.backend:restore(text) end
  self.unsure = nil
  return wrong
end

function Network:repair(all)
  need(self)
  return locked(self, function()
    host.ensure_route(self.layout)
    return mend(self, all)
  end)
end

-- `all`: also what no netfilter event tells of.
local function repair_and_tell(self, all)
  local ok, wrong = pcall(function()
    return locked(self, function()
      if all then host.ensure_route(self.layout) end
      return mend(self)
    end)
  end)
  if not ok then
    if type(wrong) == "table" and wrong.code == "cancelled" then error(wrong, 0) end
    self.on_event("network.failed", { doing = "repairing the rules", error = wrong })
  elseif wrong then
    self.on_event("network.repaired", { chains = wrong })
  end
end

local function watcher(self)
  local changes <close> = netfilter.watch { kind = self.backend.kind,
    bridges = "nd" .. self.layout.instance .. "-" }
  local checked = -CHECK_EVERY -- so that what happened before we listened is found first
  while true do
    if clock.monotonic() - checked >= CHECK_EVERY then
      repair_and_tell(self, true)
      checked = clock.monotonic()
    end
    local wait = math.max(1, checked + CHECK_EVERY - clock.monotonic())
    local ok, pids = pcall(changes.recv, changes, wait)
    if ok then
      if not pids then return end
      while self.busy do self.free:wait() end -- a restore in flight: its pid isn't known yet
      if self.unsure or not self.backend:owns(pids) then repair_and_tell(self) end
    elseif type(pids) ~= "table" or pids.code ~= "timeout" then
      error(pids, 0)
    end
  end
end

local function begin(self)
  state.load(self)
  self.backend = iptables.find(self.last_backend)
  -- At boot what was served is served again, whatever has come to the host since: no check.
  if not self.restoring then host.check_range(self.layout, self.backend:save()) end
  host.ensure_sysctls(self.sysctls)
  locked(self, function()
    host.ensure_route(self.layout)
    mend(self)
  end)
  changed(self)
  self.up = true
end

local function watch_for_ever(self)
  while true do
    local ok, err = pcall(watcher, self)
    if not ok and type(err) == "table" and err.code == "cancelled" then error(err, 0) end
    self.on_event("network.failed", { doing = "watching netfilter", error = err })
    task.sleep(1000)
  end
end

function Network:start()
  while self.starting do self.started:wait() end -- by another task that needs it
  if self.up then return end
  self.starting = true
  local ok, err = pcall(begin, self)
  self.starting = nil
  self.started:notify()
  if not ok then error(err, 0) end
  self.writer = task.spawn("network writer", state.writer, self)
  self.watcher = task.spawn("network watch", watch_for_ever, self)
end

function Network:restore()
  self.restoring = true
  begin(self)
end

function Network:stop()
  for _, name in ipairs { "watcher", "writer" } do
    if self[name] then
      self[name]:cancel()
      self[name]:wait()
      self[name] = nil
    end
  end
  if self.up then self:flush() end
  self.up = nil
end

---- service addresses ----

-- The next free index after the newest one, so that a freed address comes back last: after its
-- rest, and only when no connection names it any more.
local function next_index(self, kind, map, count, range)
  local taken, newest = {}, 0
  local flows = netfilter.flows { within = range, open = true }
  local now = clock.now()
  for _, key in ipairs(rules.sorted(map)) do
    local row = map[key]
    if row.freed_at and now - row.freed_at >= REST and not flows[row.address or row.gateway] then
      map[key] = nil
      state.keep(self, kind, key, nil)
    else
      taken[row.index] = true
      newest = math.max(newest, row.index)
    end
  end
  for i = 0, count - 1 do
    local n = (newest + i) % count + 1
    if not taken[n] then return n end
  end
end

local function shown(s)
  return { address = s.address, port = s.port, at = s.address .. ":" .. s.port, index = s.index }
end

function Network:find_service(key)
  local s = self.services[service_key(key)]
  return s and not s.freed_at and shown(s) or nil
end

function Network:service(key)
  need(self)
  local name = service_key(key)
  local s = self.services[name]
  if not s or s.freed_at then
    locked(self, function()
      s = self.services[name]
      if s and not s.freed_at then return end -- another task was quicker
      if not s then
        local n = next_index(self, "service", self.services, self.layout.service_count,
          self.layout.services)
        if not n then
          fail("range_full", "a wider --service-cidr has more (at most /12)",
            "no service address is left in %s for %s", self.layout.services, name)
        end
        s = { index = n, address = address.service(self.layout, n), port = key.port or 80,
          proto = key.proto or "tcp", comment = name, targets = {} }
      end
      s.freed_at, s.targets, s.weights, s.published, s.held = nil, {}, nil, nil, nil
      state.keep(self, "service", name, s)
      self.services[name] = s
      apply(self, rules.add(self.layout, s.index, s))
      changed(self)
    end)
  end
  return shown(s)
end

function Network:targets(key)
  local s = self.services[service_key(key)]
  if not s or s.freed_at then return {} end
  return table.move(s.targets, 1, #s.targets, 1, {}), s.weights
end

-- Each target once, in a fixed order.
local function check_targets(targets, name)
  local list, seen = {}, {}
  for _, target in ipairs(targets) do
    if not address.endpoint(target) then
      fail("bad_target", nil, "%s is no address and port to send %s to", tostring(target), name)
    end
    if not seen[target] then
      seen[target] = true
      list[#list + 1] = target
    end
  end
  table.sort(list)
  return list
end

function Network:switch(key, targets) self:switch_all { { key = key, targets = targets } } end

-- Several services at once: all of them get their new targets, or none.
function Network:switch_all(wanted)
  local changes = {}
  for _, w in ipairs(wanted) do
    local list = check_targets(w.targets, service_key(w.key))
    if #list > 0 or self:find_service(w.key) then
      self:service(w.key)
      local name = service_key(w.key)
      changes[#changes + 1] = { name = name, service = self.services[name], targets = list,
        weights = w.weights, published = w.published }
    end
  end
  if #changes == 0 then return end
  locked(self, function()
    local services, ports = {}, {}
    for i, c in ipairs(changes) do
      local s = c.service
      services[i] = s
      c.before, s.targets = s.targets, c.targets
      c.had, c.weighed, s.weights = s.published, s.weights, c.weights
      if c.published and not publish.same(s.published, c.published) then
        s.published = #c.published > 0 and c.published or nil
        ports[#ports + 1] = c
      end
    end
    local ok, err = pcall(function()
      if #ports > 0 then return mend(self) end -- in several chains
      apply(self, rules.switch(self.layout, services))
    end)
    if not ok then
      for _, c in ipairs(changes) do
        c.service.targets, c.service.weights, c.service.published = c.before, c.weighed, c.had
      end
      error(err, 0)
    end
    for _, c in ipairs(ports) do state.keep(self, "service", c.name, c.service) end
    changed(self)
  end)
  for _, c in ipairs(changes) do
    -- A UDP flow has no end: its next packet would go on to the old instance.
    if c.service.proto == "udp" then
      netfilter.forget { proto = "udp", within = c.service.address }
      publish.forget(c.before, c.targets)
    end
    self.on_event("network.switched",
      { service = c.name, address = c.service.address, targets = c.targets })
  end
end

function Network:hold(app, on)
  need(self)
  locked(self, function()
    local services, prefix = {}, app_key(app) .. "/"
    for name, s in pairs(self.services) do
      if name:sub(1, #prefix) == prefix and not s.freed_at and s.held ~= (on or nil) then
        services[#services + 1] = s
        s.held = on or nil
      end
    end
    if #services == 0 then return end
    local ok, err = pcall(apply, self, rules.hold(self.layout, rules.model(self), services, on))
    if not ok then
      for _, s in ipairs(services) do s.held = not on or nil end
      error(err, 0)
    end
  end)
end

-- The keys of an app's services.
function Network:services_of(app)
  local list, prefix = {}, app_key(app) .. "/"
  for _, name in ipairs(rules.sorted(self.services)) do
    local process, port, proto = name:sub(#prefix + 1):match "^([^/]+)/(%d+)/?(%a*)$"
    if name:sub(1, #prefix) == prefix and process and not self.services[name].freed_at then
      list[#list + 1] = { project = app.project, environment = app.environment, app = app.app,
        process = process, port = math.tointeger(tonumber(port)),
        proto = proto ~= "" and proto or nil }
    end
  end
  return list
end

function Network:remove(key)
  need(self)
  local name = service_key(key)
  local s = self.services[name]
  if not s or s.freed_at then return end
  locked(self, function()
    local ok = pcall(apply, self, rules.remove(self.layout, s.index, s))
    s.freed_at, s.targets, s.weights, s.published, s.held = clock.now(), {}, nil, nil, nil
    state.keep(self, "service", name, s)
    if not ok then mend(self) end -- the rules weren't as we left them
    changed(self)
  end)
end

---- bridges and containers' addresses ----

local function network_spec(self, b, app)
  return {
    Name = b.network, Driver = "bridge", CheckDuplicate = true,
    IPAM = { Driver = "default", Config = json.array {
      { Subnet = b.subnet, Gateway = b.gateway } } },
    Options = {
      ["com.docker.network.bridge.name"] = b.bridge,
      ["com.docker.network.bridge.enable_ip_masquerade"] = "false", -- our own chain does it
    },
    Labels = { [LABEL] = self.layout.instance, ["nextdeploy.project"] = app.project,
      ["nextdeploy.env"] = app.environment, ["nextdeploy.app"] = app.app },
  }
end

local function ensure_network(self, b, app)
  local there = self.docker:network_inspect(b.network)
  if not there then
    self.docker:network_create(network_spec(self, b, app))
    return
  end
  local config = there.IPAM and there.IPAM.Config and there.IPAM.Config[1] or {}
  if config.Subnet ~= b.subnet then
    fail("bridge_taken", "remove it with `docker network rm " .. b.network
      .. "` once nothing uses it", "the Docker network %s has the subnet %s, not %s", b.network,
      tostring(config.Subnet), b.subnet)
  end
end

function Network:ensure_bridge(app)
  need(self)
  local name = app_key(app)
  local b = self.bridges[name]
  if b and not b.freed_at and self.docker:network_inspect(b.network) then return b end
  locked(self, function()
    b = self.bridges[name]
    if not b or b.freed_at then
      local n = b and b.index or next_index(self, "bridge", self.bridges,
        self.layout.bridge_count, self.layout.containers)
      if not n then
        fail("range_full", "a wider --service-cidr has more (at most /12)",
          "no subnet is left in %s for %s", self.layout.containers, name)
      end
      b = address.bridge(self.layout, n)
      b.group = app.project .. "/" .. app.environment
      -- Dots, which no name may contain, keep a-b/c apart from a/b-c.
      b.network = string.format("nd-%s-%s.%s.%s", self.layout.instance, app.project,
        app.environment, app.app)
      state.keep(self, "bridge", name, b)
      self.bridges[name] = b
      mend(self) -- before the bridge exists: it is never without its policy
      changed(self)
    end
    ensure_network(self, b, app)
  end)
  return b
end

function Network:remove_bridge(app)
  need(self)
  local name = app_key(app)
  local b = self.bridges[name]
  if not b or b.freed_at then return end
  locked(self, function()
    if self.docker:network_inspect(b.network) then self.docker:network_remove(b.network) end
    b.freed_at = clock.now()
    state.keep(self, "bridge", name, b)
    mend(self)
    changed(self)
  end)
end

-- The address that was given out longest ago, and that no container, rule or open connection
-- names. It is the caller's for a minute, in which its container must come to be.
function Network:container_address(app, used)
  local b = self.bridges[app_key(app)]
  if not b or b.freed_at then b = self:ensure_bridge(app) end
  local flows = netfilter.flows { within = b.subnet, open = true }
  local taken = {} -- nothing waits from here on: another task would choose the same
  for _, ip in ipairs(used or {}) do taken[ip] = true end
  local now = clock.now()
  for ip, at in pairs(self.claimed) do
    if now - at < CLAIM then taken[ip] = true end
  end
  for _, s in pairs(self.services) do
    for _, target in ipairs(s.targets) do taken[target:match("^[^:]+")] = true end
  end
  local first, last = address.containers(self.layout, b.index)
  local choice = {}
  for n = first, last do
    local ip = address.format(n)
    if not taken[ip] then choice[#choice + 1] = { ip = ip, n = n, at = self.last_used[ip] or 0 } end
  end
  table.sort(choice, function(x, y) return x.at < y.at or x.at == y.at and x.n < y.n end)
  if not choice[1] then
    fail("bridge_full", "remove old releases or stopped containers; a bridge has 29 addresses",
      "no address is left on %s (%s) for a container of %s", b.bridge, b.subnet, app_key(app))
  end
  for _, c in ipairs(choice) do
    if not flows[c.ip] then
      choice[1] = c
      break
    end
  end
  local ip = choice[1].ip
  self.last_used[ip], self.claimed[ip] = now, now
  if flows[ip] then netfilter.forget { within = ip } end -- left behind by containers long gone
  return ip
end

-- When a container stops, Docker deletes conntrack's entries of its address one by one, by caller
-- and service address. A caller who has come back from the same port by then has such an entry too,
-- towards the new instance: Docker deletes that instead and the request hangs (15 of 1,000 here at
-- 3,000 requests a second). So the ended ones go before Docker sees them.
function Network:container_stops(ip) -- luacheck: no self
  local ok, e = pcall(netfilter.forget, { within = ip, ended = true })
  if not ok and e.code == "cancelled" then error(e, 0) end
end

function Network:container_gone(ip)
  self.last_used[ip] = clock.now()
  self.claimed[ip] = nil
  netfilter.forget { within = ip }
end

function Network:drain(pid, port) -- luacheck: no self
  local peers = {}
  local established, ending = proc.connections(pid, port)
  for i, c in ipairs(established) do peers[i] = c.peer end
  table.sort(peers)
  local ok, idle = pcall(netfilter.idle, pid, port)
  if not ok and idle.code == "cancelled" then error(idle, 0) end
  return { count = #peers, peers = peers, half = #ending, idle = ok and idle or 0 }
end

---- doctor, and the end ----

function Network:check()
  local ok, text, wrong = pcall(function()
    need(self)
    return rules.mend(self.layout, rules.model(self), self.backend:save())
  end)
  local out = host.check()
  table.insert(out, 1, {
    name = "network.rules", ok = ok and not text,
    message = not ok and tostring(text) or text and "differ in " .. table.concat(wrong, ", ")
      or "all chains are as they should be (" .. self.backend.kind .. ")",
    hint = not ok and type(text) == "table" and text.hint
      or text and "the daemon repairs them at once; if this stays, something removes them again"
      or nil,
  })
  return out
end

function Network:down()
  self:stop()
  if not self.backend then
    state.load(self)
    self.backend = iptables.find(self.last_backend)
  end
  local saved = self.backend:save()
  local text = rules.clear(self.layout, saved)
  if text then self.backend:restore(text) end
  if #rules.others(self.layout, saved) == 0 then
    host.restore_sysctls(self.sysctls)
  end
  host.remove_route(self.layout)
  if self.docker then
    for _, n in ipairs(self.docker:network_list { labels = { [LABEL] = self.layout.instance } }) do
      self.docker:network_remove(n.Name)
    end
  end
  fs.remove(self.dir, { recursive = true })
  self.services, self.bridges = {}, {}
end

return network
