-- /openapi.json, made from the routes.

local json = require "json"
local s = require "nd.api.schema"

local function envelope(payload)
  return s.object({ success = s.boolean, message = s.text, payload = payload },
    { "success", "message", "payload" })
end

local function content(schema) return { ["application/json"] = { schema = schema } } end

local function parameters(route)
  local list = json.array {}
  for _, name in ipairs(route.names) do
    list[#list + 1] = { name = name, ["in"] = "path", required = true, schema = s.text }
  end
  local names = {}
  for name in pairs(route.query or {}) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    list[#list + 1] = { name = name, ["in"] = "query", schema = route.query[name] }
  end
  return list
end

local function operation(route)
  local responses = { default = { description = "An error: code, message and hint",
    content = content(s.ref "Error") } }
  for _, code in ipairs(route.status or { 200 }) do
    responses[tostring(code)] = { description = code == 202 and "Under way" or "Done",
      content = content(route.raw and {} or envelope(route.payload)) }
  end
  if route.method == "WS" then
    responses = { ["101"] = { description = "The WebSocket is open" }, default = responses.default }
  end
  return {
    operationId = route.id, summary = route.summary, parameters = parameters(route),
    tags = json.array { route.path:match "^/(%w+)" },
    requestBody = route.body and { required = true, content = content(route.body) },
    responses = responses,
    security = route.permission == "none" and json.array {} or json.array { { token = json.array {} } },
  }
end

local function document(c)
  local paths, tags, seen = {}, json.array {}, {}
  for _, route in ipairs(require("nd.api").routes) do
    local at = paths[route.path] or {}
    paths[route.path] = at
    at[(route.method == "WS" and "GET" or route.method):lower()] = operation(route)
    local tag = route.path:match "^/(%w+)"
    if not seen[tag] then
      seen[tag] = true
      tags[#tags + 1] = { name = tag, description = "Routes below /" .. tag }
    end
  end
  local body = {
    openapi = "3.0.3",
    info = { title = "NextDeploy", version = c.d.version,
      description = "Deploys containers on a host you own. Every answer is {success, message, payload}; "
        .. "an error adds code and hint.", license = { name = "Apache-2.0",
        url = "https://www.apache.org/licenses/LICENSE-2.0" } },
    servers = json.array { { url = "http://127.0.0.1:8371" } }, tags = tags, paths = paths,
    components = { schemas = s.components, securitySchemes = {
      token = { type = "http", scheme = "bearer" } } },
  }
  return { status = 200, headers = { ["content-type"] = "application/json" }, body = json.encode(body) }
end

return {
  { method = "GET", path = "/openapi.json", id = "openapi", permission = "none", raw = true,
    summary = "This description.", handler = document },
}
