-- proxy.lua - which host name goes to which service address, at the edge, by which proxy.
--
-- A route names its proxy: `caddy`, `nginx`, or `none` for people who bring their own (the route is
-- recorded, its service address shown, nothing else done). A deploy changes nothing here: what a
-- proxy is told is the app's service address, which stays. A host that moves from one proxy to
-- another is served by both for LINGER, counted from the moment the new one serves it: callers
-- come to the old one until their DNS or their port mapping has changed. The old one ends each
-- connection with its answer meanwhile, so that nobody stays with it for longer.
--
-- A host may have a canary for a while: {at="ip:port", new=, old=, weight=}. Of callers without its cookie
-- that many percent are sent there, and by the cookie everybody stays on the side where the first request
-- was sent; new and old are the numbers of the releases, of which the answers tell. The weight is obeyed
-- at once; nginx is reloaded when a canary comes or goes, Caddy never.
--
--   proxy.new{ instance=, state_dir=, run_dir=, default="caddy", http_port=80, https_port=443,
--              nginx_http_port=, nginx_https_port=, address="", linger=ms,
--              acme={directory=, email=, ca=file}|nil, bundle=function(host) -> path, mark | nil,
--              on_event=function(kind, data)|nil } -> p
--              acme, bundle: whose certificates hosts with `tls = auto` show, see certs.lua
--   p:write_config()           parks; what the proxies read when somebody starts them
--   p:start()                  parks; write_config, then one sync of each that is in use
--   p:watch()                  starts tasks that keep looking: a proxy that comes up later, or again,
--                              is found within 1 s, one that went down within 10 s
--   p:sync(type) -> state      parks; gives a running proxy our configuration where it differs, and
--                              gives it back its own when ours doesn't take
--   p:state(type)              "up" | "down" | "refused" | "unknown" (not looked yet); none is "up"
--   p:problem(type)            the error object of a state that isn't up
--   p:require_up(type)         parks; raises proxy_down or proxy_refused
--   p:set(host, "ip:port", tls, type, canary)   parks; tls "auto" | "internal" | "off"; idempotent
--   p:remove(host)             parks; idempotent
--   p:driver(type)             for who knows what it is; nil for none
--   p:list() -> {{host=, at=, tls=, proxy_type=}, ...}   parks; by host name, as the proxies have them
--   p:set_all({[host]={at=, tls=, proxy_type=, canary=}})   parks; these and no others: at start, from
--                              the database
--   p:mark(kind, host, on)     parks; kind "maintenance": the host answers 503, or "paused": what the
--                              service holds back is waited for. Obeyed at once, nothing is reloaded
--   p:set_marks(kind, {[host]=true})   parks; these and no others
--   p:check() -> {{name=, ok=, message=, hint=}, ...}   parks; those in use, for `ndctl doctor`
--   p:ports(type) -> http, https   nil for none
--   p:answers(types) -> a, a:read(fn(host, release, status, ms))   what hosts with a canary have answered
--                              by these proxies since; a:close()
--   proxy.host(text) -> name   lower case, without a final dot; raises bad_host
-- Events: proxy.up, proxy.down{error}, proxy.refused{error}, each with {proxy=}; proxy.moved.
--
-- A driver has name, state, problem, http_port, https_port and set, remove, list, replace, sync,
-- check, write_config: as above, for its hosts alone; answers_log and answer: see answers.lua.

local clock = require "clock"
local fs = require "fs"
local task = require "task"
local err = require "nd.error"
local answers = require "nd.service.proxy.answers"
local authority = require "nd.service.proxy.authority"
local caddy = require "nd.service.proxy.caddy"
local nginx = require "nd.service.proxy.nginx"

local proxy = { host = require "nd.service.proxy.host" }
local Proxy = {}
Proxy.__index = Proxy

proxy.ACME = { directory = "https://acme-v02.api.letsencrypt.org/directory" }

local LINGER = 30 * 1000 -- ms
local ORDER = { "caddy", "nginx" }
local TLS = { auto = true, internal = true, off = true }
local KINDS = { caddy = true, nginx = true, none = true }

local function port(value, name)
  if math.type(value) ~= "integer" or value < 1 or value > 65535 then
    err.raise("bad_config", name .. " must be a port from 1 to 65535")
  end
  return value
end

