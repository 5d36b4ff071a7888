-- /openapi.json, made from the routes.

local json = require "json"
local s = require "nd.api.schema"
local Audit = require "nd.service.audit"

-- What any answer may be, by status. A route names those it can give beyond the usual ones.
local errors = {
  [400] = { "BadRequest", "The request is malformed, or says something that can't be.",
    { code = "bad_request", message = "$: there is no field 'imag'", hint = "did you mean 'image'?" } },
  [401] = { "Unauthorized", "There is no token, or not one that this daemon knows.",
    { code = "unauthorized", message = "this needs a token", hint = "`ndctl token create --name NAME` makes one" } },
  [403] = { "Forbidden", "The token's role may not do this, or a web page asked.",
    { code = "forbidden", message = "the role viewer may not do this; it needs the permission 'deploy'",
      hint = "ask an admin for another role" } },
  [404] = { "NotFound", "No such app, run, recipe, release, image or token.",
    { code = "app_not_found", message = "there is no app 'mapp' in default/production",
      hint = "did you mean 'myapp'? `ndctl ps` lists all apps" } },
  [406] = { "NotAcceptable", "There is no form of it that the Accept header allows.",
    { code = "not_acceptable", message = "metrics come as application/json or text/plain",
      hint = "send an Accept header that allows one of them, or none" } },
  [409] = { "Conflict", "Another run is live, another app owns the host name, or it is too late.",
    { code = "host_taken", message = "the host myapp.com belongs to the app 'myapp' in default/production",
      hint = "give 'other' another domain, or `ndctl destroy myapp` first" } },
  [413] = { "TooLarge", "The body is larger than 4 MiB; without a token, than 64 KiB.",
    { code = "body_too_large", message = "the request's body is larger than this server takes",
      hint = "Send a smaller body." } },
  [422] = { "Failed", "The run that was waited for failed; the payload says how things stand.",
    { code = "unhealthy", message = "release 2 is not healthy: connection refused",
      hint = "`ndctl runs show 06fcsxwd3a`" } },
  [429] = { "TooManyGuesses", "Too many wrong guesses came from this address; Retry-After says when to try again.",
    { code = "too_many_guesses", message = "too many wrong guesses came from this address; try again in 58 s",
      hint = "the unix socket on the daemon's host is never limited" } },
  [502] = { "BadGateway", "Docker or the proxy can't be reached, or refused.",
    { code = "docker_unreachable", message = "cannot connect to Docker at /var/run/docker.sock",
      hint = "is Docker running?" } },
  [503] = { "Unavailable", "The daemon is stopping, or too much is asked of it at once.",
    { code = "shutting_down", message = "the daemon is stopping", hint = "try again in a moment" } },
  [504] = { "Timeout", "Docker or the recipe took too long.",
    { code = "docker_timeout", message = "Docker did not answer within 30000 ms" } },
  [507] = { "NoSpace", "The disk of the state directory is full.",
    { code = "db_full", message = "the database can't grow: the disk is full", hint = "free some space" } },
}

local tags = {
  { "deploy", "What the product is for: deploy, look, stop, go back." },
  { "apps", "Apps and their releases." },
  { "runs", "Runs of recipes, as they go and as they went." },
  { "recipes", "The strategies there are." },
  { "host", "The host and the daemon itself." },
  { "jobs", "One-off containers: release commands, schedules, jobs on demand." },
  { "metrics", "What the host, the containers and the daemon use, now and before." },
  { "sessions", "Signing in and out, and what one may." },
  { "people", "Who there is, and the roles that there are." },
  { "tokens", "Who may ask over TCP." },
  { "proxy", "Host names, the proxies that serve them, maintenance and pause." },
  { "registries", "Credentials for private images." },
  { "secrets", "Values that apps get and nobody reads: set, listed, exchanged, removed." },
  { "certs", "Certificates: what hosts show, the user's own, new ones before their time." },
  { "exec", "Commands inside a live instance." },
  { "streams", "Events, as a WebSocket or as a list." },
  { "logs", "What apps print, kept beyond their containers: searched, followed, resumed." },
  { "audit", "Who did what: chained, signed, verified." },
  { "openapi", "This description." },
}

local function content(schema, example)
  return { ["application/json"] = { schema = schema, example = example } }
end

local function envelope(payload)
  return s.object({ success = { type = "boolean", enum = json.array { true } }, message = s.text,
    payload = payload }, { "success", "message", "payload" })
end

