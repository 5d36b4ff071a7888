-- lib/params.lua - a recipe's parameters from the words of the command line.
--
-- `--drain 5s` sets drain, `--health.path /up` sets a member, `--param drain=5s` is the long way.
-- What the recipe declares decides about types and about what is unknown; the daemon checks again.

local fail = require "ndctl.lib.fail"
local text = require "ndctl.lib.text"

local params = {}

local function wrong(name, what, value)
  fail.usage(("--%s takes %s, not '%s'"):format(name, what, tostring(value)))
end

local converters = {
  int = function(name, value)
    return math.tointeger(tonumber(value)) or wrong(name, "a whole number", value)
  end,
  number = function(name, value)
    return tonumber(value) or wrong(name, "a number", value)
  end,
  boolean = function(name, value)
    if value == true or value == "true" or value == "yes" then return true end
    if value == "false" or value == "no" then return false end
    wrong(name, "true or false", value)
  end,
  list = function(_, value)
    return require("json").array(type(value) == "table" and value or { value })
  end,
  duration = function(name, value)
    if type(value) ~= "string" or not text.parse_duration(value) then
      wrong(name, "a duration such as 30s", value)
    end
    return value
  end,
}
converters.integer, converters.bool, converters.flag = converters.int, converters.boolean,
  converters.boolean

local function convert(name, declared, value)
  if type(value) == "string" and value:find("^%s*[{%[]") then
    local ok, decoded = pcall(require("json").decode, value)
    if ok then return decoded end
  end
  local converter = declared and converters[declared.type]
  if type(value) == "table" and not (declared and declared.type == "list") then
    fail.usage(("--%s is given %d times"):format(name, #value))
  end
  if converter then return converter(name, value) end
  if value == true then
    if declared then fail.usage(("--%s needs a value"):format(name)) end
  end
  return value
end

-- given: name -> value from the command line; declared: the recipe's [{name, type, required}], or
-- nil where it isn't known; app: what --app said. Returns the table to send.
function params.read(given, declared, recipe)
  local known, names = {}, {}
  for _, p in ipairs(declared or {}) do
    known[p.name] = p
    names[#names + 1] = p.name
  end
  local result = {}
  for name, value in pairs(given) do
    local base, member = name:match("^([^.]+)%.(.+)$")
    base = base or name
    if declared and not known[base] then
      local underscored = base:gsub("-", "_")
      if known[underscored] then base = underscored end
    end
    if declared and not known[base] then
      local near = text.nearest(base, names)
      fail.usage(("recipe %s has no parameter '%s'"):format(recipe, base),
        near and ("did you mean --%s?"):format(near)
          or "it has: " .. (#names > 0 and table.concat(names, ", ") or "none"))
    end
    if member then
      if type(result[base]) ~= "table" then result[base] = {} end
      result[base][member] = convert(name, nil, value)
    elseif type(result[base]) ~= "table" then
      result[base] = convert(name, known[base], value)
    end
  end
  for _, p in ipairs(declared or {}) do
    if p.required and result[p.name] == nil then
      fail.usage(("recipe %s needs --%s"):format(recipe, p.name),
        p.doc and p.doc ~= "" and p.doc or ("ndctl recipe show %s"):format(recipe))
    end
  end
  return result
end

return params
