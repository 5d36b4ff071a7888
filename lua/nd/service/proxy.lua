-- proxy.lua - which host name goes to which service address, at the edge.
--
-- A route is one empty file that Caddy finds by itself (see caddy.lua); the daemon talks to Caddy
-- only when it starts, and only when Caddy's configuration isn't the one we want. So a deploy
-- reloads nothing, and what is served goes on without the daemon. Caddy is never our child: the
-- quickstart or systemd runs `caddy run --config <state_dir>/proxy/caddy.json`.
--
--   proxy.new{ instance=, state_dir=, run_dir=, http_port=80, https_port=443, address="",
--              on_event=function(kind, data)|nil } -> p
--   p:write_config()           parks; directories and caddy.json, for whoever starts Caddy
--   p:start()                  parks; write_config, then p:sync(); raises only for a full disk etc.
--   p:sync() -> state          parks; gives a running Caddy our configuration where it differs,
--                              and gives it back its own when ours doesn't take
--   p:watch()                  starts a task that keeps looking: a Caddy that comes up later, or again,
--                              is found within 1 s, one that went down within 10 s
--   p.state                    "up" | "down" | "refused" | "unknown" (not looked yet)
--   p.problem                  the error object of a state that isn't up
--   p:require_up()             parks; raises proxy_down or proxy_refused: before a deploy that
--                              needs a host name
--   p:set(host, "ip:port", tls)   parks; tls "internal" | "off"; idempotent
--   p:remove(host)             parks; idempotent
--   p:list() -> {{host=, at=, tls=}, ...}   parks; by host name
--   p:set_all({[host]={at=, tls=}})   parks; these and no others: at start, from the database
--   p:check() -> {{name=, ok=, message=, hint=}, ...}   parks; for `ndctl doctor`
--   proxy.host(text) -> name   lower case, without a final dot; raises bad_host
-- Events: proxy.up, proxy.down{error}, proxy.refused{error}.

local fs = require "fs"
local http = require "http"
local json = require "json"
local task = require "task"
local caddy = require "nd.service.caddy"

local proxy = {}
local Proxy = {}
Proxy.__index = Proxy

local SETTLE = 50    -- ms; longer than Caddy takes from listing a directory to its file's stat
local KINDS = { internal = "tls", off = "plain" }

local function raise(code, message, hint)
  error(task.error { code = code, message = message, hint = hint }, 0)
end

-- RFC 1123 section 2.1, RFC 1035 section 2.3.4.
function proxy.host(text)
  if type(text) ~= "string" or text == "" then
    raise("bad_host", "a host name is missing", "as in shop.example.com")
  end
  local name = text:lower():gsub("%.$", "")
  local shown = #text > 80 and text:sub(1, 80) .. "..." or text
  local function bad(why, hint) raise("bad_host", ("'%s' is no host name: %s"):format(
    shown:gsub("[%c]", "?"), why), hint) end
  if name:find("[\128-\255]") then
    bad("it has letters outside ASCII", "write it in its punycode form, as in "
      .. "xn--bcher-kva.example (`idn2 NAME` prints it)")
  elseif name:find("^%a+://") then
    bad("it is a URL", "give the name alone, without https:// and path")
  elseif name:find("*", 1, true) then
    bad("wildcards are not supported", "name each host")
  elseif name:find(":", 1, true) then
    bad("it has a port", "the proxy listens on its own ports; give the name alone")
  elseif #name > 253 then
    bad("it is longer than 253 characters")
  elseif name:find("^[%d.]+$") then
    bad("it is an address or a number", "give a name that resolves to this host")
  end
  for label in (name .. "."):gmatch("([^.]*)%.") do
    if label == "" then
      bad("a part between dots is empty")
    elseif #label > 63 then
      bad("a part between dots is longer than 63 characters")
    elseif not label:find("^[a-z0-9-]+$") then
      bad("it may have letters, digits, dots and hyphens only")
    elseif label:find("^%-") or label:find("%-$") then
      bad("a part begins or ends with a hyphen")
    end
  end
  return name
end

local function port(value, name)
  if math.type(value) ~= "integer" or value < 1 or value > 65535 then
    raise("bad_config", name .. " must be a port from 1 to 65535")
  end
  return value
end

function proxy.new(o)
  local dir = o.state_dir .. "/proxy"
  return setmetatable({
    dir = dir,
    instance = o.instance,
    address = o.address or "",
    http_port = port(o.http_port or 80, "http_port"),
    https_port = port(o.https_port or 443, "https_port"),
    socket = o.run_dir .. "/caddy.sock",
    on_event = o.on_event or function() end,
    state = "unknown",
  }, Proxy)
end

---- Caddy's configuration ----

function Proxy:config()
  return caddy.config { instance = self.instance, routes = self.dir .. "/routes",
    data = self.dir .. "/data", socket = self.socket, address = self.address,
    http_port = self.http_port, https_port = self.https_port }
end

function Proxy:write_config()
  fs.mkdir(self.dir .. "/routes/plain", 493) -- 0755: Caddy may run as a user of its own
  fs.mkdir(self.dir .. "/routes/tls", 493)
  fs.write(self.dir .. "/caddy.json", json.encode(self:config(), true) .. "\n", 420) -- 0644
