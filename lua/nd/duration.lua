-- Durations as people write them: "500ms", "30s", "5m", "1h30m", "2d", or a number of seconds.

local err = require "nd.error"

local M = {}

local units = { ms = 1, s = 1000, m = 60 * 1000, h = 3600 * 1000, d = 24 * 3600 * 1000 }

-- -> milliseconds, or nil where it can't be read
function M.parse(value)
  if type(value) == "number" then
    return value >= 0 and value < 1e9 and math.floor(value * 1000 + 0.5) or nil
  end
  if type(value) ~= "string" then return nil end
  local total, rest = 0, value
  while rest ~= "" do
    local number, unit, more = rest:match "^(%d+%.?%d*)(%a+)(.*)$"
    if not number or not units[unit] then return nil end
    total, rest = total + tonumber(number) * units[unit], more
  end
  return value ~= "" and total < 1e12 and math.floor(total + 0.5) or nil
end

-- Raises bad_request naming the field.
function M.ms(field, value)
  local ms = M.parse(value)
  if not ms then
    err.raise("bad_request", ("%s: %s is not a duration"):format(field, tostring(value)),
      "write 500ms, 30s, 5m or 1h30m")
  end
  return ms
end

-- 1500 -> "1.5s"
function M.text(ms)
  if ms < 1000 then return ("%dms"):format(ms) end
  if ms < 60000 then return (("%.1fs"):format(ms / 1000):gsub("%.0s", "s")) end
  if ms < 3600000 then return ("%dm%02ds"):format(ms // 60000, ms % 60000 // 1000) end
  return ("%dh%02dm"):format(ms // 3600000, ms % 3600000 // 60000)
end

return M
