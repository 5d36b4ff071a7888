-- lib/client.lua - the daemon's API, seen from ndctl.
--
-- `client.new(options)` connects to nothing yet: it settles which daemon is meant (lib/contexts.lua);
-- `call` sends a request and returns the envelope's payload, or raises the error that the envelope
-- names. A daemon that can't be reached, refuses the socket or hangs is one of `unreachable` and
-- `not_allowed`, with a hint that fits.

local fail = require "ndctl.lib.fail"
local json = require "json"
local term = require "term"

local client = {}

local PAGE = 500 -- apps that are asked for at once

local Client = {}
Client.__index = Client

-- ADDRESS[:PORT] of this machine, where nobody listens in on the way.
local function is_loopback(rest)
  local name = rest:match "^%[(.*)%]" or rest:match "^[^:]*"
  return name == "::1" or name == "localhost" or name:find "^127%.%d+%.%d+%.%d+$" ~= nil
end

-- Beyond this machine a password or a token goes by TLS or not at all.
local function parse_host(host)
  local path = host:match("^unix:(/.*)$")
  if path then
    return { host = host, unix = (path:gsub("^//+", "/")), base = "http://localhost",
      ws_base = "ws://localhost" }
  end
  if host:sub(1, 1) == "/" then return parse_host("unix:" .. host) end
  if not host:find("://", 1, true) and host:find(":%d+$") then
    host = (is_loopback(host) and "http://" or "https://") .. host
  end
  local scheme, rest = host:match("^(https?)://([^/?#%s]+)/?$")
  if not scheme then
    fail.usage(("'%s' isn't an address of a daemon"):format(host),
      "write unix:///PATH, https://ADDRESS:PORT or http://127.0.0.1:PORT")
  elseif scheme == "http" and not is_loopback(rest) then
    fail.usage(("%s would have everybody on the way read what is sent"):format(host),
      ("beyond loopback the daemon speaks TLS: https://%s"):format(rest))
  end
  return { host = host, base = scheme .. "://" .. rest,
    ws_base = (scheme == "https" and "wss://" or "ws://") .. rest }
end

client.parse_host = parse_host

function client.new(options)
  local chosen = require("ndctl.lib.contexts").choose(options)
  local self = setmetatable(parse_host(chosen.host), Client)
  self.token, self.session, self.trust = chosen.token, chosen.session, chosen.trust
  self.project, self.environment = chosen.project, chosen.environment
  return self
end

-- To this host, without a token.
function client.to(host, trust)
  local self = setmetatable(parse_host(host), Client)
  self.trust = trust
  return self
end

local function escape(s)
  return (tostring(s):gsub("[^%w%-._~]", function(c) return ("%%%02X"):format(c:byte()) end))
end
client.escape = escape