function proxy.new(o)
  local self = setmetatable({
    default = o.default or "caddy",
    marks = o.run_dir .. "/proxy",
    linger = o.linger or LINGER,
    on_event = o.on_event or function() end,
    types = {},      -- host -> the type of its route
    leaving = {},    -- driver's name -> host -> since when its new proxy serves it, or false
  }, Proxy)
  local http, https = port(o.http_port or 80, "http_port"), port(o.https_port or 443, "https_port")
  local own_authority = authority.new { dir = o.state_dir .. "/proxy/data/pki/authorities/local",
    instance = o.instance }
  local function options(more)
    more.instance, more.address, more.on_event = o.instance, o.address or "", self.on_event
    more.marks = self.marks
    more.authority = own_authority
    return more
  end
  self.drivers = {
    caddy = caddy.new(options { dir = o.state_dir .. "/proxy", socket = o.run_dir .. "/caddy.sock",
      http_port = http, https_port = https, acme = o.acme or proxy.ACME }),
    nginx = nginx.new(options { dir = o.state_dir .. "/proxy/nginx", run = o.run_dir .. "/nginx",
      bundle = o.bundle or function() end,
      shared_port = (o.nginx_http_port or http) == http or (o.nginx_https_port or https) == https,
      http_port = port(o.nginx_http_port or http, "nginx_http_port"),
      https_port = port(o.nginx_https_port or https, "nginx_https_port") }),
  }
  for name in pairs(self.drivers) do self.leaving[name] = {} end
  if not KINDS[self.default] then
    err.raise("bad_config", ("proxy: '%s' is not known"):format(self.default), "caddy, nginx or none")
  end
  return self
end

-- In use: it has a route, or nothing has one and it is the default.
local function used(self, name)
  if next(self.leaving[name]) then return true end
  for _, kind in pairs(self.types) do
    if kind == name then return true end
  end
  return not next(self.types) and name == self.default
end

function Proxy:write_config()
  fs.mkdir(self.marks .. "/maintenance", 493) -- 0755: the proxies' workers look here
  fs.mkdir(self.marks .. "/paused", 493)
  fs.mkdir(self.marks .. "/share", 493)
  for _, name in ipairs(ORDER) do fs.mkdir(self.marks .. "/leaving." .. name, 493) end
  for _, name in ipairs(ORDER) do self.drivers[name]:write_config() end
end

function Proxy:state(kind) return kind == "none" and "up" or self.drivers[kind].state end

function Proxy:problem(kind) return self.drivers[kind] and self.drivers[kind].problem end

function Proxy:driver(kind) return self.drivers[kind] end

function Proxy:sync(kind) return kind == "none" and "up" or self.drivers[kind]:sync() end

function Proxy:require_up(kind)
  local driver = self.drivers[kind]
  if not driver or driver:check() == "up" then return end
  if driver:sync() ~= "up" then error(driver.problem, 0) end
end

function Proxy:start()
  self:write_config()
  for _, name in ipairs(ORDER) do
    if used(self, name) then pcall(self.drivers[name].sync, self.drivers[name]) end -- else the watch does
  end
end

-- One that refused its configuration isn't given it again, only looked at: each try might close the
-- WebSockets it has (Caddy before 2.7).
function Proxy:watch()
  for _, name in ipairs(ORDER) do
    local driver = self.drivers[name]
    task.spawn("proxy " .. name, function()
      while true do
        task.sleep(driver.state == "up" and 10000 or 1000)
        if used(self, name) then
          local ok, e = pcall(driver.state == "refused" and driver.check or driver.sync, driver)
          if not ok and e.code == "cancelled" then return end
        end
      end
    end)
  end
end

---- routes ----

local function stays(self, name, host)
  self.leaving[name][host] = nil
  self:mark("leaving." .. name, host, false)
end

-- Takes the hosts from their old proxies whose new one has served them for long enough. -> whether
-- some are left
local function let_go(self)
  local left = false
  for name, hosts in pairs(self.leaving) do
    for host, since in pairs(hosts) do
      local now = clock.monotonic()
      if not since and self:state(self.types[host]) == "up" then
        self:mark("leaving." .. name, host, true)
        hosts[host] = now
      elseif since and now - since >= self.linger then
        self.drivers[name]:remove(host)
        stays(self, name, host)
        self.on_event("proxy.moved", { host = host, from = name, to = self.types[host] })
      end
      left = left or hosts[host] ~= nil
    end
  end
  return left
end

local function mover(self)
  repeat
    task.sleep(math.min(1000, self.linger))
    local ok, left = pcall(let_go, self)
    if not ok and type(left) == "table" and left.code == "cancelled" then return end
  until ok and not left
  self.mover = nil
end

local function leaves(self, name, host)
  if self.leaving[name][host] == nil then self.leaving[name][host] = false end
  if self:state(self.types[host]) == "up" then self:mark("leaving." .. name, host, true) end
  self.mover = self.mover or task.spawn("proxy moves", mover, self)
end

