-- The configuration of an app: what a request or a nextdeploy.lua may say, checked and made whole.
--
-- A release stores the result as JSON:
--   env {NAME=text}, port, replicas, command [..], user, health {...}, volumes [{name or host, path, shared,
--   read_only}], container {...} (policy.lua),
--   routes [{domain, tls, proxy_type, port where it isn't the app's own}], memory (bytes), cpu (cores),
--   grace (ms between SIGTERM and SIGKILL), go_back (return to the kept release when this one fails),
--   secrets {NAME={as = env|file|both, ...}} (secrets.lua),
--   publish [{port, target, proto, from}] (network_publish.lua),
--   processes {NAME={kind, ...}} (process.lua), release {command, timeout} (run before the switch)
-- The probe's shape is documented in recipes/healthcheck/README.md.

local err = require "nd.error"
local json = require "json"
local duration = require "nd.duration"
local health = require "nd.recipe.health"
local policy = require "nd.service.policy"
local publish = require "nd.service.network_publish"
local Process = require "nd.service.process"

local M = { default_proxy = "caddy" } -- of the daemon's options; main.lua sets it

local function bad(field, value, want, hint)
  err.raise("bad_request", ("%s: %s, got %s"):format(field, want,
    type(value) == "table" and "a table" or json.encode(value)), hint)
end

-- RFC 1123 host name, lower case, at least one dot unless it is `localhost`.
function M.domain(value)
  if type(value) ~= "string" then bad("domain", value, "must be a host name") end
  local name = value:lower():gsub("%.$", "")
  if name:match "[^%w.-]" or #name > 253 or #name == 0 then
    bad("domain", value, "must be a host name",
      "letters, digits, dots and dashes; international names in their xn-- form")
  end
  for label in (name .. "."):gmatch "([^.]*)%." do
    if #label == 0 or #label > 63 or label:match "^%-" or label:match "%-$" then
      bad("domain", value, "must be a host name", "each part has 1 to 63 letters, digits or dashes")
    end
  end
  if name:match "^[%d.]+$" then bad("domain", value, "must be a name, not an address") end
  return name
end

function M.port(value, field)
  if math.type(value) ~= "integer" or value < 1 or value > 65535 then
    bad(field or "port", value, "must be a number from 1 to 65535")
  end
  return value
end

local function text(field, value)
  if type(value) ~= "string" or value == "" or value:find "%z" then
    bad(field, value, "must be a text")
  end
  return value
end

local function env(value)
  if type(value) ~= "table" then bad("env", value, "must be an object of texts") end
  local out = {}
  for name, v in pairs(value) do
    if type(name) ~= "string" or not name:match "^[%a_][%w_]*$" then
      bad("env", name, "a name is letters, digits and _, not beginning with a digit")
    end
    if type(v) == "number" or type(v) == "boolean" then v = tostring(v) end
    if type(v) ~= "string" or v:find "%z" then bad("env." .. name, v, "must be a text") end
    out[name] = v
  end
  return out
end

local function list_of_text(field, value)
  if type(value) ~= "table" then bad(field, value, "must be a list of texts") end
  local out = json.array {}
  for i, v in ipairs(value) do out[i] = text(field, v) end
  return out
end

local function size(field, value)
  local units = { [""] = 1.0, b = 1.0, k = 1024.0, m = 1024.0 ^ 2, g = 1024.0 ^ 3 } -- floats don't wrap around
  local number, unit = tostring(value):lower():match "^(%d+)([bkmg]?)i?b?$"
  if not number then bad(field, value, "must be a size such as 256m or 1g") end
  local bytes = math.tointeger(tonumber(number) * units[unit])
  if not bytes then bad(field, value, "is more than there can be", "write a size such as 256m or 1g") end
  if bytes < 6 * 1024 * 1024 then bad(field, value, "must be at least 6m, as Docker demands") end
  return bytes
end

-- Durations become ms; what is left out is the daemon's default (health.lua).
function M.health(value)
  local out, why = health.for_effect(value)
  if not out then err.raise("bad_request", "health_check: must be " .. why) end
  return out
end

local function volumes(value)
  if type(value) ~= "table" then bad("volumes", value, "must be a list") end
  local out = json.array {}
  for i, v in ipairs(value) do out[i] = policy.volume(v) end
  return out
end

local one_of = {
  tls = { off = true, internal = true, auto = true },
  proxy_type = { caddy = true, nginx = true, none = true },
}

