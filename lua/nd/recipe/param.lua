-- The parameters a recipe declares: param.duration { required = true, default = "30s", doc = "" }.
--
-- A kind says what a value must look like and what the recipe gets. Values come as JSON or, from
-- the command line, as strings; both are accepted. A plain value instead of a table is the default:
-- param.duration "30s". param.health takes its default's fields directly.

local errors = require "nd.recipe.errors"
local health = require "nd.recipe.health"
local nearest = require "nd.recipe.nearest"
local units = require "nd.recipe.units"

local M = {}

local class = { __name = "param" }
local serial = 0 -- parameters are listed in the order in which they were written

local function show(value)
  if type(value) == "string" then
    return string.format("%q", value)
  end
  return type(value) == "table" and "a table" or tostring(value)
end

local function within(low, high, unit)
  if low and high then
    return string.format("%s from %s to %s", unit, low, high)
  end
  return low and string.format("%s of at least %s", unit, low)
    or high and string.format("%s of at most %s", unit, high) or unit
end

local function number_kind(convert, unit)
  return {
    options = { "min", "max" },
    expected = function(p)
      return within(p.min, p.max, unit)
    end,
    convert = function(value, p)
      local number = convert(value)
      if not number or (p.min and number < convert(p.min))
        or (p.max and number > convert(p.max)) then
        return nil
      end
      return number
    end,
  }
end

local function text(what, pattern)
  return {
    expected = function() return what end,
    convert = function(value)
      return type(value) == "string" and value:match(pattern) and value or nil
    end,
  }
end

local kinds = {}

kinds.app = text("the name of an app (lower-case letters, digits and dashes)",
  "^[a-z0-9][a-z0-9%-]*$")
kinds.image = text("an image such as \"registry.example.com/web:v2\"", "^[%w%._%-:/@]+$")

kinds.string = {
  options = { "pattern" },
  expected = function(p)
    return p.pattern and "a string that matches the Lua pattern " .. show(p.pattern) or "a string"
  end,
  convert = function(value, p)
    if type(value) == "number" then
      value = tostring(value)
    end
    return type(value) == "string" and (not p.pattern or value:find(p.pattern)) and value or nil
  end,
}

kinds.number = number_kind(function(v) return tonumber(v) end, "a number")
kinds.integer = number_kind(function(v) return math.tointeger(tonumber(v)) end, "an integer")
kinds.duration = number_kind(units.duration, "a duration such as \"30s\", \"5m\" or \"1h30m\"")
kinds.size = number_kind(units.size, "a size such as \"512MiB\" or \"2GB\"")

kinds.boolean = {
  expected = function() return "true or false" end,
  convert = function(value)
    if type(value) == "boolean" then
      return value
    end
    local words = { ["true"] = true, yes = true, on = true, ["1"] = true,
      ["false"] = false, no = false, off = false, ["0"] = false }
    return words[value]
  end,
}

kinds.choice = {
  options = { "choices" },
  expected = function(p)
    local shown = {}
    for i, choice in ipairs(p.choices) do
      shown[i] = show(choice)
    end
    return "one of " .. table.concat(shown, ", ")
  end,
  convert = function(value, p)
    for _, choice in ipairs(p.choices) do
      if choice == value or tostring(choice) == value then
        return choice
      end
    end
  end,
  suggest = function(value, p)
    return type(value) == "string" and nearest.hint(value, p.choices) or ""
  end,
}

