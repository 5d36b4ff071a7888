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
--
-- Whoever follows events waits on `store.changed` and reads the table: nothing is shown before its
-- commit. A statement is {sql, params...}; `expect = n` makes the whole transaction fail with code
-- "stale" unless it changed n rows.

local clock = require "clock"
local crypto = require "crypto"
local db = require "db"
local embed = require "embed"
local fs = require "fs"
local json = require "json"
local log = require "log"
local task = require "task"
local err = require "nd.error"

local LATEST = 14       -- the newest lua/nd/migrations/NNN.sql
local KEEP_EVENTS = 50000

local Store = {}
Store.__index = Store

local function version_of(connection, path)
  local version = connection:get("PRAGMA user_version").user_version
  if version > LATEST then
    err.raise("db_newer", ("the database %s is of a newer NextDeploy (schema %d, this one knows %d)")
      :format(path, version, LATEST), "start the newer release, or restore the copy it made")
  end
  return version
end

local function apply(connection, version)
  for n = version + 1, LATEST do
    local sql = embed.read(("lua/nd/migrations/%03d.sql"):format(n))
    connection:script(sql .. ("\nPRAGMA user_version = %d;"):format(n))
  end
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
  return self
end

function Store:meta(key)
  local row = self.db:get("SELECT value FROM meta WHERE key = ?", key)
  return row and row.value
end

function Store.set_meta(_, key, value)
  return { "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    key, value }
end

function Store:get(sql, ...) return self.db:get(sql, ...) end

function Store:rows(sql, ...) return self.db:rows(sql, ...) end

function Store:all(sql, ...) return self.db:all(sql, ...) end

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

-- Takes along what was posted. A commit of nothing returns when all that was begun before it is
-- over. The write is a task of its own, since it can't be taken back when the caller is cancelled.
function Store:commit(statements)
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
    if #posted > 0 then
      self.pending = table.move(self.pending, 1, #self.pending, #posted + 1, posted)
      self:flush_later()
    end
    error(results, 0)
  end)
  return self.last:join()
end

function Store:post(statements)
  self.posts = self.posts + 1
  table.move(statements, 1, #statements, #self.pending + 1, self.pending)
  self:flush_later()
end

-- Writes what was posted soon, unless a commit takes it along before.
function Store:flush_later()
  if self.flushing then return end
  self.flushing = true
  task.spawn("store.flush", function()
    local wait = 0
    repeat
      task.sleep(wait)
      local ok, e = pcall(self.commit, self, {})
      if not ok then log.error("can't write the journal: " .. tostring(e)) end
      wait = ok and 0 or 1000
    until #self.pending == 0
    self.flushing = false
  end)
end

function Store.event(_, kind, app, run, data)
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
