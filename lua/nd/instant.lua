-- Points in time as people and programs write them: UTC milliseconds, RFC 3339, or how long ago
-- ("1h").

local clock = require "clock"
local err = require "nd.error"
local units = require "nd.recipe.units"

local M = {}

-- Milliseconds of a date of the Gregorian calendar. A year that begins in March ends with its leap day.
local function date_ms(y, mo, d)
  if mo <= 2 then y, mo = y - 1, mo + 12 end
  return (365 * y + y // 4 - y // 100 + y // 400 + (153 * (mo - 3) + 2) // 5 + d - 719469) * 86400000
end

local function rfc3339(text)
  local y, mo, d, h, mi, s, rest, zone =
    text:match "^(%d%d%d%d)%-(%d%d)%-(%d%d)[Tt ](%d%d):(%d%d):(%d%d)(%.?%d*)(.*)$"
  if not y then return nil end
  local shift = 0
  if zone:upper() ~= "Z" then
    local sign, zh, zm = zone:match "^([+-])(%d%d):(%d%d)$"
    if not sign then return nil end
    shift = (zh * 60 + zm) * (sign == "+" and 60000 or -60000)
  end
  local ms = date_ms(math.tointeger(y), math.tointeger(mo), math.tointeger(d))
    + ((h * 60 + mi) * 60 + s) * 1000 + (tonumber("0" .. rest) or 0) * 1000 - shift
  return math.floor(ms)
end

-- text -> UTC milliseconds; raises bad_request naming the field.
function M.ms(field, text)
  local plain = text:match "^%d+$" and math.tointeger(tonumber(text))
  if plain then return plain end
  local ago = units.milliseconds(text)
  local ms = ago and clock.now() - ago or rfc3339(text)
  if not ms or ms < 0 then
    err.raise("bad_request", ("%s: %q is not a time"):format(field, text),
      "write how long ago (1h), UTC milliseconds, or 2026-01-31T12:00:00Z")
  end
  return ms
end

return M
