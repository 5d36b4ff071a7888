-- The audit log: rows that are only added, chained and signed as audit_chain.lua says.
--
--   log:open()                 parks: the key, the base and the newest row; notes what is broken
--   log:append(row)            parks until the row is durable; raises if it can't be
--   log:post(row)              durable as soon as the disk allows; never raises
--   log:verify(point) -> verdict      parks; point: {seq, hash} known from elsewhere, or nil
--   log:export(since, write)   calls write(line) for a first line, the rows from that time on (UTC ms, nil:
--                              all), and a last line
--   log:hand_over(before)      seals what is older (UTC ms) in files of STATE_DIR/audit, then lets it go
--   log:trouble() -> text | nil       what is wrong, by what was seen so far
--   log:close()                what was posted, a checkpoint, the head
--
-- One task writes; rows that come while the disk is busy go in one commit, so the chain has one order. A
-- commit that fails moves nothing: the newest row is read again. Files: STATE_DIR/audit.key (the seed,
-- root's alone), audit/key.pub, audit/head (the newest row, signed within a second of it), and
-- audit/FROM-TO.jsonl (exports, sealed by what was handed over).

local clock = require "clock"
local crypto = require "crypto"
local db = require "db"
local fs = require "fs"
local json = require "json"
local log = require "log"
local task = require "task"
local err = require "nd.error"
local chain = require "nd.service.audit_chain"

local BATCH = 500                 -- rows of a commit
local PAGE = 500                  -- rows that are read at once
local CHECKPOINT_ROWS = 1000
local CHECKPOINT_MS = 5 * 60 * 1000
local HEAD_MS = 1000              -- between two writes of the head's file
local RETRY_MS = 200
local SEAL_ROWS = 20000           -- of a file that is handed over: some 8 MB
local KEY_BYTES = 32

local COLUMNS = { "seq", "time", "outcome", "operation", "permission", "request", "kind", "who", "credential", "origin",
  "project", "environment", "app", "object", "run", "code", "count", "detail", "hash" }
local NUMBERS = { seq = true, time = true, count = true } -- the others are texts
local INSERT = ("INSERT INTO audit (%s) VALUES (%s)"):format(table.concat(COLUMNS, ", "),
  ("?, "):rep(#COLUMNS - 1) .. "?")

local Log = {}
Log.__index = Log

function Log.new(store, state_dir)
  return setmetatable({ store = store, dir = state_dir .. "/audit", key_path = state_dir .. "/audit.key",
    queue = {}, asked = task.signal(), settled = task.signal(), moved = task.signal() }, Log)
end

-- ---- opening ----

-- -> whether there was one before
local function read_key(self)
  local there = fs.exists(self.key_path)
  if not there then fs.write(self.key_path, crypto.random(KEY_BYTES), 384) end -- 0600
  local seed = fs.read(self.key_path, KEY_BYTES + 1)
  if #seed ~= KEY_BYTES then
    err.raise("audit_broken", ("%s isn't a key: it has %d bytes"):format(self.key_path, #seed),
      "restore it from a backup of the state directory; or move it away, and the log says so from then on")
  end
  self.seed, self.key = seed, crypto.sign_public(seed)
  fs.mkdir(self.dir, 448) -- 0700
  local public = self.dir .. "/key.pub"
  local text = crypto.base64(self.key) .. "\n"
  if not fs.exists(public) or fs.read(public, 4096) ~= text then fs.write(public, text, 384) end
  return there
end

function Log:state(kind, seq, hash, closed)
  return chain.state(self.seed, { audit = kind, instance = self.store.instance, seq = seq, hash = hash,
    time = clock.now(), closed = closed })
end

-- Where the chain begins: "SEQ {statement}" in the database.
function Log:base()
  local text = self.store:meta "audit_base"
  local ok, base = pcall(json.decode, text and text:match "^%d+ (.*)$" or "")
  return ok and type(base) == "table" and base or nil
end

-- The statement in the file of the newest row, nil without one.
local function read_head(self)
  local ok, text = pcall(fs.read, self.dir .. "/head", 4096)
  local decoded, head = pcall(json.decode, ok and text or "")
  return decoded and type(head) == "table" and head or nil
end

-- Anew only where it says something else.
local function write_head(self, closed)
  local seq, hash = self.seq, self.hash
  if seq == self.head_seq and not closed then return end
  fs.write(self.dir .. "/head", json.encode(self:state("head", seq, hash, closed)) .. "\n", 384)
  self.head_seq = seq
end

-- The newest row, as the database has it.
local function find_newest(self)
  local row = self.store:get "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1" or self:base()
  self.seq, self.hash = row and row.seq or 0, row and row.hash or ""
end

-- What is wrong at the first look: the whole is for `verify`.
local function damage(self, keyed, head)
  local rows = self.seq > 0
  if not keyed and (rows or head) then return "the key was missing, another was made" end
  if not self:base() then -- a new one, or one that was killed before it had more than that file
    return (rows or head and head.seq ~= 0) and "the base of the log was missing" or nil
  end
  if not head then return "the file of the newest row was missing" end
  local why = chain.doubt(self.key, head, "head")
  if why then return "the file of the newest row " .. why end
  if head.closed and self.seq > head.seq then
    return ("rows %d to %d were added while the daemon was stopped"):format(head.seq + 1, self.seq)
  end
  if head.seq > self.seq then return ("rows %d to %d were missing"):format(self.seq + 1, head.seq) end
  local row = self.store:get("SELECT seq, hash FROM audit WHERE seq = ?", head.seq)
  if row and row.hash ~= head.hash then return ("row %d was another one"):format(head.seq) end
end

-- For good: every later `verify` tells it.
local function note_broken(self, what)
  self.broken = what
  log.error("the audit log is broken: " .. what)
  self:post { outcome = "noted", operation = "audit.broken", kind = "system", detail = what }
end

local function set_base(self, seq, hash)
  return self.store:set_meta("audit_base", ("%d %s"):format(seq, json.encode(self:state("base", seq, hash))))
end

function Log:open()
  local keyed, head = read_key(self), read_head(self)
  find_newest(self)
  local broken = damage(self, keyed, head)
  if head and not chain.doubt(self.key, head, "head") then
    self.seq = math.max(self.seq, head.seq) -- the numbers of what is missing are not given again
  end
  if not self:base() and not self.store:get "SELECT seq FROM audit LIMIT 1" then
    self.hash = crypto.hex(crypto.random(32))
    write_head(self) -- first: a log without it is one that lost it
    self.store:commit { set_base(self, self.seq, self.hash) }
  end
  self.unsigned, self.checked_at = 0, clock.monotonic()
  self.writer = task.spawn("audit", self.write, self)
  self.signer = task.spawn("audit head", self.keep_head, self)
  if broken then note_broken(self, broken) end
end

-- ---- writing ----

local function statement_of(row)
  local out = { INSERT }
  for i, name in ipairs(COLUMNS) do out[i + 1] = row[name] == nil and db.null or row[name] end
  return out
end

-- The rows of a batch, numbered and chained; a checkpoint where one is due.
local function chained(self, batch)
  local seq, hash, statements = self.seq, self.hash, {}
  local function add(row)
    seq = seq + 1
    row.seq, row.time, row.hash = seq, row.time or clock.now(), nil
    row.hash = chain.hash(hash, row)
    hash = row.hash
    statements[#statements + 1] = statement_of(row)
  end
  for _, entry in ipairs(batch) do add(entry.row) end
  local unsigned = self.unsigned + #batch
  if unsigned >= CHECKPOINT_ROWS or self.closing
    or clock.monotonic() - self.checked_at >= CHECKPOINT_MS then
    add { outcome = "noted", operation = "audit.checkpoint", kind = "system",
      detail = json.encode(self:state("checkpoint", seq, hash)) }
    unsigned, self.checked_at = 0, clock.monotonic()
  end
  return statements, seq, hash, unsigned
end

-- Settles the batch; what must not be lost goes back to wait. -> whether it is written
local function write_batch(self, batch)
  local statements, seq, hash, unsigned = chained(self, batch)
  local ok, e = pcall(self.store.commit, self.store, statements)
  if ok then
    self.seq, self.hash, self.unsigned = seq, hash, unsigned
    self.moved:notify()
  else
    local known = self.hash
    find_newest(self)
    if self.hash ~= known and self.hash ~= hash then note_broken(self, "rows were added or removed by another hand") end
  end
  local again = {}
  for _, entry in ipairs(batch) do
    if not ok and entry.kept then
      again[#again + 1] = entry
    else
      entry.done, entry.error = true, not ok and e or nil
    end
  end
  self.queue = table.move(self.queue, 1, #self.queue, #again + 1, again)
  self.settled:notify()
  return ok, e
end

function Log:write()
  while not (self.closing and #self.queue == 0) do
    while #self.queue == 0 and not self.closing do self.asked:wait() end
    local batch = self.queue
    self.queue = #batch > BATCH and table.move(batch, BATCH + 1, #batch, 1, {}) or {}
    for i = #batch, BATCH + 1, -1 do batch[i] = nil end
    local ok, e = write_batch(self, batch)
    if not ok then
      if not self.failing then log.error("the audit log can't be written: " .. tostring(e)) end
      if self.closing then return end
      task.sleep(RETRY_MS)
    end
    self.failing = not ok
  end
end

-- As the columns hold them, so that the hash is of what will be read.
local function enqueue(self, entry)
  for name, value in pairs(entry.row) do
    if not NUMBERS[name] then entry.row[name] = tostring(value) end
  end
  self.queue[#self.queue + 1] = entry
  self.asked:notify()
  return entry
end

function Log:append(row)
  if self.closed then err.raise("shutting_down", "the daemon is stopping", "try again in a moment") end
  local entry = enqueue(self, { row = row })
  while not entry.done do self.settled:wait() end
  if entry.error then error(entry.error, 0) end
end

function Log:post(row) enqueue(self, { row = row, kept = true }) end

-- What is known to be wrong without looking through all of it; nil where nothing is.
function Log:trouble()
  if self.broken then return self.broken end
  return self.failing and ("%d rows wait for the disk"):format(#self.queue) or nil
end

function Log:public_key() return crypto.base64(self.key) end

-- How many posted rows wait for the disk.
function Log:waiting() return #self.queue end

function Log:keep_head()
  while not self.closing do
    local ok, e = pcall(write_head, self)
    if not ok and e.code == "cancelled" then return end
    if not ok then log.error("the head of the audit log can't be written: " .. tostring(e)) end
    task.sleep(HEAD_MS)
    if ok and self.seq == self.head_seq and not self.closing then self.moved:wait() end
  end
end

function Log:close()
  if not self.writer then return end
  self.closing = true
  self.asked:notify()
  self.writer:wait()
  self.closed = true
  if #self.queue == 0 and self.unsigned > 0 then write_batch(self, {}) end
  self.signer:cancel()
  self.signer:wait()
  pcall(write_head, self, #self.queue == 0 or nil)
end

-- ---- reading ----

-- Calls visit(row) for the rows first..last; false where they were handed over meanwhile.
local function each(self, first, last, visit)
  while first <= last do
    local rows = self.store:all(("SELECT %s FROM audit WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT %d"):format(
      table.concat(COLUMNS, ", "), PAGE), first, last)
    local base = self:base()
    if base and base.seq >= first then return false end
    if #rows == 0 then break end
    for _, row in ipairs(rows) do visit(row) end
    first = rows[#rows].seq + 1
    task.yield()
  end
  return true
end

function Log:verify(point)
  local v, whole
  repeat
    local newest = { seq = self.seq, hash = self.hash }
    local base, head = self:base(), read_head(self)
    if point and base and point.seq < base.seq then
      err.raise("bad_request", ("row %d was handed over, as all up to %d"):format(point.seq, base.seq),
        ("`ndctl audit verify --file` verifies the files in %s"):format(self.dir))
    end
    v = chain.verifier(self.key)
    v:begin(base, "base")
    v:expect(head, "the file of the newest row", "head")
    v:expect(newest, "the daemon's memory")
    if point then v:expect(point, "what you know") end
    whole = each(self, base and base.seq + 1 or 0, math.max(newest.seq, head and math.tointeger(head.seq) or 0),
      function(row) v:row(row) end)
  until whole
  return v:finish()
end

local function base_of(self)
  return self:base() or err.raise("audit_broken", "the base of the audit log is missing",
    "`ndctl audit verify` tells more")
end

function Log:export(since, write)
  local last, first = self.seq, base_of(self).seq + 1
  if since then
    local row = self.store:all("SELECT seq FROM audit WHERE time >= ? ORDER BY seq LIMIT 1", since)[1]
    first = row and row.seq or last + 1
  end
  self:export_rows(first, last, write)
end

function Log:export_rows(first, last, write)
  local before = self.store:get("SELECT seq, hash FROM audit WHERE seq < ? ORDER BY seq DESC LIMIT 1", first)
    or base_of(self)
  local seq, hash = before.seq, before.hash
  write(json.encode(self:state("begin", seq, hash)) .. "\n")
  local whole = each(self, first, last, function(row)
    seq, hash = row.seq, row.hash
    write(json.encode(row) .. "\n")
  end)
  if not whole then err.raise("audit_moved", "these rows were handed over meanwhile", "ask again") end
  write(json.encode(self:state("end", seq, hash)) .. "\n")
  return seq, hash
end

-- ---- handing over ----

-- Seals rows up to `last` in a file, verifies what is in it, and lets them go.
local function seal(self, first, last)
  local lines, v = {}, chain.verifier(self.key)
  local seq, hash = self:export_rows(first, last, function(line)
    lines[#lines + 1] = line
    v:line(line)
  end)
  local verdict = v:finish(true)
  if not verdict.ok then
    err.raise("audit_broken", "rows that are broken are not handed over: " .. verdict.problems[1],
      "`ndctl audit verify` tells more")
  end
  local name = ("%012d-%012d.jsonl"):format(first, seq)
  fs.write(self.dir .. "/" .. name, table.concat(lines), 384)
  self.store:commit {
    set_base(self, seq, hash),
    { "DELETE FROM audit WHERE seq <= ?", seq },
  }
  return name, verdict.rows
end

function Log:hand_over(before)
  while true do
    local first = self.store:get "SELECT seq FROM audit ORDER BY seq LIMIT 1"
    local young = self.store:all("SELECT seq FROM audit WHERE time >= ? ORDER BY seq LIMIT 1", before)[1]
    local last = young and young.seq - 1 or self.seq
    if not first or last < first.seq then return end
    local name, rows = seal(self, first.seq, math.min(last, first.seq + SEAL_ROWS - 1))
    self:append { outcome = "noted", operation = "audit.handover", kind = "system", object = name, count = rows }
  end
end

return Log
