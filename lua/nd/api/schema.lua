-- JSON Schemas: of what requests may say (checked here) and of what answers hold (documentation,
-- and what the contract tests check against). One description serves both.

local err = require "nd.error"
local json = require "json"

local M = {}

local array = json.array

local function object(properties, required)
  return { type = "object", properties = properties, required = required and array(required) }
end
M.object = object

function M.closed(properties, required)
  local schema = object(properties, required)
  schema.additionalProperties = false
  return schema
end

local text = { type = "string" }
local integer = { type = "integer" }
local boolean = { type = "boolean" }
local time = { type = "string", format = "date-time" }
local any = {}

local function list(items) return { type = "array", items = items } end
local function ref(name) return { ["$ref"] = "#/components/schemas/" .. name } end
M.text, M.integer, M.boolean, M.time, M.any, M.list, M.ref = text, integer, boolean, time, any, list, ref

M.app_name = { type = "string", pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", maxLength = 40 }

M.components = {
  Error = object({
    success = { type = "boolean", enum = array { false } }, message = text, code = text,
    hint = text, payload = any }, { "success", "message", "code" }),

  Instance = object({
    id = integer, name = text, container_id = text, release = integer, process = text,
    index = integer, state = text, address = text, restarts = integer, exit_code = integer,
    started_at = time }, { "id", "name", "release", "process", "index", "state", "address" }),

  Route = object({ domain = text, tls = text, proxy_type = text }, { "domain", "tls" }),

  AppStatus = object({
    app_name = text, project = text, environment = text, image = text, digest = text,
    status = { type = "string", enum = array { "running", "stopped", "error", "updating", "degraded" } },
    message = text, port = integer, domain = text, updated_at = time, release = integer,
    previous = integer, strategy = text, run_id = text, service_address = text,
    routes = list(ref "Route"), instances = list(ref "Instance"), releases = list(ref "Release"),
  }, { "app_name", "project", "environment", "image", "status", "port", "domain", "updated_at",
    "routes", "instances" }),

  Release = object({
    number = integer, image = text, digest = text, run_id = text, created_at = time, live_at = time,
    state = { type = "string", enum = array { "created", "healthy", "live", "draining", "kept", "gone" } },
    keep_until = time, env = { type = "object", additionalProperties = text }, port = integer,
    drain = object({ cut = integer, peers = list(text) }),
  }, { "number", "state", "image", "created_at" }),

  Run = object({
    id = text, app = text, project = text, environment = text, recipe = text, bundle = text,
    state = { type = "string", enum = array { "running", "sleeping", "rolling_back", "cleaning", "done",
      "failed", "cancelled" } },
    owner = text, started_at = time, ended_at = time, wake_at = time, step = text,
    error = ref "RunError", params = { type = "object" }, result = any, effects = list(ref "Effect"),
  }, { "id", "app", "recipe", "state", "owner", "started_at", "params" }),

  RunError = object({ code = text, message = text, hint = text, data = any }, { "code", "message" }),

  Effect = object({
    n = integer, name = text, version = integer, args = list(any), label = text, state = text,
    at = text, asked_at = time, answered = integer, answered_at = time, ok = boolean, ms = integer,
    result = any, error = ref "RunError", undo = { type = "object" }, pivot = boolean,
  }, { "n", "name", "args", "label", "state", "asked_at" }),

  Plan = object({
    recipe = text, app_name = text, lines = list(text), undos = list(text),
    changes = list(object({ field = text, from = any, to = any }, { "field" })),
  }, { "recipe", "app_name", "lines", "undos", "changes" }),

  SystemMetrics = object({
    cpu = { type = "number" }, memory = { type = "number" }, disk = { type = "number" },
    uptime = text }, { "cpu", "memory", "disk", "uptime" }),

  Recipe = object({
    name = text, from = text, summary = text, error = text, params = list(any), needs = list(any),
    readme = text, source = text }, { "name" }),

  Token = object({ name = text, role = text, token = text, created_at = time }, { "name", "role" }),

  Check = object({ name = text, ok = boolean, message = text, hint = text }, { "name", "ok", "message" }),

  Health = object({ version = text, instance = text, uptime_ms = integer },
    { "version", "instance", "uptime_ms" }),
}

-- ---- checking ----

local function kind(value)
  if value == json.null then return "null" end
  local t = type(value)
  if t == "table" then return json.is_array(value) and "array" or "object" end
  if t == "number" then return math.type(value) == "integer" and "integer" or "number" end
  return t
end

local function fits(want, got)
  return want == got or want == "number" and got == "integer"
end

local function refuse(path, message, hint)
  err.raise("bad_request", ("%s: %s"):format(path, message), hint)
end

local check

local function check_object(schema, value, path)
  for _, name in ipairs(schema.required or {}) do
    if value[name] == nil then refuse(path, ("the field '%s' is missing"):format(name)) end
  end
  local known = {}
  for name in pairs(schema.properties or {}) do known[#known + 1] = name end
  for name, member in pairs(value) do
    local property = schema.properties and schema.properties[name]
    if property then
      check(property, member, path .. "." .. name)
    elseif schema.additionalProperties == false then
      local near = err.nearest(name, known)
      refuse(path, ("there is no field '%s'"):format(name), near and ("did you mean '%s'?"):format(near))
    end
  end
end

function check(schema, value, path)
  if schema["$ref"] then schema = M.components[schema["$ref"]:match "[^/]+$"] end
  local got = kind(value)
  if got == "object" and schema.type == "array" and next(value) == nil then got = "array" end
  if schema.type and not fits(schema.type, got) then
    refuse(path, ("must be %s %s, is %s %s"):format(schema.type:match "^[aeiou]" and "an" or "a",
      schema.type, got:match "^[aeiou]" and "an" or "a", got))
  end
  if schema.maxLength and #value > schema.maxLength then
    refuse(path, ("is longer than %d"):format(schema.maxLength))
  end
  if schema.minimum and value < schema.minimum then refuse(path, ("is less than %d"):format(schema.minimum)) end
  if schema.maximum and value > schema.maximum then refuse(path, ("is more than %d"):format(schema.maximum)) end
  if schema.enum then
    local ok, names = false, {}
    for i, allowed in ipairs(schema.enum) do
      ok = ok or allowed == value
      names[i] = tostring(allowed)
    end
    if not ok then refuse(path, "must be one of " .. table.concat(names, ", ")) end
  end
  if got == "object" then check_object(schema, value, path) end
  if got == "array" and schema.items then
    for i, item in ipairs(value) do check(schema.items, item, ("%s[%d]"):format(path, i - 1)) end
  end
end

-- Raises bad_request naming the path in the body ("$.env.PORT").
function M.check(schema, value) check(schema, value, "$") end

-- Query strings are texts: turns them into what the schema says, and checks them.
function M.query(schema, query)
  local out = {}
  local known = {}
  for name in pairs(schema) do known[#known + 1] = name end
  for name, value in pairs(query) do
    local want = schema[name]
    if not want then
      local near = err.nearest(name, known)
      refuse("query", ("there is no parameter '%s'"):format(name), near and ("did you mean '%s'?"):format(near))
    elseif want.type == "integer" then
      value = math.tointeger(tonumber(value))
      if not value then refuse("query." .. name, "must be a number") end
    elseif want.type == "boolean" then
      if value ~= "true" and value ~= "false" then refuse("query." .. name, "must be true or false") end
      value = value == "true"
    end
    check(want, value, "query." .. name)
    out[name] = value
  end
  return out
end

return M
