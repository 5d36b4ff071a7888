-- The HTTP API: routes are rows, from which matching, permissions, checks of what comes in and
-- /openapi.json all follow. A file per resource adds its rows.
--
--   {method, path with {names}, id, summary, doc,
--    permission = one of lua/nd/permission.lua's, or "none" (anybody) or "self" (anybody who is known),
--    about = where its app is named (about.lua), own = true: the signed-in may ask about what is their own,
--    query = {name = schema}, header = {Name = schema}, needs = name of the query parameter that must be
--    there, body = schema, payload = schema, status = {codes it answers when done; 200}, fails = {codes of
--    its errors beyond the usual ones}, before = function(c): raises what is certain to be refused, before it is
--    audited as asked for; handler = function(c) -> payload, message, status}
--   method "WS" is a WebSocket: handler(c) -> function(ws), frames = schema of a frame; asked without
--   an upgrade it answers `list(c)` -> payload. method "ANY" takes every method. audit = true: it is
--   audited though it changes nothing, false: though it isn't a GET it is not. raw = true: the
--   handler makes the whole answer. also = {media type = schema}: other forms; the handler that
--   chooses one sets c.raw.
-- c: {d, route, path = {names}, query, body, user (who.lua), request, sees(app)}; query.seen: the apps that the
-- user sees, where not all, as permission.where has them. Handlers raise errors; the
-- envelope {success, message, payload} is made here. Every GET answers HEAD too, every path OPTIONS.

local json = require "json"
local log = require "log"
local about = require "nd.api.about"
local door = require "nd.api.door"
local err = require "nd.error"
local permission = require "nd.permission"
local schema = require "nd.api.schema"
local who = require "nd.service.who"

-- Bytes of a body that anybody may send; the server (io/http_server.h) takes no more over TCP without a token.
local UNKNOWN_MOST = 64 * 1024

local M = { routes = {} }
local none = {}
local fixed = {}     -- path -> its routes, where the path has no names
local patterned = {} -- the others

require "nd.api.shapes"

