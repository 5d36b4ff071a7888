-- lib/table.lua - aligned tables for a terminal or a pipe.
--
-- `table.render(columns, rows)`: a column is {title, key | function(row), right = true?}; a cell of
-- nil or json.null shows as "-". The last column is never padded.

local text = require "ndctl.lib.text"

local tables = {}

local function cell(column, row)
  local value = column[2]
  if type(value) == "function" then value = value(row) else value = row[value] end
  if value == nil or type(value) == "userdata" or value == "" then return "-" end
  if math.type(value) == "float" and value == math.floor(value) then value = math.floor(value) end
  return text.clean(tostring(value))
end

-- Returns the table as lines, the titles first.
function tables.render(columns, rows)
  local cells, widths = {}, {}
  for c, column in ipairs(columns) do widths[c] = text.width(column[1]) end
  for r, row in ipairs(rows) do
    cells[r] = {}
    for c, column in ipairs(columns) do
      cells[r][c] = cell(column, row)
      widths[c] = math.max(widths[c], text.width(cells[r][c]))
    end
  end
  local function line(at)
    local parts = {}
    for c, column in ipairs(columns) do
      local s = at(c, column)
      parts[c] = (c == #columns and not column.right) and s or text.pad(s, widths[c], column.right)
    end
    return (table.concat(parts, "  "):gsub("%s+$", ""))
  end
  local lines = { line(function(_, column) return column[1] end) }
  for r in ipairs(rows) do
    lines[#lines + 1] = line(function(c) return cells[r][c] end)
  end
  return lines
end

-- Lines of "name   value" for {{name, value}, ...}; pairs without a value are left out.
function tables.pairs(list, indent)
  local width, lines = 0, {}
  for _, pair in ipairs(list) do
    if pair[2] ~= nil then width = math.max(width, text.width(pair[1])) end
  end
  for _, pair in ipairs(list) do
    if pair[2] ~= nil then
      lines[#lines + 1] = (indent or "") .. text.pad(pair[1], width) .. "  "
        .. text.clean(tostring(pair[2]))
    end
  end
  return lines
end

return tables
