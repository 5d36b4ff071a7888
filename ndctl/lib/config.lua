-- lib/config.lua - nextdeploy.lua: what an app is, beside its source.
--
-- A Lua table evaluated in an empty environment: `return { app = "web", ... }`, or the bare table.
-- `keys` is the whole format; an unknown key is an error that names the nearest known one.
-- `environments = { staging = { ... } }` holds what differs in an environment.

local fail = require "ndctl.lib.fail"
local policy = require "nd.service.policy"
local text = require "ndctl.lib.text"

local config = {}

config.file = "nextdeploy.lua"

config.health_keys = {
  path = "string", port = "int", status = "int", body = "string", tcp = "boolean",
  command = "list", up = "duration", interval = "duration", timeout = "duration", deadline = "duration",
  grace = "duration", successes = "int", failures = "int",
}

-- What a process may say; without a value of its own it has the app's.
config.process_keys = {
  kind = "string", command = "list", replicas = "int", port = "int", env = "map", user = "string",
  memory = "string|int", cpu = "number", grace = "duration", volumes = "routes", container = "container",
  health = "string|health", schedule = "string", zone = "string", overlap = "string",
  missed = "string", timeout = "duration", publish = "routes",
}

-- More of its container than what it runs; most of it only an admin may give.
config.container_keys = {}
for name, row in pairs(policy.settings) do config.container_keys[name] = row.type end

config.release_keys = { command = "list", timeout = "duration" }

-- Name to type; `body` is the name in the API where it differs; `param` marks what is a parameter
-- of the strategy.
config.keys = {
  app = { "string", body = "app_name" },
  project = { "string" },
  environment = { "string" },
  image = { "string" },
  port = { "int" },
  domain = { "string" },
  tls = { "string" },
  proxy_type = { "string" },
  routes = { "routes" },
  publish = { "routes" },    -- ports of the host: "5432/tcp", or { port = that, from = { "CIDR" } }
  strategy = { "string" },
  params = { "map" },        -- more parameters of the strategy
  health = { "string|health", body = "health_check" },
  replicas = { "int" },
  env = { "map" },
  secrets = { "secrets" },   -- { "NAME", "NAME:file" } or { NAME = "env" | "file" | "both" }
  command = { "list" },
  user = { "string" },
  memory = { "string|int" },
  cpu = { "number" },
  volumes = { "routes" },
  container = { "container" },
  grace = { "duration" },    -- between SIGTERM and SIGKILL
  drain = { "duration", param = true },
  keep = { "duration", param = true },
  settle = { "duration", param = true },
  go_back = { "boolean" },   -- to the kept release, if this one dies or turns unhealthy
  tags = { "list" },
  processes = { "processes" },
  release = { "list|release" }, -- a command to run before the switch
  environments = { "environments" },
}

