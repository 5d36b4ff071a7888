-- A health check: its fields, their kinds and defaults. Durations are seconds here.
--
-- Exactly one of `path` (HTTP), `tcp` and `command` says how to probe; HTTP on "/" is the default.

local nearest = require "nd.recipe.nearest"
local units = require "nd.recipe.units"

local M = {}

-- name, kind, default
M.fields = {
  { "path", "string" },           -- HTTP GET of this path
  { "port", "integer" },          -- nil: the app's port
  { "status", "status" },         -- 200, "200-399" or a list of these; default "200-399"
  { "body", "string" },           -- text that the answer must contain
  { "host", "string" },           -- Host header
  { "tcp", "boolean" },           -- a connect is enough
  { "command", "list" },          -- argv, run in the container; 0 is healthy
  { "interval", "duration", 1 },  -- between probes
  { "timeout", "duration", 5 },   -- of one probe
  { "deadline", "duration", 60 }, -- for the whole wait
  { "grace", "duration", 0 },     -- failures before this don't count
  { "successes", "integer", 1 },  -- in a row
}

local names, rows = {}, {}
for i, row in ipairs(M.fields) do
  names[i], rows[row[1]] = row[1], row
end

local function is_status(value)
  if type(value) == "table" then
    for _, one in ipairs(value) do
      if not is_status(one) then
        return false
      end
    end
    return #value > 0
  end
  return tostring(value):match("^[1-5]%d%d$") ~= nil
    or tostring(value):match("^[1-5]%d%d%-[1-5]%d%d$") ~= nil
end

local kinds = {
  string = { function(v) return type(v) == "string" and v or nil end, "a string" },
  integer = { function(v) return math.tointeger(tonumber(v)) end, "an integer" },
  boolean = {
    function(v)
      if type(v) == "boolean" then return v end
      return nil
    end,
    "true or false",
  },
  duration = { units.duration, 'a duration such as "10s"' },
  list = {
    function(v) return type(v) == "table" and #v > 0 and v or nil end, "a list of strings",
  },
  status = { function(v) return is_status(v) and v or nil end, '200, "200-399" or a list of these' },
}

-- A health check with every default filled in, or nil and what is wrong with it.
-- A string is a path.
function M.resolve(value)
  if type(value) == "string" then
    value = { path = value }
  end
  if type(value) ~= "table" then
    return nil, "a path or a table such as { path = \"/healthz\", deadline = \"60s\" }"
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
  local ways = (out.path and 1 or 0) + (out.tcp and 1 or 0) + (out.command and 1 or 0)
  if ways > 1 then
    return nil, "a health check with only one of path, tcp and command"
  end
  if ways == 0 then
    out.path = "/"
  end
  for _, row in ipairs(M.fields) do
    if out[row[1]] == nil then
      out[row[1]] = row[3]
    end
  end
  return out
end

-- The same with durations in milliseconds, as effects take it.
function M.for_effect(value)
  local resolved, why = M.resolve(value)
  if not resolved then
    return nil, why
  end
  for _, row in ipairs(M.fields) do
    if row[2] == "duration" then
      resolved[row[1]] = units.milliseconds(resolved[row[1]])
    end
  end
  return resolved
end

return M
