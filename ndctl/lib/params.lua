-- lib/params.lua - a recipe's parameters from the words of the command line.
--
-- `--drain 5s` sets drain, `--health.path /up` sets a member, `--param drain=5s` is the long way.
-- Values go as text, which the recipe's own parameters read; what looks like JSON goes as JSON, a
-- name without a value as true, a repeated one as a list. The daemon names what is unknown.

local json = require "json"

local params = {}

local function value_of(value)
  if type(value) == "table" then return json.array(value) end
  if type(value) == "string" and value:find("^%s*[{%[]") then
    local ok, decoded = pcall(json.decode, value)
    if ok then return decoded end
  end
  return value
end

-- given: name -> value from the command line. Returns the table to send.
function params.read(given)
  local result = {}
  for name, value in pairs(given) do
    local base, member = name:match("^([^.]+)%.(.+)$")
    if not base then
      result[name] = result[name] or value_of(value)
    else
      if type(result[base]) ~= "table" then result[base] = {} end
      result[base][member] = value_of(value)
    end
  end
  return result
end

return params
