-- tamper.lua - an audit log, and all that can be done to a copy of it. Random, by a seed.
--
--   local t = tamper.new(seed, rows)        a daemon's log of so many rows, stopped in order, and its export
--   t:database() -> kind, found             a change of one of `tamper.database_kinds`; whether it was found
--   t:export() -> kind, found               the same for a change of the export, and `tamper.export_kinds`
--   t:untouched() -> whether neither is called broken
--   t:close()
--
-- Half of the changes of the database also make the chain anew from there on, as somebody would who can
-- write to the database and read this program, but hasn't the key.

local db = require "db"
local fs = require "fs"
local json = require "json"
local log = require "log"
local Log = require "nd.service.audit_log"
local Store = require "nd.store"
local chain = require "nd.service.audit_chain"

local M = {}

local Tamper = {}
Tamper.__index = Tamper

local texts = { "outcome", "operation", "who", "origin", "app", "object", "hash", "detail" }

local function fill(audit, rows)
  for i = 1, rows do
    audit:post { outcome = i % 2 == 1 and "asked" or "done", operation = "deploy", permission = "deploy",
      request = "r" .. (i + 1) // 2, kind = "token", who = "ci" .. i % 3, origin = "127.0.0.1:" .. 40000 + i,
      project = "default", environment = "production", app = "shop", object = "shop:v" .. i }
    if i % 40 == 0 then audit:append { outcome = "noted", operation = "app.seen", kind = "system" } end
  end
end

-- In memory where there is some: nothing here is about the disk.
local function temporary()
  local name = os.tmpname()
  os.remove(name)
  local dir = (fs.exists "/dev/shm" and "/dev/shm/" or "/tmp/") .. name:match "[^/]*$"
  fs.mkdir(dir, 448)
  return dir
end

local function run(dir, fn)
  local store = Store.open(dir, "a machine")
  local audit = Log.new(store, dir)
  audit:open()
  local ok, e = pcall(fn, audit)
  audit:close()
  store:close()
  if not ok then error(e, 0) end
  return e
end

