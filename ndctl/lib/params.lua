-- lib/params.lua - a recipe's parameters from the words of the command line.
--
-- `--drain 5s` sets drain, `--health.path /up` sets a member, `--param drain=5s` is the long way.
-- What the recipe declares tells what is unknown or missing; values go as text and are read by the
-- recipe's own parameters.

local fail = require "ndctl.lib.fail"
local text = require "ndctl.lib.text"

local params = {}

local function boolean(name, value)
  local words = { ["true"] = true, yes = true, ["false"] = false, no = false }
  if value == true then return true end
  if words[value] == nil then
    fail.usage(("--%s takes true or false, not '%s'"):format(name, tostring(value)))
  end
  return words[value]
end

-- One value as it is sent: text, which the recipe's parameter reads; JSON where it looks like it.
local function convert(name, declared, value)
  local kind = declared and declared.type
  if type(value) == "table" then
    if kind == "list" then return require("json").array(value) end
    fail.usage(("--%s is given %d times"):format(name, #value))
  end
  if kind == "boolean" then return boolean(name, value) end
  if value == true then
    if declared then fail.usage(("--%s needs a value"):format(name)) end
    return true
  end
  if value:find("^%s*[{%[]") then
    local ok, decoded = pcall(require("json").decode, value)
    if ok then return decoded end
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
