-- The HTTP API: routes are rows, from which matching, permissions, checks of what comes in and
-- /openapi.json all follow. A file per resource adds its rows.
--
--   {method, path with {names}, id, summary, permission = "none"|"read"|"deploy"|"admin",
--    query = {name = schema}, body = schema, payload = schema, status = {codes it may answer},
--    handler = function(c) -> payload, message}
-- c: {d, path = {names}, query, body, user = {name, role}, request}. Handlers raise errors; the
-- envelope {success, message, payload} is made here.

local crypto = require "crypto"
local json = require "json"
local log = require "log"
local err = require "nd.error"
local schema = require "nd.api.schema"

local M = { routes = {} }

local may = {
  admin = { none = true, read = true, deploy = true, admin = true },
  deployer = { none = true, read = true, deploy = true },
  viewer = { none = true, read = true },
}
M.roles = may

for _, resource in ipairs { "deploy", "apps", "runs", "recipes", "host", "tokens", "streams", "openapi" } do
  for _, route in ipairs(require("nd.api." .. resource)) do
    M.routes[#M.routes + 1] = route
    local names = {}
    local pattern = route.path:gsub("[%-.]", "%%%0"):gsub("{(%w+)}", function(name)
      names[#names + 1] = name
      return "([^/]+)"
    end)
    route.pattern, route.names = "^" .. pattern .. "$", names
  end
end

-- ---- who is it ----

local function reply(status, body, headers)
  headers = headers or {}
  headers["content-type"] = "application/json"
  headers["cache-control"] = "no-store"
  headers["x-content-type-options"] = "nosniff"
  return { status = status, headers = headers, body = json.encode(body) }
end

local function failure(e, payload)
  if e.traceback then
    log.error("API: " .. e.traceback)
    e = { code = "internal", message = "the daemon met an error it did not expect: " .. e.message,
      hint = "this is a bug; its log has the details" }
  end
  local body = { success = false, message = e.message, code = e.code, hint = e.hint,
    payload = payload or e.data }
  local headers = e.code == "unauthorized" and { ["www-authenticate"] = "Bearer" } or {}
  if e.code == "method_not_allowed" then headers.allow = e.data.allow end
  return reply(err.status(e.code), body, headers)
end

-- A web page on the same machine is a stranger: it can't send our token, and mustn't guess at us.
local function check_browser(request)
  local host = (request.headers.host or ""):gsub(":%d+$", "")
  if request.headers.origin and request.headers.origin ~= "http://" .. (request.headers.host or "") then
    err.raise("forbidden", "requests from web pages of other origins are refused",
      "use ndctl, or send no Origin header")
  end
  if host ~= "" and not host:match "^[%d.]+$" and host ~= "localhost" and not host:match "^%[" then
    err.raise("forbidden", ("the host name %q is not this daemon's"):format(host),
      "address it as 127.0.0.1 or localhost")
  end
end

local function user_of(d, request)
  if request.peer.kind == "unix" then
    return { name = "uid " .. request.peer.uid, role = "admin" }
  end
  check_browser(request)
  local token = (request.headers.authorization or ""):match "^[Bb]earer +(%S+)$"
  if not token then return nil end
  local row = d.store:get("SELECT name, role FROM token WHERE hash = ?", crypto.sha256(token))
  return row and { name = row.name, role = row.role }
end

-- ---- dispatch ----

local function match(request)
  local allowed = {}
  for _, route in ipairs(M.routes) do
    local values = table.pack(request.path:match(route.pattern))
    if values[1] then
      if route.method == request.method or route.method == "WS" and request.websocket then
        local path = {}
        for i, name in ipairs(route.names) do path[name] = values[i] end
        return route, path
      end
      allowed[#allowed + 1] = route.method == "WS" and "GET" or route.method
    end
  end
  if #allowed > 0 then
    err.raise("method_not_allowed", ("%s can't be asked with %s"):format(request.path, request.method),
      "it takes " .. table.concat(allowed, ", "), { allow = table.concat(allowed, ", ") })
  end
  err.raise("not_found", ("there is nothing at %s"):format(request.path), "GET /openapi.json lists all routes")
end

local function read_body(route, request)
  if not route.body then return nil end
  if request.body == "" then
    if route.body.required then err.raise("bad_request", "the request needs a JSON body") end
    return {}
  end
  local body = json.decode(request.body)
  schema.check(route.body, body)
  return body
end

local function handle(d, request)
  local user = user_of(d, request)
  local route, path = match(request)
  if route.permission ~= "none" and not user then
    err.raise("unauthorized", "this needs a token", "`ndctl token create --name NAME` makes one; "
      .. "send it as Authorization: Bearer TOKEN")
  end
  if user and not may[user.role][route.permission] then
    err.raise("forbidden", ("the role %s may not do this; it needs the permission '%s'"):format(
      user.role, route.permission), "ask an admin for another role")
  end
  local c = { d = d, path = path, user = user, request = request,
    query = schema.query(route.query or {}, request.query), body = read_body(route, request) }
  if route.method == "WS" then return { upgrade = route.handler(c) } end
  local payload, message, status = route.handler(c)
  if route.raw then return payload end
  return reply(status or 200, { success = true, message = message or "ok", payload = payload })
end

-- The server's handler.
function M.handler(d)
  return function(request)
    local ok, answer = pcall(handle, d, request)
    if ok then return answer end
    local e = err.from(answer)
    return failure(e, e.payload)
  end
end

return M
