-- Durations and sizes as people write them.
--
-- A duration is a number of seconds in a recipe ("1h30m" is 5400, "250ms" is 0.25), so that
-- `time.sleep(2 * p.settle)` means what it says; it reaches an effect as whole milliseconds.
-- A size is a number of bytes ("512MiB", "2GB"; K, M and G without more are binary).

local M = {}

local seconds = { ms = 0.001, s = 1, m = 60, h = 3600, d = 86400 }

local function tidy(number)
  return math.tointeger(number) or number
end

-- Seconds from 30, "30", "30s", "1h30m", "250ms"; nil where it isn't a duration.
function M.duration(value)
  if type(value) == "number" then
    if value ~= value or value < 0 or value > 1e10 then
      return nil
    end
    return tidy(value)
  end
  if type(value) ~= "string" then
    return nil
  end
  local plain = value:match("^%d+%.?%d*$")
  if plain then
    return M.duration(tonumber(plain))
  end
  local total, at = 0, 1
  while at <= #value do
    local number, unit, after = value:match("^(%d+%.?%d*)(%a+)()", at)
    if not number or not seconds[unit] then
      return nil
    end
    total, at = total + tonumber(number) * seconds[unit], after
  end
  return #value > 0 and M.duration(total) or nil
end

-- Whole milliseconds from anything M.duration takes; rounded up, so that a wait is never shorter.
function M.milliseconds(value)
  local duration = M.duration(value)
  return duration and math.ceil(duration * 1000 - 1e-6)
end

local bytes = {
  [""] = 1, b = 1,
  k = 2 ^ 10, kib = 2 ^ 10, kb = 1e3,
  m = 2 ^ 20, mib = 2 ^ 20, mb = 1e6,
  g = 2 ^ 30, gib = 2 ^ 30, gb = 1e9,
  t = 2 ^ 40, tib = 2 ^ 40, tb = 1e12,
}

-- Bytes from 1048576, "1MiB", "1.5GB", "512M"; nil where it isn't a size.
function M.size(value)
  local number, unit = value, ""
  if type(value) == "string" then
    number, unit = value:match("^(%d+%.?%d*)%s*(%a*)$")
    number, unit = tonumber(number or ""), (unit or ""):lower()
  end
  if type(number) ~= "number" or number ~= number or number < 0 or not bytes[unit] then
    return nil
  end
  local total = number * bytes[unit]
  return total < 2 ^ 53 and math.tointeger(math.floor(total)) or nil
end

return M
