-- The database: what survives. Opens it, migrates it, and offers two ways to write.
--
--   store:get(sql, ...)      a row by key, at once
--   store:rows(sql, ...)     the few rows of one key, at once
--   store:all(sql, ...)      rows, on the reader thread (parks)
--   store:memo(key, stamp, make, ...)   what make(...) made, a text or nil; a text is kept until the
--                            next commit, or another stamp
--   store:commit{stmts}      parks until they are durable; raises if they can't be
--   store:try{stmts}         the same for what a constraint may refuse
--   store:post{stmts}        queued: durable with, and in order before, the next commit
--   store:event(kind, app, run, data)   a statement that records an event, for either
--   store.redact(app, data) -> data     where it is set: what is taken out of an event's data
--
-- Whoever follows events waits on `store.changed` and reads the table: nothing is shown before its
-- commit. A row that isn't what was written (store_sums.lua) is raised as db_damaged; one of a run, an
-- effect, a recipe or a release says `damaged`. A statement is {sql, params...}; `expect = n` makes the
-- whole transaction fail with code "stale" unless it changed n rows.

local clock = require "clock"
local crypto = require "crypto"
local db = require "db"
local embed = require "embed"
local fs = require "fs"
local json = require "json"
local log = require "log"
local task = require "task"
local err = require "nd.error"
local sums = require "nd.store_sums"

local LATEST = 20       -- the newest lua/nd/migrations/NNN.sql
local KEEP_EVENTS = 50000
local FLUSH_MS = 5       -- for what is posted to ride with somebody's commit; an answer with the next intent

local Store = {}
Store.__index = Store

local damaged_hint = "keep a copy of the state directory; then restore the latest copy of the database, or "
  .. "put the row right with sqlite3 and have it believed: checksum = 0"

-- Whose owners name what of them is damaged (journal_damaged, release_damaged) and go on with the rest.
local named_by_owner = { run = true, effect = true, bundle = true, release = true }

-- Raises where a row isn't what was written, unless that is for its owner to say.
local function sound(row, sql)
  if row and row.damaged and not named_by_owner[sql:match "FROM (%w+)"] then
    err.raise("db_damaged", "a row of the database is not what was written to it, read by: " .. sql, damaged_hint)
  end
  return row
end

local function all_sound(rows, sql)
  for _, row in ipairs(rows) do sound(row, sql) end
  return rows
end

-- Raises where the tables themselves are not as this database was left.
local function check_schema(connection, path)
  if not connection:get("SELECT 1 AS one FROM sqlite_schema WHERE name = 'meta'") then return end
  local row = connection:get("SELECT value FROM meta WHERE key = 'schema'")
  if row and row.value ~= sums.schema(connection) then
    err.raise("db_corrupt", ("the tables of the database %s are not those that were made"):format(path),
      "restore the latest copy; or, if you changed them yourself: DELETE FROM meta WHERE key = 'schema'")
  end
end

local function version_of(connection, path)
  local version = connection:get("PRAGMA user_version").user_version
  if version > LATEST then
    err.raise("db_newer", ("the database %s is of a newer NextDeploy (schema %d, this one knows %d)")
      :format(path, version, LATEST), "start the newer release, or restore the copy it made")
  end
  check_schema(connection, path)
  return version
end

local function apply(connection, version)
  sums.watch(connection)
  for n = version + 1, LATEST do
    local sql = embed.read(("lua/nd/migrations/%03d.sql"):format(n))
    connection:script(sql .. ("\nPRAGMA user_version = %d;"):format(n))
  end
  if version < LATEST then sums.attach(connection) end
end

local function migrate(connection, path)
  local version = version_of(connection, path)
  if version > 0 and version < LATEST then
    connection:backup(("%s.before-%03d"):format(path, LATEST))
  end
  apply(connection, version)
end

-- Whether `open` could: raises what it would raise. Where there is something to migrate it is tried on a
-- copy, so a daemon may be using the database meanwhile.
function Store.check(state_dir)
  local path = state_dir .. "/nextdeploy.db"
  if not fs.exists(path) then return end
  local connection <close> = db.open(path)
  local version = version_of(connection, path)
  if version == LATEST then return end
  local trial = path .. ".trial"
  connection:backup(trial)
  local ok, e = pcall(function()
    local copy <close> = db.open(trial)
    apply(copy, version)
  end)
  for _, suffix in ipairs { "", "-wal", "-shm" } do pcall(fs.remove, trial .. suffix) end
  if not ok then error(e, 0) end
