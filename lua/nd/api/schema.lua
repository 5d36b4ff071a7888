-- JSON Schemas: of what requests may say (checked here) and of what answers hold (documentation,
-- and what the contract tests check against). One description serves both; shapes.lua fills
-- `components`.

local err = require "nd.error"
local json = require "json"

local M = { components = {} }

local array = json.array

local function object(properties, required)
  return { type = "object", properties = properties, required = required and array(required) }
end
M.object = object

-- An object that may have no other fields.
function M.closed(properties, required)
  local schema = object(properties, required)
  schema.additionalProperties = false
  return schema
end

M.text = { type = "string" }
M.integer = { type = "integer" }
M.boolean = { type = "boolean" }
M.time = { type = "string", format = "date-time" }
M.any = {}
function M.list(items) return { type = "array", items = items } end
function M.ref(name) return { ["$ref"] = "#/components/schemas/" .. name } end
function M.one_of(...) return { oneOf = array { ... } } end

-- The schema with a description.
function M.doc(schema, description)
  local out = {}
  for name, value in pairs(schema) do out[name] = value end
  out.description = description
  return out
end

-- ---- checking ----

local function kind(value)
  local t = type(value)
  if t == "string" then return t end
  if value == json.null then return "null" end
  if t == "table" then return json.is_array(value) and "array" or "object" end
  if t == "number" then return math.type(value) == "integer" and "integer" or "number" end
  return t
end

local function resolve(schema)
  local ref = schema["$ref"]
  return ref and M.components[ref:match "[^/]+$"] or schema
end

local function a(word) return (word:match "^[aeiou]" and "an " or "a ") .. word end

local function refuse(path, message, hint)
  err.raise("bad_request", ("%s: %s"):format(path, message), hint)
end

-- An empty Lua table is an object or an array, as wanted.
local function fits(schema, value)
  local want, got = schema.type, kind(value)
  return not want or want == got or want == "number" and got == "integer"
    or want == "array" and got == "object" and next(value) == nil
end

local check

local function sorted(t)
  local names = {}
  for name in pairs(t or {}) do names[#names + 1] = name end
  if #names > 1 then table.sort(names) end
  return names
end

-- A misspelt field is told before the one that is missing for it.
local function check_object(schema, value, path)
  local known = sorted(schema.properties)
  for _, name in ipairs(sorted(value)) do
    local property = schema.properties and schema.properties[name] or schema.additionalProperties
    if property == false then
      local near = err.nearest(name, known)
      refuse(path, ("there is no field '%s'"):format(name), near and ("did you mean '%s'?"):format(near)
        or "the fields are " .. table.concat(known, ", "))
    elseif type(property) == "table" then
      check(property, value[name], path .. "." .. name)
    end
  end
  for _, name in ipairs(schema.required or {}) do
    if value[name] == nil then
      refuse(path, ("the field '%s' is missing"):format(name),
        "it needs " .. table.concat(schema.required, ", "))
    end
  end
end

-- The alternative that is of the value's kind.
local function check_one_of(schema, value, path)
  local kinds = {}
  for i, alternative in ipairs(schema.oneOf) do
    alternative = resolve(alternative)
    if alternative.oneOf or fits(alternative, value) then return check(alternative, value, path) end
    kinds[i] = a(alternative.type)
  end
  refuse(path, ("must be %s, is %s"):format(table.concat(kinds, " or "), a(kind(value))))
end

local function check_enum(schema, value, path)
  local names = {}
  for i, allowed in ipairs(schema.enum) do
    if allowed == value then return end
    names[i] = tostring(allowed)
  end
  local near = type(value) == "string" and err.nearest(value, names)
  refuse(path, ("must be one of %s"):format(table.concat(names, ", ")), near and ("did you mean '%s'?"):format(near))
end

function check(schema, value, path)
  schema = resolve(schema)
  if schema.oneOf then return check_one_of(schema, value, path) end
  if not fits(schema, value) then
    refuse(path, ("must be %s, is %s"):format(a(schema.type), a(kind(value))))
  end
  if schema.enum then check_enum(schema, value, path) end
  local t = type(value)
  if t == "string" then
    if schema.minLength and #value < schema.minLength then refuse(path, "is empty") end
    if schema.maxLength and #value > schema.maxLength then
      refuse(path, ("is longer than %d"):format(schema.maxLength))
    end
  elseif t == "number" then
    local least, most = schema.minimum, schema.maximum
    if least and value < least then refuse(path, ("%g is less than %d"):format(value, least)) end
    if most and value > most then refuse(path, ("%g is more than %d"):format(value, most)) end
  elseif t == "table" then
    if kind(value) == "object" and schema.type == "object" then check_object(schema, value, path) end
    if schema.items then
      for i, item in ipairs(value) do check(schema.items, item, ("%s[%d]"):format(path, i - 1)) end
    end
  end
end

-- Raises bad_request naming the path in the body ("$.env.PORT").
function M.check(schema, value) check(schema, value, "$") end

local function is_any_text(schema)
  return schema and schema.type == "string" and not schema.enum and not schema.minLength and not schema.maxLength
end

-- Query strings are texts: turns them into what the schema says, and checks them.
function M.query(schema, query)
  local out = {}
  local only, text = next(query)
  if not only then return out end
  if next(query, only) == nil and is_any_text(schema[only]) then -- as in most requests
    out[only] = text
    return out
  end
  for _, name in ipairs(sorted(query)) do
    local want, value = schema[name], query[name]
    if not want then
      local known = sorted(schema)
      local near = err.nearest(name, known)
      refuse("query", ("there is no parameter '%s'"):format(name), near and ("did you mean '%s'?"):format(near)
        or #known > 0 and "the parameters are " .. table.concat(known, ", ") or "it takes no parameters")
    elseif want.type == "integer" then
      value = value:match "^-?%d+$" and math.tointeger(tonumber(value))
      if not value then refuse("query." .. name, "must be a whole number") end
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