local function choice(field, value)
  if not one_of[field][value] then
    local names = {}
    for name in pairs(one_of[field]) do names[#names + 1] = name end
    table.sort(names)
    bad(field, value, "must be one of " .. table.concat(names, ", "))
  end
  return value
end

local function routes(value)
  if type(value) ~= "table" then bad("routes", value, "must be a list") end
  local out = json.array {}
  for i, r in ipairs(value) do
    if type(r) == "string" then r = { domain = r } end
    out[i] = { domain = M.domain(r.domain), tls = choice("tls", r.tls or "off"),
      proxy_type = choice("proxy_type", r.proxy_type or M.default_proxy),
      port = r.port and M.port(r.port, "routes.port") }
  end
  return out
end

local function published(value)
  if type(value) ~= "table" then bad("publish", value, 'must be a list, as in ["5432/tcp"]') end
  local out = json.array {}
  for i, v in ipairs(value) do
    local entry, why, hint = publish.entry(v)
    if not entry then err.raise("bad_request", "publish: " .. why, hint) end
    out[i] = entry
  end
  return out
end

function M.replicas(v, least)
  least = least or 1
  if math.type(v) ~= "integer" or v < least or v > 20 then
    bad("replicas", v, ("must be %d to 20"):format(least))
  end
  return v
end

local AS = { env = true, file = true, both = true }

-- "NAME", "NAME:file", or {NAME = "file"} -> {NAME = {as}}
local function secrets(value)
  if type(value) ~= "table" then bad("secrets", value, 'must be a list, as in ["DB_PASSWORD", "TLS_KEY:file"]') end
  local out = {}
  for key, v in pairs(value) do
    local name, as = key, v
    if math.type(key) == "integer" then name, as = tostring(v):match "^([^:]*):?(.*)$" end
    if type(name) ~= "string" or not name:match "^[%a_][%w_]*$" then
      bad("secrets", name, "a name is letters, digits and _, not beginning with a digit")
    end
    if as == "" then as = "env" end
    if not AS[as] then bad("secrets." .. name, as, "must be env, file or both") end
    out[name] = { as = as }
  end
  return out
end

-- A secret that is a variable takes the place of a plain one, which everybody sees in `docker inspect`.
local function secrets_before_env(config, request)
  for name, secret in pairs(config.secrets or {}) do
    local plain = (request.env or {})[name] ~= nil and "env"
    for process, settings in pairs(config.processes or {}) do
      if (settings.env or {})[name] ~= nil then plain = ("processes.%s.env"):format(process) end
    end
    if secret.as ~= "file" and plain then
      err.raise("bad_request", ("%s.%s: is one of the app's secrets too"):format(plain, name),
        "a plain variable is visible in `docker inspect`: leave it out of there, or out of `secrets`")
    end
    if secret.as ~= "file" then config.env[name] = nil end
  end
end

-- What an app says, and each of its processes may say for itself.
local common = {
  env = env,
  port = M.port,
  command = function(v) return list_of_text("command", v) end,
  user = function(v) return text("user", v) end,
  memory = function(v) return size("memory", v) end,
  cpu = function(v)
    if type(v) ~= "number" or v <= 0 or v > 512 then bad("cpu", v, "must be a number of cores") end
    return v
  end,
  grace = function(v) return duration.ms("grace", v) end,
  volumes = volumes,
  container = policy.read,
  health = M.health,
  publish = published,
}

-- A list is a command; {command, timeout} says how long it may take.
local function release_command(v)
  if type(v) ~= "table" then bad("release", v, "must be a command: a list of texts") end
  if next(v) == nil then return nil end
  if #v > 0 then v = { command = v } end
  local command = list_of_text("release.command", v.command)
  if #command == 0 then bad("release.command", v.command, "must be a command: a list of texts") end
  return { command = command, timeout = v.timeout and duration.ms("release.timeout", v.timeout) }
end

-- The fields of a release's configuration, by the name a request uses.
local fields = {
  replicas = M.replicas,
  go_back = function(v) return v == true end,
  routes = routes,
  release = release_command,
  secrets = secrets,
  processes = function(v) return require("nd.service.process_config")(v, common) end,
}
for name, check in pairs(common) do fields[name] = check end
M.fields = fields
M.bad = bad

-- The routes that a request asks for, where it says anything of them; what it doesn't say of a host
-- stays as it was.
local function merge_routes(before, request)
  local list = request.routes
  if request.domain and request.domain ~= "" then
    list = { { domain = request.domain, tls = request.tls, proxy_type = request.proxy_type } }
  elseif not list and (request.tls or request.proxy_type) then
    list = {}
    for i, r in ipairs(before) do
      list[i] = { domain = r.domain, tls = request.tls, proxy_type = request.proxy_type }
    end
  end
  if type(list) ~= "table" then return nil end
  local known, filled = {}, {}
  for _, r in ipairs(before) do known[r.domain] = r end
  for i, r in ipairs(list) do
    if type(r) == "string" then r = { domain = r } end
    local had = known[M.domain(r.domain)] or {}
    filled[i] = { domain = r.domain, tls = r.tls or had.tls, port = r.port or had.port,
      proxy_type = r.proxy_type or had.proxy_type }
  end
  return routes(filled)
end

-- The configuration `base` changed by what `request` sets. `domain`, `tls` and `proxy_type` are
-- short for one route; `health_check` is `health`.
function M.merge(base, request)
  local out = {}
  for name, v in pairs(base) do out[name] = v end
  for name, check in pairs(fields) do
    if request[name] ~= nil then out[name] = check(request[name]) end
  end
  if request.health_check ~= nil then out.health = M.health(request.health_check) end
  out.routes = merge_routes(base.routes or {}, request) or out.routes
  out.port = out.port or 80
  out.replicas = out.replicas or 1
  local env_before = out.env or {}
  out.env = {}
  for name, v in pairs(env_before) do out.env[name] = v end
  secrets_before_env(out, request)
  out.routes = out.routes or json.array {}
  out.health = out.health or M.health "/"
  local web = Process.of(out, "web")
  for _, route in ipairs(out.routes) do
    if web and route.port == web.port then route.port = nil end -- it has the app's own service
  end
  return out
end

return M