end

-- Opens <state_dir>/nextdeploy.db and learns (or makes) this daemon's instance id. The id belongs
-- to the machine: a copy of the database on another host is told apart.
function Store.open(state_dir, machine)
  machine = machine or "none" -- a minimal system without /etc/machine-id: its copies can't be told
  local path = state_dir .. "/nextdeploy.db"
  local self = setmetatable({
    path = path, pending = {}, posts = 0, changed = task.signal(),
    counts = { commits = 0, failures = 0, seconds = 0 }, -- for metrics
  }, Store)
  self.db = db.open(path)
  migrate(self.db, path)
  self.instance = self:meta("instance")
  if not self.instance then
    self.instance = crypto.hex(crypto.random(2))
    self:commit { self:set_meta("instance", self.instance), self:set_meta("machine", machine) }
  end
  self.cloned = self:meta("machine") ~= machine
  local schema = sums.schema(self.db)
  if self:meta("schema") ~= schema then self:commit { self:set_meta("schema", schema) } end
  return self
end

function Store:meta(key)
  local row = self:get("SELECT * FROM meta WHERE key = ?", key)
  return row and row.value
end

function Store.set_meta(_, key, value)
  return { "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    key, value }
end

function Store:get(sql, ...) return sound(self.db:get(sql, ...), sql) end

function Store:rows(sql, ...) return all_sound(self.db:rows(sql, ...), sql) end

function Store:all(sql, ...) return all_sound(self.db:all(sql, ...), sql) end

local function problems(connection)
  local list = {}
  for _, row in ipairs(connection:all "PRAGMA integrity_check(10)") do
    if row.integrity_check ~= "ok" then list[#list + 1] = row.integrity_check end
  end
  for _, row in ipairs(connection:all "PRAGMA foreign_key_check(app)") do
    list[#list + 1] = ("a row of %s belongs to none of %s"):format(row.table, row.parent)
  end
  return list
end

local function only_indexes(list)
  for _, problem in ipairs(list) do
    if not problem:find "missing from index" and not problem:find "entries in index"
      and not problem:find "entry in index" then return false end
  end
  return true
end

-- Looks at all of it, beside whoever reads and writes: what an index lacks is made anew, and a damaged run
-- or release is its owner's affair. Raises db_corrupt or db_damaged for all else.
function Store:verify()
  local connection = db.open(self.path)
  local ok, e = pcall(function()
    local list = problems(connection)
    if #list > 0 and only_indexes(list) then
      log.error(("the database %s: %s; its indexes are made anew"):format(self.path, list[1]))
      self.db:script "REINDEX"
      list = problems(connection)
    end
    if #list > 0 then
      err.raise("db_corrupt", ("the database %s is damaged: %s"):format(self.path, table.concat(list, "; ")),
        "keep a copy of the state directory; then restore the latest copy of the database, or what "
        .. "`sqlite3 nextdeploy.db .recover` still finds")
    end
    for _, row in ipairs(sums.damaged(connection)) do
      local message = ("the database %s is damaged: in the table %s, where %s, is not what was written"):format(
        self.path, row.table, row.key)
      if not named_by_owner[row.table] then err.raise("db_damaged", message, damaged_hint) end
      log.error(message)
    end
  end)
  connection:close()
  if not ok then error(e, 0) end
end

-- `stamp`: a number that grows with what else the text depends on; what is posted is about to be
-- committed, and tells of a change that may have been made already. C holds the text, Lua nothing.
function Store:memo(key, stamp, make, ...)
  stamp = stamp + self.posts
  local text = self.db:recall(key, stamp)
  if text then return text end
  local version = self.db:version() -- before anything is read
  text = make(...)
  if text then self.db:remember(key, stamp, version, text) end
  return text
end

-- What no database holds is its writer's mistake: it must not wait with what others write.
local function check(statements)
  for i, statement in ipairs(statements) do
    for k = 2, #statement do
      local kind = type(statement[k])
      if kind == "table" or kind == "function" or kind == "thread" then
        error(("value %d of statement %d can't be stored (%s): %s"):format(k - 1, i, kind, tostring(statement[1])), 3)
      end
    end
  end
end

-- Takes along what was posted. A commit of nothing returns when all that was begun before it is
-- over. The write is a task of its own, since it can't be taken back when the caller is cancelled.
function Store:commit(statements)
  check(statements)
  local posted = self.pending
  if #posted + #statements == 0 then
    if self.last then self.last:wait() end
    return #self.pending > 0 and self:commit {} or {}
  end
  self.pending = {}
  return self:write(statements, posted)
end

-- A commit that may be refused (by a constraint or `expect`): alone, so that nothing posted is
-- taken back with it.
function Store:try(statements)
  check(statements)
  self:commit {}
  return self:write(statements, {})
end

local function refused(e) return e.code == "constraint" or e.code == "stale" end

-- Something of a transaction is refused and would hold up the rest: writes what was posted one by one,
-- without what can never be written (an answer in a run whose app was destroyed, say).
-- -> what is still to be written, and why
local function write_each(self, posted)
  for i, statement in ipairs(posted) do
    local ok, e = pcall(self.db.write, self.db, { statement })
    if not ok and not refused(e) then return table.move(posted, i, #posted, 1, {}), e end
    if not ok then log.error(("left out of the journal: %s: %s"):format(statement[1], e.message)) end
  end
  return {}
end

-- One transaction of both; returns the results of `statements`. `posted` goes back to wait for the
-- next commit when it fails.
function Store:write(statements, posted)
  self.last = task.spawn("store.write", function()
    local began, counts = clock.monotonic(), self.counts
    local all = table.move(statements, 1, #statements, #posted + 1, table.move(posted, 1, #posted, 1, {}))
    local ok, results = pcall(self.db.write, self.db, all)
    if not ok and refused(results) and #posted > 0 then
      posted, results = write_each(self, posted)
      ok, results = #posted == 0, results or {}
      if ok and #statements > 0 then ok, results = pcall(self.db.write, self.db, statements) end
    end
    counts.seconds = counts.seconds + (clock.monotonic() - began) / 1000
    if ok then
      counts.commits = counts.commits + 1
      self.changed:notify()
      return table.move(results, #results - #statements + 1, #results, 1, {})
    end
    counts.failures = counts.failures + 1
    if #posted > 0 then -- of several that fail together each comes back by itself
      self.pending = table.move(self.pending, 1, #self.pending, #posted + 1, posted)
      table.sort(self.pending, function(a, b) return a.posted < b.posted end)
      self:flush_later()
    end
    error(results, 0)
  end)
  return self.last:join()
end

function Store:post(statements)
  check(statements)
  self.posts = self.posts + 1
  for i, statement in ipairs(statements) do statement.posted = self.posts + i / 1e6 end
  table.move(statements, 1, #statements, #self.pending + 1, self.pending)
  self:flush_later()
end

-- Writes what was posted soon, unless a commit takes it along before.
function Store:flush_later()
  if self.flushing then return end
  self.flushing = true
  task.spawn("store.flush", function()
    local wait = FLUSH_MS
    repeat
      task.sleep(wait)
      local ok, e = pcall(self.commit, self, {})
      if not ok then log.error("can't write the journal: " .. tostring(e)) end
      wait = ok and 0 or 1000
    until #self.pending == 0
    self.flushing = false
  end)
end

function Store:event(kind, app, run, data)
  if app and self.redact then data = self.redact(app, data) end
  return { "INSERT INTO event (time, kind, app, run, data) VALUES (?, ?, ?, ?, ?)",
    clock.now(), kind, app or db.null, run or db.null, json.encode(data or {}) }
end

function Store:last_event()
  local row = self.db:get("SELECT max(seq) AS seq FROM event")
  return row.seq or 0
end

function Store:trim_events()
  self:post { { "DELETE FROM event WHERE seq <= (SELECT max(seq) FROM event) - ?", KEEP_EVENTS } }
end

function Store:close()
  pcall(self.commit, self, {})
  self.db:close()
end

-- A size for `doctor`: bytes of the database and its log.
function Store:size()
  local function bytes(path)
    local s = fs.stat(path)
    return s and s.size or 0
  end
  return bytes(self.path) + bytes(self.path .. "-wal")
end

return Store
