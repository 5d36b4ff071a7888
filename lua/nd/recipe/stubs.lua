-- Effects as functions: app.start(...), docker.pull(...), made from the rows of effects.lua.

local effects = require "nd.recipe.effects"
local errors = require "nd.recipe.errors"
local health = require "nd.recipe.health"
local scheduler = require "nd.recipe.scheduler"
local units = require "nd.recipe.units"

local M = {}

local json       -- for json.null
local names = {} -- effect function -> its name
local rows = {}

-- ---- arguments ----

local convert

local kinds = {
  duration = { units.milliseconds, 'a duration such as "30s"' },
  size = { units.size, 'a size such as "512MiB"' },
}

local function wrong(name, argument, value, expected)
  errors.raise("bad_argument", string.format("%s: %s is %s, but should be %s", name, argument,
    type(value) == "string" and string.format("%q", value) or tostring(value), expected))
end

function convert(name, argument, kind, value)
  if value == nil or not kind then
    return value
  end
  if kind == "health" then
    local resolved, expected = health.for_effect(value)
    return resolved or wrong(name, argument, value, expected)
  end
  if type(kind) == "table" then
    if type(value) ~= "table" then
      wrong(name, argument, value, "a table")
    end
    local out = {}
    for field, inner in pairs(value) do
      out[field] = convert(name, argument .. "." .. tostring(field), kind[field], inner)
    end
    return out
  end
  local converted = kinds[kind][1](value)
  if converted == nil then
    wrong(name, argument, value, kinds[kind][2])
  end
  return converted
end

-- The arguments as the list that is sent; trailing ones that were left out are not in it.
local function argument_list(row, ...)
  local given, specs = table.pack(...), row[4]
  local list, count = json.array({}), 0
  if given.n > #specs then
    errors.raise("bad_argument", string.format("%s takes %d argument%s, not %d", row[1], #specs,
      #specs == 1 and "" or "s", given.n))
  end
  for i = 1, given.n do
    if given[i] ~= nil then
      count = i
    end
  end
  for i = 1, count do
    local spec = specs[i]
    local argument, kind = spec, nil
    if type(spec) == "table" then
      argument, kind = spec[1], spec[2]
    end
    local value = convert(row[1], argument:gsub("%?$", ""), kind, given[i])
    list[i] = value == nil and json.null or value
  end
  return list
end

-- ---- stubs ----

local function ask(row, pivot, ...)
  return scheduler.effect(row[1], row[2], row[3], argument_list(row, ...), pivot)
end

-- The effect `name` with these arguments, whatever a recipe has made of its own globals.
function M.call(name, ...)
  return ask(rows[name], false, ...)
end

-- The row of an effect given as a function (app.switch) or a name ("app.switch").
local function row_of(what, effect)
  local name = names[effect] or effect
  local row = rows[name]
  if not row or row[3] == "special" then
    errors.raise("bad_argument", string.format("%s needs an effect, not %s", what,
      type(effect) == "string" and string.format("%q", effect) or "a " .. type(effect)),
      what .. "(app.remove, release), for instance")
  end
  return row
end

-- Asks for the effect as the point of no return of the run.
function M.pivot(effect, ...)
  return ask(row_of("pivot", effect), true, ...)
end

-- Sets what a rollback does under `label`, in place of what had this label; without an effect, that
-- is only dropped.
function M.undo(label, effect, ...)
  if type(label) ~= "string" then
    errors.raise("bad_argument", "undo needs a label first, not a " .. type(label))
  end
  if effect == nil then
    return ask(rows["undo.set"], false, label)
  end
  local row = row_of("undo", effect)
  return ask(rows["undo.set"], false, label, row[1], argument_list(row, ...))
end

-- The last parts of the names of all effects: start of app.start.
function M.list()
  local list = {}
  for _, row in ipairs(effects) do
    list[#list + 1] = row[1]:match("%w+$")
  end
  return list
end

-- Puts the stubs where their names say: into[app].start, into.uuid.
function M.open(the_json, into)
  json = the_json
  for _, row in ipairs(effects) do
    local family, name = row[1]:match("^(%w+)%.(%w+)$")
    rows[row[1]] = row
    if row[3] ~= "special" then
      local fn = function(...)
        return ask(row, false, ...)
      end
      names[fn] = row[1]
      if family then
        into[family] = into[family] or {}
        into[family][name] = fn
      else
        into[row[1]] = fn
      end
    end
  end
end

return M
