-- caddy.lua - Caddy as the proxy: a route is one empty file that it finds by itself.
--
-- What Caddy is told, and what the files mean, is in caddy_config.lua. The daemon talks to Caddy only
-- when it starts, and only when Caddy's configuration isn't the one we want. So neither a deploy nor a
-- new host name reloads anything, and what is served goes on without the daemon. Caddy is never our
-- child: the quickstart or systemd runs `caddy run --config <state_dir>/proxy/caddy.json`.
--
--   caddy.new{ instance=, dir=, marks=, socket=, http_port=, https_port=, address="", on_event=,
--              authority=, acme={directory=, email=, ca=} }
--   c:renew(host, ms) -> cert.read's first    parks; has Caddy ask for a new certificate now: it shows the
--                                             old one until it has the new. Raises cert_failed
--   c:remake(host)                            parks; the same for one of the host's own authority
--   c:touch(host)                             parks; a handshake, at which Caddy looks whether it is due
--   c.certificates                            see caddy_certificates.lua
--   The rest is what proxy.lua asks of a driver.

local cert = require "cert"
local clock = require "clock"
local crypto = require "crypto"
local fs = require "fs"
local http = require "http"
local json = require "json"
local log = require "log"
local process = require "process"
local task = require "task"
local err = require "nd.error"
local tasks = require "nd.tasks"
local authority = require "nd.service.proxy.authority"
local certificates = require "nd.service.proxy.caddy_certificates"
local config = require "nd.service.proxy.caddy_config"
local driver = require "nd.service.proxy.driver"

local caddy = {}
local Caddy = {}
Caddy.__index = Caddy

local MOMENT = 10    -- ms; a certificate that is so much younger than the one to replace isn't due with it
local SETTLE = 50    -- ms; longer than Caddy takes from listing a directory to its file's stat
local RELEASE = '"' .. config.RELEASE:gsub("%-", "%%-") .. '":%["(%d+)"'
local KINDS = { auto = "tls", internal = "tls", off = "plain" }

function caddy.new(o)
  o.name, o.state = "caddy", "unknown"
  o.own = o.dir .. "/data/own"
  o.certificates = certificates.new { data = o.dir .. "/data", directory = o.acme.directory, authority = o.authority }
  o.turns = tasks.lock()
  return setmetatable(o, Caddy)
end

---- Caddy's configuration ----