local function names(keys)
  local list = {}
  for name in pairs(keys) do list[#list + 1] = name end
  table.sort(list)
  return list
end

local function bad(where, message, hint)
  fail.raise("config", ("%s: %s"):format(where, message), hint)
end

local function unknown_key(where, key, keys)
  local near = type(key) == "string" and text.nearest(key, names(keys))
  bad(where, ("unknown key %s"):format(type(key) == "string" and "'" .. key .. "'"
    or "[" .. tostring(key) .. "]"), near and ("did you mean %s?"):format(near)
    or "known ones: " .. table.concat(names(keys), ", "))
end

local check

local checks = {
  string = function(v) return type(v) == "string" and v ~= "", "a text that isn't empty" end,
  boolean = function(v) return type(v) == "boolean", "true or false" end,
  number = function(v) return type(v) == "number", "a number" end,
  int = function(v) return math.type(v) == "integer" and v >= 0, "a whole number" end,
  duration = function(v)
    return type(v) == "string" and text.parse_duration(v) ~= nil, "a duration such as \"30s\""
  end,
  list = function(v)
    local what = "a list of texts"
    if type(v) ~= "table" then return false, what end
    for i, item in pairs(v) do
      if math.type(i) ~= "integer" or type(item) ~= "string" then return false, what end
    end
    return true
  end,
  map = function(v)
    if type(v) ~= "table" then return false, "a table of NAME = value" end
    for name, item in pairs(v) do
      if type(name) ~= "string" then return false, "a table of NAME = value" end
      if type(item) == "table" or type(item) == "function" then
        return false, ("a table of texts, numbers and booleans (see %s)"):format(name)
      end
    end
    return true
  end,
}

local function check_keys(where, value, keys)
  if type(value) ~= "table" then bad(where, "is a table, not a " .. type(value)) end
  local sorted = {}
  for key in pairs(value) do sorted[#sorted + 1] = key end
  table.sort(sorted, function(a, b) return tostring(a) < tostring(b) end)
  for _, key in ipairs(sorted) do
    local spec = keys[key]
    if not spec then unknown_key(where, key, keys) end
    check(("%s: %s"):format(where, key), value[key], type(spec) == "table" and spec[1] or spec)
  end
end

local tables = {
  health = function(where, value) check_keys(where, value, config.health_keys) end,
  container = function(where, value) check_keys(where, value, config.container_keys) end,
  release = function(where, value) check_keys(where, value, config.release_keys) end,
  processes = function(where, value)
    for name, process in pairs(value) do
      check_keys(("%s.%s"):format(where, tostring(name)), process, config.process_keys)
    end
  end,
  secrets = function(where, value)
    for name, as in pairs(value) do
      if type(as) ~= "string" then bad(where, ("%s is a text"):format(tostring(name))) end
    end
  end,
  -- A list of texts or tables, which the daemon checks.
  routes = function(where, value)
    for i in pairs(value) do
      if math.type(i) ~= "integer" then bad(where, "is a list") end
    end
  end,
  environments = function(where, value)
    if type(value) ~= "table" then bad(where, "is a table of environments") end
    local keys = {}
    for name, spec in pairs(config.keys) do
      if name ~= "environments" and name ~= "environment" and name ~= "app" then
        keys[name] = spec
      end
    end
    for name, overrides in pairs(value) do
      check_keys(("%s.%s"):format(where, tostring(name)), overrides, keys)
    end
  end,
}

-- `kinds` is "a" or "a|b"; a table goes to the kind that takes tables.
function check(where, value, kinds)
  local expected = {}
  for kind in kinds:gmatch("[^|]+") do
    if kind == "list" and type(value) == "table" and checks.list(value) then return end
    if tables[kind] then
      if type(value) == "table" then return tables[kind](where, value) end
      expected[#expected + 1] = "a table"
    else
      local ok, what = checks[kind](value)
      if ok then return end
      expected[#expected + 1] = what
    end
  end
  bad(where, ("expected %s, got %s"):format(table.concat(expected, " or "),
    type(value) == "string" and '"' .. value .. '"' or type(value) == "table" and "a table"
    or tostring(value)))
end

-- Reads the text of a nextdeploy.lua; returns the checked table.
function config.parse(source, name)
  name = name or config.file
  local chunk, message = load("return " .. source, "=" .. name, "t", {})
  if not chunk then chunk, message = load(source, "=" .. name, "t", {}) end
  if not chunk then
    bad(message, "isn't Lua", "a nextdeploy.lua is: return { app = \"web\", ... }")
  end
  local ok, value = pcall(chunk)
  if not ok then
    bad(tostring(value), "only a table of values is allowed here",
      "there are no functions in a nextdeploy.lua: no require, os or getenv")
  end
  if type(value) ~= "table" then
    bad(name, "doesn't return a table", "write: return { app = \"web\", image = \"web:v1\" }")
  end
  check_keys(name, value, config.keys)
  if not value.app then bad(name, "names no app", "add: app = \"NAME\"") end
  return value
end

-- Merges what `environment` overrides; tables of the kind map are merged by name.
function config.for_environment(value, environment)
  local merged = {}
  for key, item in pairs(value) do merged[key] = item end
  local environments = value.environments or {}
  merged.environments = nil
  environment = environment or value.environment
  local overrides = environment and environments[environment]
  for key, item in pairs(overrides or {}) do
    if config.keys[key][1] == "map" and type(merged[key]) == "table" then
      local both = {}
      for k, v in pairs(merged[key]) do both[k] = v end
      for k, v in pairs(item) do both[k] = v end
      merged[key] = both
    else
      merged[key] = item
    end
  end
  merged.environment = environment
  return merged
end

local function texts(map)
  local out = {}
  for name, value in pairs(map) do out[name] = tostring(value) end
  return out
end

-- As the API takes them: NAME:as.
local function secrets(value)
  local list = require("json").array {}
  for i, name in ipairs(value) do list[i] = name end
  for name, as in pairs(value) do
    if type(name) == "string" then list[#list + 1] = name .. ":" .. as end
  end
  return list
end

-- The body of POST /deploy for it.
function config.body(value)
  local body = {}
  for key, item in pairs(value) do
    local spec = config.keys[key]
    if spec.param or key == "params" then
      body.params = body.params or {}
      for name, v in pairs(spec.param and { [key] = item } or item) do body.params[name] = v end
    elseif key == "env" then
      body.env = texts(item)
    elseif key == "secrets" then
      body.secrets = secrets(item)
    elseif key == "processes" then
      body.processes = {}
      for name, process in pairs(item) do
        local copy = {}
        for k, v in pairs(process) do copy[k] = k == "env" and texts(v) or v end
        body.processes[name] = copy
      end
    else
      body[spec.body or key] = item
    end
  end
  return body
end

return config
