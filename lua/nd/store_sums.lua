-- Checksums: a row that a failing disk has changed is told from what was written, and never acted on.
--
-- Each table but those that are only shown has a last column `checksum`, nd_sum of all others. SQLite
-- itself writes it, by triggers that exist on the daemon's connection only, so that no statement can
-- forget it; a row that was damaged before a change stays so. Reading needs nothing either: a result that
-- begins with a whole row says `damaged` (runtime/engine/store_sum.h). A row that was put right is believed
-- with `checksum = 0`.
--
--   sums.attach(connection)            makes the columns and triggers; after migrations, too
--   sums.watch(connection)             the triggers only, for tables that have the column
--   sums.damaged(connection) -> {{table=, key=}, ...}     parks; looks at every row but those of journals,
--                                      which may be many, and are looked at when a run goes on
--   sums.schema(connection) -> text    what all tables, indexes and the version of the schema are

local crypto = require "crypto"

local M = {}

-- Shown, never acted on.
local TABLES = [[SELECT name FROM sqlite_schema WHERE type = 'table'
  AND name NOT IN ('event', 'metric', 'audit') AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name]]

-- {name =, columns = {name, ...} without the checksum, key = {name, ...}, before = how many columns
-- come before the checksum, nil where there is none}
local function tables(connection)
  local list = connection:rows(TABLES)
  for _, t in ipairs(list) do
    t.columns, t.key = {}, {}
    for _, column in ipairs(connection:rows("SELECT name, pk FROM pragma_table_info(?) ORDER BY cid", t.name)) do
      if column.name == "checksum" then
        t.before = #t.columns
      else
        t.columns[#t.columns + 1] = column.name
        if column.pk > 0 then t.key[#t.key + 1] = column.name end
      end
    end
  end
  return list
end

-- nd_sum of a row's columns; `row`: "NEW.", "OLD." or "".
local function sum(columns, row, count)
  local list = {}
  for i = 1, count or #columns do list[i] = ('%s"%s"'):format(row, columns[i]) end
  return ("nd_sum(%s)"):format(table.concat(list, ", "))
end

local NO_TRIGGERS = [[
DROP TRIGGER IF EXISTS temp.$name_added;
DROP TRIGGER IF EXISTS temp.$name_changed;
]]

local TRIGGERS = NO_TRIGGERS .. [[
CREATE TEMP TRIGGER $name_added AFTER INSERT ON main.$name BEGIN
  UPDATE $name SET checksum = $new WHERE $same;
END;
CREATE TEMP TRIGGER $name_changed AFTER UPDATE OF $columns ON main.$name BEGIN
  UPDATE $name SET checksum = CASE WHEN OLD.checksum IN (0, $old) OR NEW.checksum = 0 THEN $new END WHERE $same;
END;
]]

local function triggers(t)
  local same = {}
  for i, name in ipairs(t.key) do same[i] = ("%s = NEW.%s"):format(name, name) end
  local covered = table.move(t.columns, 1, t.before, 1, {})
  return (TRIGGERS:gsub("%$(%l+)", { name = t.name, same = table.concat(same, " AND "),
    columns = '"' .. table.concat(covered, '", "') .. '"', new = sum(covered, "NEW."), old = sum(covered, "OLD.") }))
end

-- The checksum becomes the last column and covers all others. What was damaged stays so.
local function column(t)
  if t.before == #t.columns then return "" end
  local add = ("ALTER TABLE %s ADD COLUMN %s INTEGER;\n"):format(t.name, t.before and "checksum_new" or "checksum")
  if not t.before then return add .. ("UPDATE %s SET checksum = %s;\n"):format(t.name, sum(t.columns, "")) end
  return (NO_TRIGGERS .. add .. [[
    UPDATE $name SET checksum_new = CASE WHEN checksum IN (0, $before) THEN $all END;
    ALTER TABLE $name DROP COLUMN checksum;
    ALTER TABLE $name RENAME COLUMN checksum_new TO checksum;
  ]]):gsub("%$(%l+)", { name = t.name, before = sum(t.columns, "", t.before), all = sum(t.columns, "") })
end

function M.watch(connection)
  local script = {}
  for _, t in ipairs(tables(connection)) do
    if t.before then script[#script + 1] = triggers(t) end
  end
  if #script > 0 then connection:script(table.concat(script)) end
end

function M.attach(connection)
  local script = {}
  for _, t in ipairs(tables(connection)) do script[#script + 1] = column(t) end
  script = table.concat(script)
  if script ~= "" then connection:script(script) end
  M.watch(connection)
end

function M.damaged(connection)
  local list = {}
  for _, t in ipairs(tables(connection)) do
    local rows = t.name ~= "run" and t.name ~= "effect" and connection:all(
      ("SELECT * FROM %s WHERE checksum IS NULL OR checksum NOT IN (0, %s)"):format(t.name, sum(t.columns, "")))
    for _, row in ipairs(rows or {}) do
      local key = {}
      for i, name in ipairs(t.key) do key[i] = ("%s = %s"):format(name, row[name]) end
      list[#list + 1] = { table = t.name, key = table.concat(key, ", ") }
    end
  end
  return list
end

function M.schema(connection)
  local parts = { tostring(connection:get("PRAGMA user_version").user_version) }
  for _, row in ipairs(connection:rows [[SELECT sql FROM sqlite_schema
    WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY rowid]]) do
    parts[#parts + 1] = row.sql
  end
  return crypto.sha256(table.concat(parts, "\n"))
end

return M