-- What isn't written to its end, or was put there by somebody else, has another ending.
local function own_names(self)
  local out = {}
  for _, name in ipairs(fs.exists(self.own) and fs.list(self.own) or {}) do
    if name:find "%.pem$" then out[#out + 1] = name end
  end
  return out
end

-- The user's own certificates, as the configuration names them. One that is broken goes: `set_own` makes it again.
local function own_files(self)
  local out = {}
  for _, name in ipairs(own_names(self)) do
    local file = self.own .. "/" .. name
    local ok, info = pcall(function()
      local bundle = fs.read(file)
      cert.fits(bundle, bundle)
      return cert.read(bundle)[1]
    end)
    if ok then
      out[#out + 1] = { file = file, tag = name, names = info.names }
    else
      if info.code == "cancelled" then error(info, 0) end
      log.warn(("%s is removed, since Caddy can't use it: %s"):format(file, info.message))
      fs.remove(file, { recursive = true })
    end
  end
  return out
end

function Caddy:config()
  return config.config { instance = self.instance, routes = self.dir .. "/routes",
    marks = self.marks, data = self.dir .. "/data", socket = self.socket, address = self.address,
    http_port = self.http_port, https_port = self.https_port, acme = self.acme, own = own_files(self),
    renewing = self.renewing }
end

function Caddy:write_config()
  fs.mkdir(self.dir .. "/routes/plain", 493) -- 0755: Caddy may run as a user of its own
  fs.mkdir(self.dir .. "/routes/tls", 493)
  fs.mkdir(self.dir .. "/routes/auto", 493)
  fs.mkdir(self.dir .. "/routes/canary", 493)
  fs.write(self.dir .. "/caddy.json", json.encode(self:config(), true) .. "\n", 420) -- 0644
end

-- The admin interface compares the Host header with `origins` in our configuration.
local function admin(self, method, path, body, cache_control)
  return http.request { url = "http://nextdeploy" .. path, unix = self.socket, method = method, body = body,
    headers = { ["Content-Type"] = body and "application/json" or nil, ["Cache-Control"] = cache_control },
    timeout_ms = 10000, connect_timeout_ms = 1000 }
end

-- Connections that wait for the server that goes are given to the one that comes (Linux 5.14). Without it 6
-- were reset in 24 loads, at 700 requests a second; with it none.
local function hand_over()
  local file = io.open("/proc/sys/net/ipv4/tcp_migrate_req", "w")
  if not file then return end
  file:write "1"
  file:close()
end

-- cache_control: "must-revalidate" has the same configuration loaded again.
local function load(self, text, cache_control)
  hand_over()
  return admin(self, "POST", "/load", text, cache_control)
end

local function down(self, why)
  return driver.down(self, "Caddy doesn't answer on " .. self.socket .. ": " .. why,
    "start it: caddy run --config " .. self.dir .. "/caddy.json")
end

local function refused(self, why)
  return driver.refused(self, "Caddy doesn't serve as configured: " .. why,
    "caddy validate --config " .. self.dir .. "/caddy.json; what it served before goes on")
end

-- Does a request through the front door reach a server with our configuration? Several times,
-- since another Caddy could share the port (SO_REUSEPORT) and get some of the connections.
local function answers(self)
  for _ = 1, 4 do
    local r, why = driver.get(self, config.ID)
    if not r then return false, why end
    if r.status ~= 200 or r.body ~= self.instance then
      return false, ("something else answers on port %d (status %d)"):format(self.http_port,
        r.status)
    end
  end
  return true
end

-- Caddy's current configuration as it prints it, and whether it is ours; nil after down().
local function current(self, wanted)
  local ok, r = pcall(admin, self, "GET", "/config/")
  if not ok then
    if r.code == "cancelled" then error(r, 0) end
    down(self, r.message)
  elseif r.status ~= 200 then
    down(self, "status " .. r.status)
  else
    return r.body, json.encode(json.decode(r.body)) == wanted
  end
end

function Caddy:sync()
  local wanted = json.encode(self:config())
  local before, same = current(self, wanted)
  if not before then return self.state end
  if not same then
    local r = load(self, wanted) -- Caddy keeps the old one if it fails
    if r.status ~= 200 then
      local fine, said = pcall(json.decode, r.body)
      return refused(self, fine and said.error or r.body:sub(1, 300))
    end
  end
  local fine, why = answers(self)
  if fine then return driver.set_state(self, "up") end
  if not same and before:find("^%s*{") then load(self, before) end
  return refused(self, why)
end

-- Looks and changes nothing: a new configuration would cut WebSockets.
function Caddy:check()
  local before, same = current(self, json.encode(self:config()))
  if before and not same then
    refused(self, "it runs another one than " .. self.dir .. "/caddy.json")
  elseif before then
    local fine, why = answers(self)
    if fine then driver.set_state(self, "up") else refused(self, why) end
  end
  return self.state
end

---- certificates ----

-- list: {{name=, bundle=pem}, ...}, the user's own; these and no others. A changed one has another name, since
-- Caddy reads only what its configuration didn't have before. Raises proxy_refused where it went well without.
function Caddy:set_own(list)
  local wanted = {}
  for _, own in ipairs(list) do
    wanted[("%s-%s.pem"):format(own.name:gsub("%*", "_"), crypto.sha256(own.bundle):sub(1, 16))] = own.bundle
  end
  local changed = false
  for _, name in ipairs(own_names(self)) do
    if not wanted[name] then
      changed = true
      fs.remove(self.own .. "/" .. name)
    end
  end
  for name, bundle in pairs(wanted) do
    if not fs.exists(self.own .. "/" .. name) then
      changed = true
      fs.mkdir(self.own, 448)
      local data = fs.stat(self.dir .. "/data")
      fs.chown(self.own, data.uid, data.gid)
      authority.private(self.own .. "/" .. name, bundle)
    end
  end
  if not changed then return end
  self:write_config()
  local before = self.state
  if before ~= "up" and before ~= "refused" then return end
  if self:sync() == "refused" and before == "up" then error(self.problem, 0) end
end

function Caddy:touch(host)
  local address = self.address ~= "" and self.address or "127.0.0.1"
  process.run { argv = { "openssl", "s_client", "-connect", address .. ":" .. self.https_port, "-servername", host },
    stdin = "", timeout_ms = 20000 }
end

-- A configuration in which this host's certificate is due, but one that is a moment younger isn't.
local function due_now(self, host, had)
  local life, age = had.not_after - had.not_before, clock.now() - had.not_before
  self.renewing = { host = host, ratio = math.min(1, 1 - (age - MOMENT) / life) }
end

function Caddy:renew(host, ms)
  local _ <close> = self.turns:hold "renew"
  local had = self.certificates:find(host)
  local _, said = self.certificates:problem(host)
  if not had then err.raise("cert_failed", "Caddy has no certificate of " .. host) end
  due_now(self, host, had)
  local done <close> = setmetatable({}, { __close = function() -- luacheck: ignore
    self.renewing = nil
    self:sync()
  end })
  if self:sync() ~= "up" then error(self.problem, 0) end
  local deadline, why = clock.monotonic() + ms, nil
  repeat
    self:touch(host)
    local has, problem, at = self.certificates:find(host), self.certificates:problem(host)
    if has and has.serial ~= had.serial then return has end
    if at ~= said then why = problem end
    task.sleep(100)
  until why or clock.monotonic() > deadline
  err.raise("cert_failed", ("Caddy got no new certificate of %s: %s"):format(host,
    why or ("the authority gave none in %d s"):format(ms // 1000)), "the one it has is shown on")
end

-- Drops what Caddy has in memory (before 2.7; a later one goes on with it until it is due).
local function reload(self)
  if self.state ~= "up" then return end
  pcall(load, self, json.encode(self:config()), "must-revalidate")
end

function Caddy:remake(host)
  self.certificates:remake(host)
  reload(self)
end

---- what a canary's host answered ----

function Caddy:answers_log() return self.dir .. "/data/answers.log" end

-- A line of it -> host, release, status, seconds. What a client or the app sends can't be taken for one
-- of these fields: a quote in a JSON text has a backslash before it.
function Caddy.answer(_, line)
  return line:match '"host":"([^"]+)"', tonumber(line:match(RELEASE)), tonumber(line:match '"status":(%d+)'),
    tonumber(line:match '"duration":([%d.eE+-]+)')
end

---- routes ----

local function names(dir) return fs.exists(dir) and fs.list(dir) or {} end

-- Not fs.write, whose temporary file Caddy might find first. Nothing is lost with a file that a
-- power cut takes: `replace` makes it again.
local function create(path)
  local file, why = io.open(path, "w")
  if not file then err.raise("fs_io", "can't create " .. path .. ": " .. why) end
  file:close()
end

-- Makes `at` the only file of the host's directory, so that at no moment there is none.
local function point(self, kind, host, at)
  local dir = self.dir .. "/routes/" .. kind .. "/" .. host
  local others = {}
  for _, name in ipairs(names(dir)) do
    if name ~= at then others[#others + 1] = name end
  end
  fs.mkdir(dir, 493)
  if not fs.exists(dir .. "/" .. at) then create(dir .. "/" .. at) end
  if #others > 0 then task.sleep(SETTLE) end -- a request that listed the old one still finds it
  for _, name in ipairs(others) do fs.remove(dir .. "/" .. name) end
end

local function forget(self, kind, host)
  local dir = self.dir .. "/routes/" .. kind .. "/" .. host
  if fs.exists(dir) then fs.remove(dir, { recursive = true }) end
end

-- The name of a canary's file; nil for none.
local function canary_file(c) return c and ("%s-%d-%d"):format(c.at, c.new, c.old) end

-- The certificate is there before the host is.
local function certify(self, host, tls)
  local auto, outdated = self.dir .. "/routes/auto/" .. host, false
  if tls ~= "off" then outdated = self.certificates:ensure(host, tls) end
  if tls == "auto" and not fs.exists(auto) then create(auto) end
  if tls ~= "auto" and fs.exists(auto) then fs.remove(auto) end
  return outdated
end

function Caddy:set(host, at, tls, canary)
  local kind = KINDS[tls]
  local outdated = certify(self, host, tls)
  point(self, kind, host, at)
  if outdated then reload(self) end
  forget(self, kind == "tls" and "plain" or "tls", host)
  if canary then
    point(self, "canary", host, canary_file(canary))
  else
    forget(self, "canary", host)
  end
end

function Caddy:remove(host)
  certify(self, host, "off")
  forget(self, "canary", host)
  forget(self, "plain", host)
  forget(self, "tls", host)
end

function Caddy:list()
  local out = {}
  for tls, kind in pairs { internal = "tls", off = "plain" } do
    local dir = self.dir .. "/routes/" .. kind
    for _, host in ipairs(names(dir)) do
      local auto = tls == "internal" and fs.exists(self.dir .. "/routes/auto/" .. host)
      for _, at in ipairs(names(dir .. "/" .. host)) do
        out[#out + 1] = { host = host, at = at, tls = auto and "auto" or tls,
          canary = names(self.dir .. "/routes/canary/" .. host)[1] }
      end
    end
  end
  return out
end

function Caddy:replace(routes)
  local right = {}
  for _, is in ipairs(self:list()) do
    local wanted = routes[is.host]
    if not wanted then
      self:remove(is.host)
    else -- a host with two files is set anew
      right[is.host] = right[is.host] == nil and is.at == wanted.at and is.tls == wanted.tls
        and is.canary == canary_file(wanted.canary)
    end
  end
  for host, r in pairs(routes) do
    if not right[host] then
      self:set(host, r.at, r.tls, r.canary)
      task.yield() -- 0.1 ms of files each: 10,000 at once would hold the loop for a second
    elseif r.tls ~= "off" then
      certify(self, host, r.tls)
    end
  end
end

return caddy