local function add(tag)
  for _, route in ipairs(require("nd.api." .. tag)) do
    permission.check_route(route)
    M.routes[#M.routes + 1] = route
    local names = {}
    local pattern = route.path:gsub("[%-.]", "%%%0"):gsub("{(%w+)}", function(name)
      names[#names + 1] = name
      return "([^/]+)"
    end)
    route.tag, route.pattern, route.names = tag, "^" .. pattern .. "$", names
    route.takes = (route.method == "GET" or route.method == "WS") and { GET = true, HEAD = true }
      or { [route.method] = true }
    if #names > 0 then
      patterned[#patterned + 1] = route
    else
      fixed[route.path] = fixed[route.path] or {}
      table.insert(fixed[route.path], route)
    end
  end
end

for _, tag in ipairs { "deploy", "apps", "runs", "jobs", "recipes", "host", "metrics", "sessions", "people",
  "tokens", "registries", "secrets", "certs", "proxy", "exec", "streams", "logs", "audit", "openapi" } do
  add(tag)
end

-- ---- answers ----

-- What every answer says; `server` comes with the daemon.
local usual = { ["content-type"] = "application/json" }

local function with_usual(headers)
  for name, value in pairs(usual) do headers[name] = value end
  return headers
end

local function failure(e, c)
  if e.traceback then
    log.error("API: " .. e.traceback)
    e = { code = "internal", message = "the daemon met an error it did not expect: " .. e.message,
      hint = "this is a bug; its log has the details" }
  end
  local headers = with_usual(c.headers or {})
  local status, data = e.http or err.status(e.code), type(e.data) == "table" and e.data or none
  if status == 401 then headers["www-authenticate"] = "Bearer" end
  if math.type(data.retry_after) then headers["retry-after"] = tostring(data.retry_after) end
  if status == 405 then headers.allow = data.allow end
  return { status = status, headers = headers, body = json.encode {
    success = false, message = e.message, code = e.code, hint = e.hint, payload = e.data } }
end

-- ---- dispatch ----

local function takes(route, request)
  if route.method == "ANY" then return not request.websocket end
  if route.method == "WS" and request.websocket then return true end
  if request.websocket or route.method == "WS" and not route.list then return false end
  return route.takes[request.method]
end

-- -> the route that takes the request, and the names in its path.
local function match(request)
  for _, route in ipairs(fixed[request.path] or none) do
    if takes(route, request) then return route, none end
  end
  for _, route in ipairs(patterned) do
    local values = table.pack(request.path:match(route.pattern))
    if values[1] and takes(route, request) then
      local path = {}
      for i, name in ipairs(route.names) do path[name] = values[i] end
      return route, path
    end
  end
end

-- What a path takes, as Allow lists it.
local function allowed(request)
  local methods = { "OPTIONS" }
  for _, route in ipairs(M.routes) do
    if request.path:find(route.pattern) then
      for method in pairs(route.takes) do methods[#methods + 1] = method end
    end
  end
  if #methods == 1 then
    err.raise("not_found", ("there is nothing at %s"):format(request.path), "GET /openapi.json lists all routes")
  end
  table.sort(methods)
  return table.concat(methods, ", ")
end

local function refuse_method(request, methods)
  if request.websocket then
    err.raise("bad_request", ("%s is no WebSocket"):format(request.path),
      "the WebSockets are /ws/events, /ws/exec, /ws/logs and /ws/metrics")
  end
  err.raise("method_not_allowed", ("%s can't be asked with %s"):format(request.path, request.method),
    "it takes " .. methods, { allow = methods })
end

local function read_body(route, request)
  if not route.body then return nil end
  if request.body == "" then
    err.raise("bad_request", "the request needs a JSON body", "GET /openapi.json describes it")
  end
  if route.permission == "none" and #request.body > UNKNOWN_MOST then
    err.raise("body_too_large", ("the body is larger than %d bytes"):format(UNKNOWN_MOST), "send a smaller one")
  end
  local body = json.decode(request.body)
  schema.check(route.body, body)
  return body
end

local function query_of(route, request)
  local query = schema.query(route.query or none, request.query)
  if route.needs and not query[route.needs] then
    err.raise("bad_request", ("query: the parameter '%s' is missing"):format(route.needs),
      ("as in %s?%s=..."):format(route.path, route.needs))
  end
  return query
end

-- Nothing is changed before what was under way when the daemon ended goes on. Looking is possible.
local function await_recovery(d, request)
  while d.recovering and request.method ~= "GET" and request.method ~= "HEAD" do d.recovering:wait(1000) end
end

-- Fills in c as far as it comes. -> the answer
local function handle(c)
  local d, request = c.d, c.request
  if request.peer.kind ~= "unix" then door.check(request) end
  local user, why = who.of(d, request)
  c.user = user
  local route, path = match(request)
  if not route then
    local methods = allowed(request)
    if request.method ~= "OPTIONS" then refuse_method(request, methods) end
    return { status = 204, headers = { allow = methods, server = usual.server } }
  end
  c.route, c.path = route, path
  about.ask(route, c.user, why)
  await_recovery(d, request)
  c.query, c.body = query_of(route, request), read_body(route, request)
  about.check(route, c)
  about.narrow(c)
  if route.before then route.before(c) end
  if d.audit then d.audit:asks(c) end
  if request.websocket then return { upgrade = about.guarded(c, route.handler(c)) } end
  local payload, message, status = (route.list or route.handler)(c)
  c.payload = payload
  if route.raw or c.raw then return payload end
  return { status = status, headers = c.headers and with_usual(c.headers) or usual, body = json.encode {
    success = true, message = message or "ok", payload = payload } }
end

-- The server's handler.
function M.handler(d)
  if d.options.test_endpoints then add "test" end
  usual.server = "nextdeployd/" .. d.version
  return function(request)
    local c, e = { d = d, request = request }, nil
    local ok, answer = pcall(handle, c)
    if not ok then e = err.from(answer) end
    if e and c.user and not c.user.full then about.discreet(e) end
    if d.audit then e = d.audit:answers(c, e) end
    if e then answer = failure(e, c) end
    d.metrics.requests:add(1, c.route and c.route.id or "none", answer.status or answer.upgrade and 101 or 200)
    return answer
  end
end

return M
