-- What a recipe expects of Lua 5.4 and LuaJIT doesn't have: called once, before anything else runs.
--
-- min, max and ceil are replaced too: compiled and interpreted, LuaJIT's own differ in the sign of a
-- zero and in what they make of NaN, and a run has to do the same each time.

local select, type, error, tonumber, floor = select, type, error, tonumber, math.floor

local function check_number(value, name, i)
  local number = tonumber(value)
  if not number then
    error(("bad argument #%d to '%s' (number expected, got %s)"):format(i, name,
      value == nil and "no value" or type(value)), 3)
  end
  return number
end

function math.ceil(x)
  return 0 - floor(-check_number(x, "ceil", 1))
end

function math.min(least, ...)
  least = check_number(least, "min", 1)
  for i = 1, select("#", ...) do
    local x = check_number((select(i, ...)), "min", i + 1)
    if x < least then
      least = x
    end
  end
  return least
end

function math.max(most, ...)
  most = check_number(most, "max", 1)
  for i = 1, select("#", ...) do
    local x = check_number((select(i, ...)), "max", i + 1)
    if x > most then
      most = x
    end
  end
  return most
end

-- A number is an integer here when it is whole and exact.
function math.tointeger(x)
  if type(x) == "number" and floor(x) == x and x >= -2 ^ 53 and x <= 2 ^ 53 then
    return x
  end
end

function math.type(x)
  if type(x) ~= "number" then
    return nil
  end
  return math.tointeger(x) and "integer" or "float"
end

math.maxinteger, math.mininteger = 2 ^ 53, -2 ^ 53

function table.pack(...)
  return { n = select("#", ...), ... }
end

function rawlen(value)
  if type(value) ~= "table" and type(value) ~= "string" then
    error("table or string expected", 2)
  end
  return #value
end