end

-- The admin interface compares the Host header with `origins` in our configuration.
local function admin(self, method, path, body)
  return http.request { url = "http://nextdeploy" .. path, unix = self.socket, method = method,
    headers = { ["Content-Type"] = body and "application/json" or nil }, body = body,
    timeout_ms = 10000, connect_timeout_ms = 1000 }
end

local function set_state(self, state, problem)
  if self.state ~= state then
    self.on_event("proxy." .. state, { error = problem })
  end
  self.state, self.problem = state, problem
  return state
end

local function down(self, why)
  return set_state(self, "down", task.error {
    code = "proxy_down",
    message = "Caddy doesn't answer on " .. self.socket .. ": " .. why,
    hint = "start it: caddy run --config " .. self.dir .. "/caddy.json",
  })
end

local function refused(self, why)
  return set_state(self, "refused", task.error {
    code = "proxy_refused",
    message = "Caddy doesn't serve as configured: " .. why,
    hint = "caddy validate --config " .. self.dir .. "/caddy.json; what it served before goes on",
  })
end

-- Does a request through the front door reach a server with our configuration? Several times,
-- since another Caddy could share the port (SO_REUSEPORT) and get some of the connections.
local function answers(self)
  local host = self.address ~= "" and self.address or "127.0.0.1"
  for _ = 1, 4 do
    local ok, r = pcall(http.request, {
      url = ("http://%s:%d%s"):format(host, self.http_port, caddy.ID),
      headers = { Connection = "close" }, timeout_ms = 3000, connect_timeout_ms = 1000 })
    if not ok then
      if r.code == "cancelled" then error(r, 0) end
      return false, r.message
    end
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

function Proxy:sync()
  local wanted = json.encode(self:config())
  local before, same = current(self, wanted)
  if not before then return self.state end
  if not same then
    local r = admin(self, "POST", "/load", wanted) -- Caddy keeps the old one if it fails
    if r.status ~= 200 then
      local fine, said = pcall(json.decode, r.body)
      return refused(self, fine and said.error or r.body:sub(1, 300))
    end
  end
  local fine, why = answers(self)
  if fine then return set_state(self, "up") end
  if not same and before:find("^%s*{") then admin(self, "POST", "/load", before) end
  return refused(self, why)
end

function Proxy:start()
  self:write_config()
  return self:sync()
end

-- One that refused its configuration isn't given it again, only looked at: each try might close the
-- WebSockets it has (Caddy before 2.7).
function Proxy:watch()
  task.spawn("proxy", function()
    while true do
      task.sleep(self.state == "up" and 10000 or 1000)
      local ok, e = pcall(self.state == "refused" and self.check or self.sync, self)
      if not ok and e.code == "cancelled" then return end
    end
  end)
end

function Proxy:require_up()
  if self.state == "up" and answers(self) then return end
  if self:sync() ~= "up" then error(self.problem, 0) end
end

---- routes ----

local function names(dir) return fs.exists(dir) and fs.list(dir) or {} end

-- Not fs.write, whose temporary file Caddy might find first. Nothing is lost with a file that a
-- power cut takes: set_all makes it again.
local function create(path)
  local file, why = io.open(path, "w")
  if not file then raise("fs_io", "can't create " .. path .. ": " .. why) end
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

function Proxy:set(host, at, tls)
  local kind = KINDS[tls or "off"]
  if not kind then
    raise("bad_tls", ("tls = '%s' is not known"):format(tostring(tls)), "internal or off")
  end
  if not tostring(at):find("^%d+%.%d+%.%d+%.%d+:%d+$") then
    raise("bad_target", tostring(at) .. " is no address and port to send a host to")
  end
  host = proxy.host(host)
  point(self, kind, host, at)
  forget(self, kind == "tls" and "plain" or "tls", host)
end

function Proxy:remove(host)
  host = proxy.host(host)
  forget(self, "plain", host)
  forget(self, "tls", host)
end

function Proxy:list()
  local out = {}
  for tls, kind in pairs(KINDS) do
    local dir = self.dir .. "/routes/" .. kind
    for _, host in ipairs(names(dir)) do
      local at = names(dir .. "/" .. host)[1]
      if at then out[#out + 1] = { host = host, at = at, tls = tls } end
    end
  end
  table.sort(out, function(a, b) return a.host < b.host end)
  return out
end

function Proxy:set_all(routes)
  for host, r in pairs(routes) do self:set(host, r.at, r.tls) end
  for _, r in ipairs(self:list()) do
    if not routes[r.host] then self:remove(r.host) end
  end
end

-- Looks and changes nothing: a new configuration would cut WebSockets.
function Proxy:check()
  local before, same = current(self, json.encode(self:config()))
  if before and not same then
    refused(self, "it runs another one than " .. self.dir .. "/caddy.json")
  elseif before then
    local fine, why = answers(self)
    if fine then set_state(self, "up") else refused(self, why) end
  end
  return { {
    name = "proxy", ok = self.state == "up",
    message = self.problem and self.problem.message
      or ("Caddy serves port %d and %d"):format(self.http_port, self.https_port),
    hint = self.problem and self.problem.hint,
  } }
end

return proxy