local function error_responses()
  local out = { Error = { description = "Any other error, with code, message and hint.",
    content = content(s.ref "Error") } }
  for _, e in pairs(errors) do
    e[3].success = false
    out[e[1]] = { description = e[2], content = content(s.ref "Error", e[3]) }
  end
  out.Unauthorized.headers = { ["WWW-Authenticate"] = { schema = s.text } }
  return out
end

local function parameters(route)
  local list = json.array {}
  for _, name in ipairs(route.names) do
    list[#list + 1] = { name = name, ["in"] = "path", required = true, schema = s.text }
  end
  for _, place in ipairs { "query", "header" } do
    local known, names = route[place] or {}, {}
    for name in pairs(known) do names[#names + 1] = name end
    table.sort(names)
    for _, name in ipairs(names) do
      list[#list + 1] = { name = name, ["in"] = place, schema = s.doc(known[name], nil),
        required = route.needs == name or nil, description = known[name].description }
    end
  end
  return list
end

-- The errors that follow from what a route is, and those it names in `fails`.
local function failures(route)
  local out = { [403] = true, [503] = true }
  if route.body or route.query or #route.names > 0 then out[400] = true end
  if route.permission ~= "none" then out[401], out[429] = true, true end
  if route.body then out[413] = true end
  if #route.names > 0 then out[404] = true end
  if Audit.is_audited(route) then out[507] = true end
  for _, status in ipairs(route.fails or {}) do out[status] = true end
  return out
end

local descriptions = { [200] = "Done.", [202] = "Under way: follow `run_id` or `id` on /ws/events.",
  [101] = "The WebSocket is open." }

local function responses(route)
  local out = { default = { ["$ref"] = "#/components/responses/Error" } }
  for _, code in ipairs(route.status or { 200 }) do
    out[tostring(code)] = { description = descriptions[code],
      content = content(route.raw and { type = "object" } or envelope(route.payload)) }
    for kind, schema in pairs(route.also or {}) do
      out[tostring(code)].content[kind] = { schema = schema }
    end
  end
  if route.method == "WS" then out["101"] = { description = descriptions[101] } end
  for status in pairs(failures(route)) do
    out[tostring(status)] = { ["$ref"] = "#/components/responses/" .. errors[status][1] }
  end
  return out
end

local function operation(route)
  return {
    operationId = route.id, summary = route.summary, description = route.doc or route.summary,
    parameters = parameters(route), tags = json.array { route.tag },
    requestBody = route.body and { required = true, content = content(route.body) },
    responses = responses(route),
    security = route.permission == "none" and json.array {} or json.array { { token = json.array {} } },
    ["x-permission"] = route.permission, ["x-about"] = route.about, ["x-own"] = route.own, ["x-frames"] = route.frames,
  }
end

local info = {
  title = "NextDeploy",
  description = "Deploys containers on a host you own. Every answer is `{success, message, payload}`; an "
    .. "error is `{success: false, message, code, hint}`, and `code` is stable. A field whose value is "
    .. "unknown is left out. Over TCP every request carries `Authorization: Bearer TOKEN` "
    .. "(`ndctl token create --name NAME`); on the unix socket the peer's user is enough. Every GET "
    .. "answers HEAD, and every path OPTIONS.",
  contact = { name = "The NextDeploy authors" },
  license = { name = "Apache-2.0", url = "https://www.apache.org/licenses/LICENSE-2.0" },
}

local function described(version)
  local paths, tag_list = {}, json.array {}
  for _, route in ipairs(require("nd.api").routes) do
    if route.tag ~= "test" then
      local at = paths[route.path] or {}
      paths[route.path] = at
      at[(route.method == "WS" and "GET" or route.method):lower()] = operation(route)
    end
  end
  for i, tag in ipairs(tags) do tag_list[i] = { name = tag[1], description = tag[2] } end
  info.version = version
  return json.encode {
    openapi = "3.0.3", info = info, servers = json.array { { url = "http://127.0.0.1:8371" } },
    tags = tag_list, paths = paths,
    components = { schemas = s.components, responses = error_responses(),
      securitySchemes = { token = { type = "http", scheme = "bearer" } } },
  }
end

local text -- it stays the same, and anybody may ask

local function document(c)
  text = text or described(c.d.version)
  return { status = 200, headers = { ["content-type"] = "application/json" }, body = text }
end

return {
  { method = "GET", path = "/openapi.json", id = "openapi", permission = "none", raw = true,
    summary = "This description.", doc = "OpenAPI 3.0. It needs no token and has no envelope.",
    handler = document },
}