-- Checkpoints are due by rows or time; here, after every stop.
function M.new(seed, rows)
  math.randomseed(seed)
  local self = setmetatable({ dir = temporary(), copies = temporary() }, Tamper)
  for _ = 1, 3 do run(self.dir, function(audit) fill(audit, rows // 3) end) end
  run(self.dir, function(audit)
    local lines = {}
    audit:export(nil, function(line) lines[#lines + 1] = line end)
    self.lines, self.key = lines, audit.key
  end)
  self.store = Store.open(self.dir, "a machine")
  return self
end

function Tamper:close()
  self.store:close()
  fs.remove(self.dir, { recursive = true })
  fs.remove(self.copies, { recursive = true })
end

-- ---- the database ----

local function pick(list) return list[math.random(#list)] end

local function rows_of(c) return c:all "SELECT * FROM audit ORDER BY seq" end

-- Past the triggers that keep the daemon itself from doing it.
local function open_copy(path)
  local c = db.open(path)
  c:script "DROP TRIGGER audit_unchanged; DROP TRIGGER audit_kept; DELETE FROM meta WHERE key = 'schema'"
  return c
end

local function other(value)
  if math.type(value) == "integer" then return value + pick { -1, 1, 1000 } end
  if value == nil then return pick { "x", "admin" } end
  local at = math.random(#value)
  local char = value:sub(at, at)
  return value:sub(1, at - 1) .. (char == "7" and "8" or "7") .. value:sub(at + 1)
end

local function edit(c, rows)
  local row, name = pick(rows), pick(texts)
  if math.random(4) == 1 then name = "time" end
  local value = name == "outcome" and (row.outcome == "done" and "refused" or "done") or other(row[name])
  c:write { { ("UPDATE audit SET %s = ? WHERE seq = ?"):format(name), value, row.seq } }
  return name ~= "hash" and row.seq or nil -- to chain anew would put it right
end

local function delete(c, rows)
  local at, count = math.random(#rows - 1), math.random(5)
  local last = math.min(at + count - 1, #rows - 1) -- the very last one is a truncation
  c:write { { "DELETE FROM audit WHERE seq BETWEEN ? AND ?", rows[at].seq, rows[last].seq } }
  return rows[at].seq
end

-- ... and numbers the rest anew, so that no number is missing.
local function delete_and_close(c, rows)
  local at = math.random(#rows - 1)
  local seq = rows[at].seq
  c:write { { "DELETE FROM audit WHERE seq = ?", seq }, { "UPDATE audit SET seq = -seq WHERE seq > ?", seq },
    { "UPDATE audit SET seq = -seq - 1 WHERE seq < 0" } }
  return seq
end

local COLUMNS = "time, outcome, operation, permission, request, kind, who, credential, origin, project, environment, "
  .. "app, object, run, code, count, detail, hash"

local function insert(c, rows)
  local seq = rows[math.random(#rows)].seq + 1 -- the end among them
  c:write { { "UPDATE audit SET seq = -seq WHERE seq >= ?", seq }, { "UPDATE audit SET seq = -seq + 1 WHERE seq < 0" },
    { ("INSERT INTO audit (seq, %s) SELECT ?, %s FROM audit WHERE seq = ?"):format(COLUMNS, COLUMNS), seq,
      pick { seq - 1, rows[1].seq } } }
  return seq
end

local function swap(c, rows)
  local a = math.random(#rows)
  local b = (a + math.random(#rows - 1) - 1) % #rows + 1
  local x, y = rows[a].seq, rows[b].seq
  c:write { { "UPDATE audit SET seq = -1 WHERE seq = ?", x }, { "UPDATE audit SET seq = ? WHERE seq = ?", x, y },
    { "UPDATE audit SET seq = ? WHERE seq = -1", y } }
  return math.min(x, y)
end

local function truncate(c, rows)
  local from = pick { rows[#rows].seq, rows[math.random(#rows)].seq, rows[1].seq }
  c:write { { "DELETE FROM audit WHERE seq >= ?", from } }
  return from
end

local function truncate_front(c, rows)
  local to = rows[math.random(#rows - 1)].seq
  c:write { { "DELETE FROM audit WHERE seq <= ?", to } }
  return to + 1
end

local function base_of(c)
  return json.decode((c:get("SELECT value FROM meta WHERE key = 'audit_base'").value:match "{.*"))
end

-- The base is moved there too, by somebody who can't sign it.
local function move_base(c, rows)
  local to = truncate_front(c, rows) - 1
  local base = base_of(c)
  for _, row in ipairs(rows) do
    if row.seq == to then base.seq, base.hash = to, row.hash end
  end
  c:write { { "UPDATE meta SET value = ?, checksum = 0 WHERE key = 'audit_base'", to .. " " .. json.encode(base) } }
  return to + 1
end

local function drop_base(c)
  c:write { { "DELETE FROM meta WHERE key = 'audit_base'" } }
end

-- ... and has the file of the newest row say that it was always so; or takes that away.
local function truncate_with_head(c, rows, dir)
  local at = math.random(#rows - 1)
  c:write { { "DELETE FROM audit WHERE seq > ?", rows[at].seq } }
  local head = json.decode(fs.read(dir .. "/audit/head"))
  head.seq, head.hash = rows[at].seq, rows[at].hash
  if math.random(2) == 1 then chain.state(("x"):rep(32), head) end
  fs.write(dir .. "/audit/head", json.encode(head) .. "\n")
end

local function truncate_without_head(c, rows, dir)
  truncate(c, rows)
  fs.remove(dir .. "/audit/head")
end

local changes = { edit = edit, delete = delete, ["delete, renumbered"] = delete_and_close, insert = insert,
  swap = swap, truncate = truncate, ["truncate in front"] = truncate_front, ["move the base"] = move_base,
  ["drop the base"] = drop_base, ["truncate, and the head's file"] = truncate_with_head,
  ["truncate, without the head's file"] = truncate_without_head }
M.database_kinds = { "edit", "edit", "edit", "delete", "delete, renumbered", "insert", "insert", "swap", "swap",
  "truncate", "truncate", "truncate in front", "move the base", "drop the base",
  "truncate, and the head's file", "truncate, without the head's file" }

-- The chain anew from that row on: what needs no key.
local function chain_anew(c, from)
  local before = c:get("SELECT hash FROM audit WHERE seq < ? ORDER BY seq DESC LIMIT 1", from)
  local hash = before and before.hash
    or base_of(c).hash
  local statements = {}
  for _, row in ipairs(c:all("SELECT * FROM audit WHERE seq >= ? ORDER BY seq", from)) do
    row.hash = nil
    hash = chain.hash(hash, row)
    statements[#statements + 1] = { "UPDATE audit SET hash = ? WHERE seq = ?", hash, row.seq }
  end
  if #statements > 0 then c:write(statements) end
end

local function verdict_of(dir)
  local said = log.error
  log.error = function() end -- luacheck: ignore (that it is broken is what is provoked)
  local _ <close> = setmetatable({}, { __close = function() log.error = said end }) -- luacheck: ignore
  return run(dir, function(audit)
    audit:append { outcome = "noted", operation = "daemon.start", kind = "system" }
    return audit:verify()
  end)
end

local function copy_to(self, dir)
  fs.remove(dir, { recursive = true })
  fs.mkdir(dir .. "/audit", 448)
  self.store.db:backup(dir .. "/nextdeploy.db")
  for _, name in ipairs { "audit.key", "audit/head", "audit/key.pub" } do
    fs.write(dir .. "/" .. name, fs.read(self.dir .. "/" .. name))
  end
end

function Tamper:database()
  local dir, kind = self.copies .. "/state", pick(M.database_kinds)
  copy_to(self, dir)
  local c = open_copy(dir .. "/nextdeploy.db")
  local from = changes[kind](c, rows_of(c), dir)
  local anew = from and math.random(2) == 1
  if anew then chain_anew(c, from) end
  c:close()
  local verdict = verdict_of(dir)
  return kind .. (anew and ", chained anew" or ""), not verdict.ok, verdict
end

-- ---- an export ----

local edits = {}

edits["a byte"] = function(lines)
  local text = table.concat(lines)
  local at = math.random(#text)
  local byte = text:byte(at)
  return text:sub(1, at - 1) .. string.char((byte + math.random(255)) % 256) .. text:sub(at + 1)
end

edits["delete a line"] = function(lines)
  table.remove(lines, math.random(#lines))
  return table.concat(lines)
end

edits["insert a line"] = function(lines)
  table.insert(lines, math.random(#lines + 1), pick(lines))
  return table.concat(lines)
end

edits["swap two lines"] = function(lines)
  local a = math.random(#lines)
  local b = (a + math.random(#lines - 1) - 1) % #lines + 1
  lines[a], lines[b] = lines[b], lines[a]
  return table.concat(lines)
end

edits["truncate"] = function(lines)
  local text = table.concat(lines)
  return text:sub(1, math.random(#text) - 1)
end

edits["truncate at a line"] = function(lines)
  return table.concat(lines, "", 1, math.random(#lines) - 1)
end

-- All rows from there on chained anew, and the last line says their hash.
edits["edit, chained anew"] = function(lines)
  local at, hash = math.random(2, #lines - 1), nil
  for i = at, #lines do
    local value = json.decode(lines[i])
    if i == at then value.origin = "127.0.0.1:1" end
    if i == #lines then
      value.hash = hash
    else
      value.hash = nil
      value.hash = chain.hash(hash or json.decode(lines[i - 1]).hash, value)
      hash = value.hash
    end
    lines[i] = json.encode(value) .. "\n"
  end
  return table.concat(lines)
end

edits["signed by another"] = function(lines)
  local seed = ("x"):rep(32)
  for _, i in ipairs { 1, #lines } do lines[i] = json.encode(chain.state(seed, json.decode(lines[i]))) .. "\n" end
  return table.concat(lines)
end

M.export_kinds = {}
for kind in pairs(edits) do M.export_kinds[#M.export_kinds + 1] = kind end
table.sort(M.export_kinds)

local function verify_text(self, text)
  local v = chain.verifier(self.key)
  for line in text:gmatch "[^\n]*\n?" do
    if line ~= "" then v:line(line) end
  end
  return v:finish(true)
end

function Tamper:export()
  local kind = pick(M.export_kinds)
  local verdict = verify_text(self, edits[kind](table.move(self.lines, 1, #self.lines, 1, {})))
  return kind, not verdict.ok, verdict
end

function Tamper:untouched()
  local dir = self.copies .. "/state"
  copy_to(self, dir)
  local verdict = verdict_of(dir)
  local exported = verify_text(self, table.concat(self.lines))
  return verdict.ok and exported.ok and verdict.checkpoints > 0, verdict, exported
end

return M
