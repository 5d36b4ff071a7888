-- lib/text.lua - how ndctl writes values for people: widths, times, sizes, near misses.
--
-- Pure functions. Whatever comes from outside (log lines, labels, names) goes through `clean`
-- before it reaches a terminal, so that nobody's text can move the cursor.

local text = {}

-- Removes escape sequences and control characters; a tab becomes two blanks.
function text.clean(s)
  s = tostring(s):gsub("\27%][^\7\27]*\7?", ""):gsub("\27%[[0-?]*[ -/]*[@-~]?", "")
  s = s:gsub("\t", "  "):gsub("[%c\127]", "")
  return (s:gsub("\xc2[\x80-\x9f]", ""))
end

-- As clean, but keeps colours (SGR sequences): for an app's own log lines on a terminal.
function text.clean_keeping_colour(s)
  local kept = {}
  s = s:gsub("\27%[[0-9;]*m", function(sequence)
    kept[#kept + 1] = sequence
    return "\1"
  end)
  local n = 0
  s = s:gsub("\27%][^\7\27]*\7?", ""):gsub("\27%[[0-?]*[ -/]*[@-~]?", "")
  s = s:gsub("[\2-\8\11-\31\127]", "")
  s = s:gsub("\1", function()
    n = n + 1
    return kept[n] or ""
  end)
  return #kept > 0 and s .. "\27[0m" or s
end

-- East Asian wide characters and emoji take two columns; combining marks none.
local function columns_of(c)
  if (c >= 0x300 and c <= 0x36f) or c == 0x200b or c == 0x200d or (c >= 0xfe00 and c <= 0xfe0f) then
    return 0
  end
  if (c >= 0x1100 and c <= 0x115f) or (c >= 0x2e80 and c <= 0xa4cf) or (c >= 0xac00 and c <= 0xd7a3)
    or (c >= 0xf900 and c <= 0xfaff) or (c >= 0xfe30 and c <= 0xfe6f)
    or (c >= 0xff00 and c <= 0xff60) or (c >= 0x1f300 and c <= 0x1faff)
    or (c >= 0x20000 and c <= 0x3fffd) then
    return 2
  end
  return 1
end

-- Columns that `s` takes on a terminal; bytes where it isn't UTF-8.
function text.width(s)
  if not s:find("[\x80-\xff]") then return #s end
  if not utf8.len(s) then return #s end
  local n = 0
  for _, c in utf8.codes(s) do n = n + columns_of(c) end
  return n
end

-- Cuts `s` to `columns`, the last of them an ellipsis where something was cut.
function text.fit(s, columns, ascii)
  if text.width(s) <= columns then return s end
  local dots = ascii and "..." or "…"
  local room = columns - (ascii and 3 or 1)
  if room <= 0 then return s:sub(1, math.max(columns, 0)) end
  if not utf8.len(s) then return s:sub(1, room) .. dots end
  local used, last = 0, 0
  for at, c in utf8.codes(s) do
    used = used + columns_of(c)
    if used > room then break end
    last = at + #utf8.char(c) - 1
  end
  return s:sub(1, last) .. dots
end

function text.pad(s, columns, right)
  local blanks = (" "):rep(columns - text.width(s))
  return right and blanks .. s or s .. blanks
end

-- Breaks `s` at blanks into lines of at most `columns`.
function text.wrap(s, columns)
  local lines, line = {}, ""
  for word in s:gmatch("%S+") do
    if line ~= "" and text.width(line) + 1 + text.width(word) > columns then
      lines[#lines + 1] = line
      line = word
    else
      line = line == "" and word or line .. " " .. word
    end
  end
  lines[#lines + 1] = line
  return lines
end

function text.plural(n, one, many)
  return ("%d %s"):format(n, n == 1 and one or many or one .. "s")
end

-- Milliseconds as "0.3s", "12.4s", "3m05s", "2h10m", "3d4h".
function text.duration(ms)
  local s = math.max(ms, 0) / 1000
  if s < 59.95 then return ("%.1fs"):format(s) end
  s = math.floor(s + 0.5)
  if s < 3600 then return ("%dm%02ds"):format(s // 60, s % 60) end
  if s < 86400 then return ("%dh%02dm"):format(s // 3600, s % 3600 // 60) end
  return ("%dd%dh"):format(s // 86400, s % 86400 // 3600)
end

local units = { ms = 1, s = 1000, m = 60000, h = 3600000, d = 86400000 }

-- "1h30m", "500ms", "1.5s" to milliseconds; nil where it isn't a duration.
function text.parse_duration(s)
  local total, rest = 0, s
  while rest ~= "" do
    local number, unit, after = rest:match("^(%d+%.?%d*)(%a+)(.*)$")
    if not number or not units[unit] then return nil end
    total = total + tonumber(number) * units[unit]
    rest = after
  end
  if s == "" then return nil end
  return math.floor(total)
end

-- Days since 1970-01-01 of a date of the Gregorian calendar (years counted from March).
local function days(y, m, d)
  if m <= 2 then y = y - 1 end
  local era = y // 400
  local of_era = y - era * 400
  local of_year = (153 * (m + (m > 2 and -3 or 9)) + 2) // 5 + d - 1
  return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468
end

-- RFC 3339 to UTC milliseconds; nil where it isn't one. A number is taken as it is.
function text.parse_time(s)
  if type(s) == "number" then return s end
  if type(s) ~= "string" then return nil end
  local y, mo, d, h, mi, sec, rest =
    s:match("^(%d%d%d%d)-(%d%d)-(%d%d)[Tt ](%d%d):(%d%d):(%d%d)(.*)$")
  if not y then return nil end
  local fraction, zone = rest:match("^(%.?%d*)(.*)$")
  local shift = 0
  if zone:upper() ~= "Z" then
    local sign, zh, zm = zone:match("^([+-])(%d%d):(%d%d)$")
    if not sign then return nil end
    shift = (tonumber(zh) * 60 + tonumber(zm)) * (sign == "+" and 60000 or -60000)
  end
  local ms = math.floor((tonumber("0" .. fraction) or 0) * 1000 + 0.5)
  local whole = days(tonumber(y), tonumber(mo), tonumber(d)) * 86400 + tonumber(h) * 3600
    + tonumber(mi) * 60 + tonumber(sec)
  return whole * 1000 + ms - shift
end

-- A time (RFC 3339 or ms) seen from `now` (ms): "just now", "40s ago", "3h ago", "in 5m", "-".
function text.ago(time, now)
  local ms = text.parse_time(time)
  if not ms then return "-" end
  local gap = now - ms
  local s = math.floor(math.abs(gap) / 1000)
  local amount
  if s < 1 then return "just now"
  elseif s < 100 then amount = s .. "s"
  elseif s < 5400 then amount = (s + 30) // 60 .. "m"
  elseif s < 36 * 3600 then amount = (s + 1800) // 3600 .. "h"
  else amount = (s + 43200) // 86400 .. "d" end
  return gap < 0 and "in " .. amount or amount .. " ago"
end

function text.bytes(n)
  if n < 1000 then return ("%d B"):format(n) end
  for _, unit in ipairs { "kB", "MB", "GB", "TB" } do
    n = n / 1000
    if n < 999.5 or unit == "TB" then
      return (n < 10 and "%.1f %s" or "%.0f %s"):format(n, unit)
    end
  end
end

-- A digest short enough to read: the twelve digits that Docker shows.
function text.digest(s)
  return (s:gsub("sha256:(%x%x%x%x%x%x%x%x%x%x%x%x)%x+", "sha256:%1"))
end

-- The name of `known` that `name` was probably meant to be; nil where none is near.
text.nearest = require("nd.recipe.nearest").of

return text
