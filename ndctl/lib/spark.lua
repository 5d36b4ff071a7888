-- lib/spark.lua - numbers as a line of bars, one column each: ▁▂▄▆█.
--
-- `spark.line(values, columns, most)`: the last `columns` of the values, scaled from 0 to `most`
-- (without it, to the largest of them); what isn't a number is a gap. Outside UTF-8 in ASCII.

local out = require "ndctl.lib.out"

local spark = {}

local bars = { utf8 = { "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█" }, ascii = { "_", ".", "-", "=", "+", "*", "%", "#" } }

function spark.line(values, columns, most)
  local set = out.utf8 and bars.utf8 or bars.ascii
  local first = math.max(1, #values - columns + 1)
  if not most then
    most = 0
    for i = first, #values do
      if type(values[i]) == "number" then most = math.max(most, values[i]) end
    end
  end
  local parts = {}
  for i = first, #values do
    local value = values[i]
    if type(value) ~= "number" then
      parts[#parts + 1] = " "
    else
      local height = most > 0 and math.floor(value / most * #set) or 0
      parts[#parts + 1] = set[math.max(1, math.min(#set, height + 1))]
    end
  end
  return table.concat(parts)
end

-- As many values as there are columns, each the mean of its share.
function spark.squeeze(values, columns)
  if #values <= columns then return values end
  local squeezed = {}
  for i = 1, columns do
    local sum, n = 0, 0
    for at = (i - 1) * #values // columns + 1, i * #values // columns do
      if type(values[at]) == "number" then sum, n = sum + values[at], n + 1 end
    end
    squeezed[i] = n > 0 and sum / n or false
  end
  return squeezed
end

return spark
