-- caddy.lua - Caddy as the proxy: a route is one empty file that it finds by itself.
--
-- What Caddy is told, and what the files mean, is in caddy_config.lua. The daemon talks to Caddy only
-- when it starts, and only when Caddy's configuration isn't the one we want. So neither a deploy nor a
-- new host name reloads anything, and what is served goes on without the daemon. Caddy is never our
-- child: the quickstart or systemd runs `caddy run --config <state_dir>/proxy/caddy.json`.
--
--   caddy.new{ instance=, dir=, marks=, socket=, http_port=, https_port=, address="", on_event= }
--   The rest is what proxy.lua asks of a driver.

local fs = require "fs"
local http = require "http"
local json = require "json"
local task = require "task"
local err = require "nd.error"
local config = require "nd.service.proxy.caddy_config"
local driver = require "nd.service.proxy.driver"

local caddy = {}
local Caddy = {}
Caddy.__index = Caddy

local SETTLE = 50    -- ms; longer than Caddy takes from listing a directory to its file's stat
local RELEASE = '"' .. config.RELEASE:gsub("%-", "%%-") .. '":%["(%d+)"'
local KINDS = { internal = "tls", off = "plain" }

function caddy.new(o)
  o.name, o.state = "caddy", "unknown"
  return setmetatable(o, Caddy)
end

---- Caddy's configuration ----

function Caddy:config()
  return config.config { instance = self.instance, routes = self.dir .. "/routes",
    marks = self.marks, data = self.dir .. "/data", socket = self.socket, address = self.address,
    http_port = self.http_port, https_port = self.https_port }
end

function Caddy:write_config()
  fs.mkdir(self.dir .. "/routes/plain", 493) -- 0755: Caddy may run as a user of its own
  fs.mkdir(self.dir .. "/routes/tls", 493)
  fs.mkdir(self.dir .. "/routes/canary", 493)
  fs.write(self.dir .. "/caddy.json", json.encode(self:config(), true) .. "\n", 420) -- 0644
end

-- The admin interface compares the Host header with `origins` in our configuration.
local function admin(self, method, path, body)
  return http.request { url = "http://nextdeploy" .. path, unix = self.socket, method = method,
    headers = { ["Content-Type"] = body and "application/json" or nil }, body = body,
    timeout_ms = 10000, connect_timeout_ms = 1000 }
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
    local r = admin(self, "POST", "/load", wanted) -- Caddy keeps the old one if it fails
    if r.status ~= 200 then
      local fine, said = pcall(json.decode, r.body)
      return refused(self, fine and said.error or r.body:sub(1, 300))
    end
  end
  local fine, why = answers(self)
  if fine then return driver.set_state(self, "up") end
  if not same and before:find("^%s*{") then admin(self, "POST", "/load", before) end
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

function Caddy:set(host, at, tls, canary)
  local kind = KINDS[tls]
  point(self, kind, host, at)
  forget(self, kind == "tls" and "plain" or "tls", host)
  if canary then
    point(self, "canary", host, canary_file(canary))
  else
    forget(self, "canary", host)
  end
end

function Caddy:remove(host)
  forget(self, "canary", host)
  forget(self, "plain", host)
  forget(self, "tls", host)
end

function Caddy:list()
  local out = {}
  for tls, kind in pairs(KINDS) do
    local dir = self.dir .. "/routes/" .. kind
    for _, host in ipairs(names(dir)) do
      for _, at in ipairs(names(dir .. "/" .. host)) do
        out[#out + 1] = { host = host, at = at, tls = tls,
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
    end
  end
end

return caddy