kinds.list = {
  options = { "of" },
  expected = function(p)
    return "a list" .. (p.of and " of " .. p.of .. " values" or "")
  end,
  convert = function(value, p)
    if type(value) == "string" then
      local words = {}
      for word in value:gmatch("[^,]+") do
        words[#words + 1] = word
      end
      value = words
    end
    if type(value) ~= "table" or (#value == 0 and next(value) ~= nil) then
      return nil
    end
    local out = {}
    for i, item in ipairs(value) do
      out[i] = item
      if p.of then
        out[i] = kinds[p.of].convert(item, {})
        if out[i] == nil then
          return nil
        end
      end
    end
    return out
  end,
}

kinds.table = {
  expected = function() return "a table" end,
  convert = function(value) return type(value) == "table" and value or nil end,
}

kinds.health = {
  convert = function(value) return health.resolve(value) end,
  expected = function(_, value)
    return (select(2, health.resolve(value)))
  end,
}

-- ---- declaring ----

local common = { "required", "default", "doc" }

local function bad(message)
  errors.raise("bad_recipe", message, "recipes/README.md shows how parameters are declared")
end

-- Splits what was written into options and, for health and choice, the rest.
local function options_of(kind_name, kind, written)
  if type(written) ~= "table" or getmetatable(written) == class then
    return { default = written }
  end
  local known, rest, has_rest = {}, {}, false
  for _, name in ipairs(common) do
    known[name] = true
  end
  for _, name in ipairs(kind.options or {}) do
    known[name] = true
  end
  local p = {}
  for key, value in pairs(written) do
    if known[key] then
      p[key] = value
    else
      rest[key], has_rest = value, true
    end
  end
  if kind_name == "choice" then
    p.choices = p.choices or rest
  elseif has_rest and (kind_name == "health" or (kind_name == "list" and #rest > 0)) then
    p.default = rest
  elseif has_rest then
    local key, names = next(rest), {}
    for name in pairs(known) do
      names[#names + 1] = name
    end
    bad(string.format("param.%s has no option %s%s", kind_name, show(key),
      nearest.hint(key, names)))
  end
  return p
end

local function check_declaration(p)
  if p.kind == "choice" and #p.choices == 0 then
    bad("param.choice needs its choices: param.choice { \"a\", \"b\", default = \"a\" }")
  end
  if p.of and not kinds[p.of] then
    bad(string.format("param.list: %s isn't a kind of parameter", show(p.of)))
  end
  if p.default == nil then
    return
  end
  local kind = kinds[p.kind]
  if kind.convert(p.default, p) == nil then
    bad(string.format("param.%s: its default is %s, but should be %s", p.kind, show(p.default),
      kind.expected(p, p.default)))
  end
end

for name, kind in pairs(kinds) do
  M[name] = function(written)
    local p = options_of(name, kind, written)
    serial = serial + 1
    p.kind, p.serial = name, serial
    check_declaration(p)
    return setmetatable(p, class)
  end
end

function M.is(value)
  return getmetatable(value) == class
end

-- ---- using ----

-- The parameters of a recipe as a list in the order in which they were written.
local function in_order(params)
  local list = {}
  for name, p in pairs(params) do
    list[#list + 1] = { name = name, param = p }
  end
  table.sort(list, function(a, b) return a.param.serial < b.param.serial end)
  return list
end

-- What the header says about them.
function M.describe(params)
  local out = {}
  for i, row in ipairs(in_order(params)) do
    local p = row.param
    out[i] = {
      name = row.name, type = p.kind, required = p.required == true, default = p.default,
      doc = p.doc, choices = p.choices, min = p.min, max = p.max, of = p.of,
    }
  end
  return out
end

local function resolve_one(name, p, given, problems)
  local kind = kinds[p.kind]
  if given == nil and p.required then
    problems[#problems + 1] = string.format("the parameter %q is missing: %s", name,
      kind.expected(p, nil))
    return nil
  end
  if given == nil then
    given = p.default
  end
  if given == nil then
    return nil
  end
  local value = kind.convert(given, p)
  if value == nil then
    problems[#problems + 1] = string.format("the parameter %q is %s, but should be %s%s", name,
      show(given), kind.expected(p, given), kind.suggest and kind.suggest(given, p) or "")
  end
  return value
end

-- The values a recipe gets. Raises "bad_params" with every problem found.
function M.resolve(params, given)
  local out, problems, names = {}, {}, {}
  for _, row in ipairs(in_order(params)) do
    names[#names + 1] = row.name
    out[row.name] = resolve_one(row.name, row.param, given[row.name], problems)
  end
  for name in pairs(given) do
    if not params[name] then
      problems[#problems + 1] = string.format("there is no parameter %s%s", show(name),
        nearest.hint(name, names))
    end
  end
  if #problems > 0 then
    errors.raise("bad_params", table.concat(problems, "; "),
      #names > 0 and "the recipe takes: " .. table.concat(names, ", ")
        or "the recipe takes no parameters", { problems = problems })
  end
  return out
end

return M
