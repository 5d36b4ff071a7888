-- A run's journal, read back after a restart: methods of a run (run.lua).
--
--   run:load()                       all of it into memory: effects, their answers and undos
--   run:read(row, column, whose)     the JSON in a column
--   run:is_damaged(what, ...)        notes the first thing that is not what was written, as run.damage:
--                                    the run is then not to go on

local json = require "json"
local effects = require "nd.effect"
local err = require "nd.error"

local M = {}

local function is_table(value) return type(value) == "table" end

-- What a column must hold beside being JSON.
local shapes = {
  args = is_table, error = is_table, reason = is_table, params = is_table, spec = is_table, files = is_table,
  undo = function(undo) return is_table(undo) and is_table(undo.args) and effects.find(undo.effect) end,
}

function M:is_damaged(what, ...)
  self.damage = self.damage or err.new("journal_damaged",
    ("the journal of the run %s is damaged: "):format(self.row.id) .. what:format(...),
    ("look at what is there: `ndctl runs show %s`, `ndctl status %s`; then start it anew"):format(self.row.id,
      self.app.name))
end

-- The JSON in a column of a row; nil where there is none, or where it can't be read: that is damage, and
-- `whose` says where it is.
function M:read(row, column, whose)
  if not row[column] then return nil end
  local ok, value = pcall(json.decode, row[column])
  if ok and (not shapes[column] or shapes[column](value)) then return value end
  self:is_damaged("the %s of %s can't be read (%s)", column, whose, ok and "it has another shape" or value.message)
end

function M:read_effect(e)
  local whose = ("effect %d (%s)"):format(e.n, e.label)
  e.args = self:read(e, "args", whose) or json.array {}
  e.result, e.error = self:read(e, "result", whose), self:read(e, "error", whose)
  e.undo = self:read(e, "undo", whose)
  self.effects[e.n] = e
  self.order = math.max(self.order, e.answered or 0)
end

-- Reads the journal into memory, without what is damaged. What such an effect did isn't known, and not
-- undone; `tidy` removes what the run has started.
function M:load()
  local row = self.row
  for _, column in ipairs { "params", "spec", "begun_with" } do
    if self:read(row, column, "the run") == nil then row[column] = nil end
  end
  row.reason, row.error = self:read(row, "reason", "the run"), self:read(row, "error", "the run")
  for _, e in ipairs(self.d.store:all("SELECT * FROM effect WHERE run = ? ORDER BY n", row.id)) do
    self.count = math.max(self.count, e.n)
    if e.damaged then
      self:is_damaged("effect %d (%s) is not what was written", e.n, e.label)
    else
      self:read_effect(e)
    end
  end
  self.log_seen = self.d.store:get(
    "SELECT count(*) AS n FROM event WHERE run = ? AND kind = 'run.log'", row.id).n
end

return M