-- Whose random number, of 00 to ff, is below the weight is the canary's.
local function share(self, host, percent)
  local dir, count = self.marks .. "/share/" .. host, math.floor(percent * 256 / 100 + 0.5)
  if percent == 0 then
    if fs.exists(dir) then fs.remove(dir, { recursive = true }) end
    return
  end
  fs.mkdir(dir, 493)
  for n = 0, 255 do self:mark("share/" .. host, ("%02x"):format(n), n < math.max(1, count)) end
end

local function check_route(at, tls, kind)
  if not TLS[tls] then
    err.raise("bad_tls", ("tls = '%s' is not known"):format(tostring(tls)), "auto, internal or off")
  elseif not tostring(at):find("^%d+%.%d+%.%d+%.%d+:%d+$") then
    err.raise("bad_target", tostring(at) .. " is no address and port to send a host to")
  elseif not KINDS[kind] then
    err.raise("bad_proxy", ("proxy_type = '%s' is not known"):format(tostring(kind)),
      "caddy, nginx or none")
  end
end

function Proxy:set(host, at, tls, kind, canary)
  kind = kind or self.default
  check_route(at, tls or "off", kind)
  host = proxy.host(host)
  if canary then share(self, host, canary.weight) end
  if self.drivers[kind] then
    stays(self, kind, host)
    self.drivers[kind]:set(host, at, tls or "off", canary)
  end
  if not canary then share(self, host, 0) end
  local before = self.types[host]
  self.types[host] = kind
  if before and before ~= kind and self.drivers[before] then leaves(self, before, host) end
end

function Proxy:remove(host)
  host = proxy.host(host)
  self.types[host] = nil
  for name, driver in pairs(self.drivers) do
    driver:remove(host)
    stays(self, name, host)
  end
  self:mark("maintenance", host, false)
  self:mark("paused", host, false)
  share(self, host, 0)
end

function Proxy:list()
  local out = {}
  for _, name in ipairs(ORDER) do
    for _, r in ipairs(self.drivers[name]:list()) do
      r.proxy_type = name
      out[#out + 1] = r
    end
  end
  table.sort(out, function(a, b) return a.host < b.host end)
  return out
end

-- A host that another proxy still has was moving when the daemon ended.
function Proxy:set_all(routes)
  self.types = {}
  for host, r in pairs(routes) do
    self.types[host] = r.proxy_type or self.default
    if r.canary then share(self, host, r.canary.weight) end
  end
  for _, name in ipairs(ORDER) do
    local driver, wanted = self.drivers[name], {}
    self.leaving[name] = {}
    self:set_marks("leaving." .. name, {})
    for host, r in pairs(routes) do
      if self.types[host] == name then wanted[host] = { at = r.at, tls = r.tls, canary = r.canary } end
    end
    for _, r in ipairs(driver:list()) do
      if self.types[r.host] and self.types[r.host] ~= name then
        wanted[r.host] = r
        leaves(self, name, r.host)
      end
    end
    driver:replace(wanted)
  end
  for _, host in ipairs(fs.list(self.marks .. "/share")) do
    if not (routes[host] and routes[host].canary) then share(self, host, 0) end
  end
end

---- marks ----

function Proxy:mark(kind, host, on)
  local path = self.marks .. "/" .. kind .. "/" .. host
  if not on then
    if fs.exists(path) then fs.remove(path) end
  elseif not fs.exists(path) then
    local file, why = io.open(path, "w")
    if not file then err.raise("fs_io", "can't create " .. path .. ": " .. why) end
    file:close()
  end
end

function Proxy:set_marks(kind, hosts)
  for _, host in ipairs(fs.list(self.marks .. "/" .. kind)) do
    if not hosts[host] then self:mark(kind, host, false) end
  end
  for host in pairs(hosts) do self:mark(kind, host, true) end
end

---- what there is ----

function Proxy:answers(kinds)
  local drivers = {}
  for _, name in ipairs(ORDER) do
    if kinds[name] then drivers[#drivers + 1] = self.drivers[name] end
  end
  return answers.open(drivers)
end

function Proxy:ports(kind)
  local driver = self.drivers[kind]
  if driver then return driver.http_port, driver.https_port end
end

function Proxy:check()
  local out = {}
  for _, name in ipairs(ORDER) do
    local driver = self.drivers[name]
    if used(self, name) then
      driver:check()
      out[#out + 1] = {
        name = "proxy." .. name, ok = driver.state == "up",
        message = driver.problem and driver.problem.message
          or ("%s serves port %d and %d"):format(name, driver.http_port, driver.https_port),
        hint = driver.problem and driver.problem.hint,
      }
    end
  end
  return out
end

return proxy
