-- lib/changes.lua - what would be another, of a plan of the daemon's: as a list and as lines.
--
--   changes.spread(list)   {field, from, to} of the daemon; a change of a table becomes the changes in
--                          it (env.PORT, health.path), what comes into being empty is left out
--   changes.lines(list)    + field  value | - field  value | ~ field  before -> after

local json = require "json"
local out = require "ndctl.lib.out"
local outcome = require "ndctl.lib.outcome"
local text = require "ndctl.lib.text"

local present = outcome.present

local changes = {}

local function is_map(value)
  return type(value) == "table" and not json.is_array(value)
end

local function spread(list, field, from, to)
  if (is_map(from) or is_map(to)) and (from == nil or is_map(from)) and (to == nil or is_map(to)) then
    local names = {}
    for name in pairs(from or {}) do names[#names + 1] = name end
    for name in pairs(to or {}) do
      if (from or {})[name] == nil then names[#names + 1] = name end
    end
    table.sort(names)
    for _, name in ipairs(names) do
      spread(list, field .. "." .. name, present((from or {})[name]), present((to or {})[name]))
    end
  elseif json.encode { from } ~= json.encode { to } then
    list[#list + 1] = { field = field, from = from, to = to }
  end
end

local function empty(value)
  return value == nil or type(value) == "table" and next(value) == nil
end

function changes.spread(list)
  local all = json.array {}
  for _, change in ipairs(list or {}) do
    local from, to = present(change.from), present(change.to)
    if not (empty(from) and empty(to)) then spread(all, change.field, from, to) end
  end
  return all
end

local function value_text(value)
  return text.clean(type(value) == "string" and value or json.encode(value))
end

function changes.lines(list)
  local paint, width, lines = out.painter(1), 0, {}
  for _, change in ipairs(list) do width = math.max(width, text.width(change.field)) end
  for i, change in ipairs(list) do
    local field = text.pad(text.clean(change.field), width)
    if change.from == nil then
      lines[i] = paint(("+ %s  %s"):format(field, value_text(change.to)), "green")
    elseif change.to == nil then
      lines[i] = paint(("- %s  %s"):format(field, value_text(change.from)), "red")
    else
      lines[i] = paint(("~ %s  %s -> %s"):format(field, value_text(change.from),
        value_text(change.to)), "yellow")
    end
  end
  return lines
end

return changes
