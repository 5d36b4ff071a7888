-- A health check: its fields and their kinds. Durations are seconds here.
--
-- At most one of `path` (HTTP), `tcp`, `command` and `up` says how to probe. What is left out is the
-- app's own setting, else the daemon's default, so nothing is filled in here.

local nearest = require "nd.recipe.nearest"
local units = require "nd.recipe.units"

local M = {}

M.fields = {
  { "path", "string" },       -- HTTP GET of this path; 200-399 is healthy
  { "port", "integer" },      -- the app's port
  { "status", "integer" },    -- this status alone is healthy
  { "body", "string" },       -- text that the answer must contain
  { "tcp", "boolean" },       -- a connect is enough
  { "command", "list" },      -- argv, run in the container; exit status 0 is healthy
  { "up", "duration" },       -- it has run for so long without ending
  { "interval", "duration" }, -- between probes
  { "timeout", "duration" },  -- of one probe
  { "deadline", "duration" }, -- for the whole wait
  { "grace", "duration" },    -- failures before this don't count
  { "successes", "integer" }, -- so many in a row make it healthy
  { "failures", "integer" },  -- so many in a row make it unhealthy again
}

local names, rows = {}, {}
for i, row in ipairs(M.fields) do
  names[i], rows[row[1]] = row[1], row
end

local function as_string(value)
  return type(value) == "string" and value or nil
end

local function as_integer(value)
  return math.tointeger(tonumber(value))
end

local function as_boolean(value)
  if type(value) == "boolean" then
    return value
  end
  return nil
end

local function as_list(value)
  return type(value) == "table" and #value > 0 and value or nil
end

local kinds = {
  string = { as_string, "a string" },
  integer = { as_integer, "an integer" },
  boolean = { as_boolean, "true or false" },
  duration = { units.duration, 'a duration such as "10s"' },
  list = { as_list, "a list of strings" },
}

-- A health check with its fields checked, or nil and what it should be. A string is a path.
function M.resolve(value)
  if type(value) == "string" then
    value = { path = value }
  end
  if type(value) ~= "table" then
    return nil, 'a path or a table such as { path = "/healthz", deadline = "60s" }'
  end
  local out = {}
  for name, given in pairs(value) do
    local row = rows[name]
    if not row then
      return nil, string.format("a health check without the field %q%s", tostring(name),
        nearest.hint(name, names))
    end
    out[name] = kinds[row[2]][1](given)
    if out[name] == nil then
      return nil, string.format("a health check whose %s is %s", name, kinds[row[2]][2])
    end
  end
  if (out.path and 1 or 0) + (out.tcp and 1 or 0) + (out.command and 1 or 0) + (out.up and 1 or 0) > 1 then
    return nil, "a health check with only one of path, tcp, command and up"
  end
  return out
end

-- The same with durations in milliseconds, as effects take it.
function M.for_effect(value)
  local resolved, why = M.resolve(value)
  if not resolved then
    return nil, why
  end
  for name, given in pairs(resolved) do
    if rows[name][2] == "duration" then
      resolved[name] = units.milliseconds(given)
    end
  end
  return resolved
end

return M
