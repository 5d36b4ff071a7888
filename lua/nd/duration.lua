-- Durations as people write them: "500ms", "30s", "5m", "1h30m", "2d", or a number of seconds.

local err = require "nd.error"
local units = require "nd.recipe.units"

local M = {}

-- Raises bad_request naming the field.
function M.ms(field, value)
  local ms = units.milliseconds(value)
  if not ms then
    err.raise("bad_request", ("%s: %s is not a duration"):format(field, tostring(value)),
      "write 500ms, 30s, 5m or 1h30m")
  end
  return ms
end

-- 1500 -> "1.5s"
function M.text(ms)
  if ms == 0 then return "0s" end
  if ms < 1000 then return ("%dms"):format(ms) end
  if ms < 60000 then return (("%.1fs"):format(ms / 1000):gsub("%.0s", "s")) end
  if ms < 3600000 then return ("%dm%02ds"):format(ms // 60000, ms % 60000 // 1000) end
  return ("%dh%02dm"):format(ms // 3600000, ms % 3600000 // 60000)
end

return M