-- "/runs?app=x" from a path and a table; nil and false members are left out.
function client.target(path, query)
  local parts = {}
  for name, value in pairs(query or {}) do
    if value ~= false then parts[#parts + 1] = escape(name) .. "=" .. escape(value) end
  end
  table.sort(parts)
  return #parts > 0 and path .. "?" .. table.concat(parts, "&") or path
end

-- Adds the project and the environment, where they were named, to a body or a query.
function Client:scoped(t)
  t.project, t.environment = t.project or self.project, t.environment or self.environment
  return t
end

function Client:headers(more)
  local headers = more or {}
  headers["user-agent"] = "ndctl/" .. term.version
  if self.session then self.token = require("ndctl.lib.session").token(self.session, self.trust, self.stale) end
  if self.token then headers["authorization"] = "Bearer " .. self.token end
  return headers
end

-- Turns an error of the connection into what a person can act on.
function Client:unreachable(err)
  local why = err.message or tostring(err)
  if self.unix then
    local ok, reason = term.access(self.unix)
    if not ok and reason == "denied" then
      return fail.new("not_allowed", ("you may not use %s"):format(self.unix),
        "run it with sudo, or join the group: sudo usermod -aG nextdeploy $USER, and log in again")
    elseif not ok then
      return fail.new("unreachable", ("no daemon listens on %s: there is no such socket")
        :format(self.unix),
        "start it with systemctl start nextdeployd, or name another with --host or NDCTL_HOST")
    end
  end
  if err.code == "http_tls" or err.code == "ws_tls" then
    return fail.new("unreachable", ("no secure connection to the daemon at %s: %s"):format(self.host, why),
      "its log says its pin: --pin sha256//..., or --ca FILE; a certificate of yours goes into the context")
  end
  local hint = self.unix and "is nextdeployd running? systemctl status nextdeployd"
    or "check the address, and that nextdeployd listens there (--listen)"
  return fail.new("unreachable", ("can't reach the daemon at %s: %s"):format(self.host, why), hint)
end

-- One release apart is fine; further apart is said, once.
function Client:check_skew(answer)
  local theirs = (answer.headers.server or ""):match("^nextdeployd/([%d.]+)")
  if not theirs or self.skew_checked then return end
  self.skew_checked = true
  local major, minor = theirs:match("^(%d+)%.(%d+)")
  local own_major, own_minor = term.version:match("^(%d+)%.(%d+)")
  if major and (major ~= own_major or math.abs(minor - own_minor) > 1) then
    require("ndctl.lib.out").note(("Note: this is ndctl %s and the daemon is %s; more than one "
      .. "release apart, they may misunderstand each other."):format(term.version, theirs))
  end
end

local transport = { http_connect = true, http_dns = true, http_tls = true, http_timeout = true }

function Client:request(method, path, options)
  options = options or {}
  local body, headers = options.body and json.encode(options.body) or nil, options.headers or {}
  if body then headers["content-type"] = "application/json" end
  local ok, answer = pcall(require("http").request, {
    url = self.base .. client.target(path, options.query), unix = self.unix, method = method,
    headers = self:headers(headers),
    body = body, timeout_ms = options.timeout_ms or 60000,
    connect_timeout_ms = options.connect_timeout_ms or 5000,
    max_bytes = 64 * 1024 * 1024,
    ca = self.trust.ca, pin = self.trust.pin, cert = self.trust.cert, key = self.trust.key,
  })
  if ok then
    self:check_skew(answer)
    if answer.status == 401 and self.session and not self.stale then -- it had another clock, or key
      self.stale = self.token
      return self:request(method, path, options)
    end
    return answer
  end
  local err = answer
  if type(err) ~= "table" then error(err, 0) end
  if transport[err.code] then error(self:unreachable(err), 0) end
  if err.code and err.code:find("^http_") then
    fail.raise("lost", ("the daemon at %s broke off its answer: %s"):format(self.host,
      err.message), self.base:find "^http://" and not self.unix and "beyond loopback it speaks TLS: is it https://"
        .. self.base:sub(8) .. "?" or "ndctl runs list shows what it is doing")
  end
  error(err, 0)
end

local function raise_answer(self, answer, envelope)
  local err = fail.new(envelope.code or "http_" .. answer.status, envelope.message
    or ("the daemon answered %d"):format(answer.status), envelope.hint)
  err.http, err.envelope = answer.status, envelope
  if type(envelope.payload) == "table" then
    err.payload, err.data = envelope.payload, envelope.payload.data
  end
  if answer.status == 401 then
    err.hint = self.session and envelope.hint
      or self.token and (envelope.hint or "this daemon doesn't know the token that was given")
      or "give a token with --token or NDCTL_TOKEN; on the daemon's host, "
        .. "`ndctl token create --name NAME` makes one"
  end
  error(err, 0)
end

-- Returns the payload, the envelope and the HTTP status; raises every error.
-- options: query, body (tables), timeout_ms, connect_timeout_ms.
function Client:call(method, path, options)
  local answer = self:request(method, path, options)
  local ok, envelope = pcall(json.decode, answer.body or "")
  if not ok or type(envelope) ~= "table" then
    fail.raise("bad_answer", ("%s %s at %s answered %d without JSON"):format(method, path,
      self.host, answer.status), "is that a nextdeployd of about this version?")
  end
  if answer.status >= 400 or envelope.success == false then raise_answer(self, answer, envelope) end
  -- /openapi.json, alone, has no envelope.
  if envelope.success == nil then return envelope, envelope, answer.status end
  return envelope.payload, envelope, answer.status
end

-- All apps, or those of the project and environment that were named, page by page.
function Client:apps(path, tag)
  local all, last = json.array {}, nil
  repeat
    local page = self:call("GET", path or "/status", { query = self:scoped { tag = tag, limit = PAGE,
      after = last and ("%s/%s/%s"):format(last.project, last.environment, last.app_name) } })
    table.move(page, 1, #page, #all + 1, all)
    last = page[#page]
  until #page < PAGE
  return all
end

-- What a refused WebSocket said is an answer like any other.
function Client:refused(err)
  local data = err.data or {}
  local ok, envelope = pcall(json.decode, data.body or "")
  if ok and type(envelope) == "table" and data.status then
    raise_answer(self, data, envelope)
  end
  error(err, 0)
end

-- Opens a WebSocket; raises as `call` does.
function Client:websocket(path, query)
  local target = client.target(path, query)
  local options = { headers = self:headers(), timeout_ms = 5000 }
  if self.unix then
    options.unix, options.path = self.unix, target
  else
    options.url = self.ws_base .. target
    for name, value in pairs(self.trust) do options[name] = value end
  end
  local ok, ws = pcall(require("ws").connect, options)
  if ok then return ws end
  if type(ws) ~= "table" or ws.code == "cancelled" then error(ws, 0) end
  if ws.code == "ws_refused" then self:refused(ws) end
  error(self:unreachable(ws), 0)
end

-- Receives one message and decodes it. Returns a list of frames; nil and the close code when the
-- connection ended; an empty list when `timeout_ms` passed without one.
function client.receive(ws, timeout_ms)
  local ok, data, code = pcall(ws.recv, ws, timeout_ms)
  if not ok then
    local err = data
    if type(err) == "table" and err.code == "timeout" then return {} end
    if type(err) ~= "table" or err.code == "cancelled" then error(err, 0) end
    return nil
  end
  if data == nil then return nil, code end
  local frames = json.decode(data)
  if json.is_array(frames) then return frames end
  return { frames }
end

return client
