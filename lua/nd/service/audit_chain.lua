-- What makes the audit log one that tells when it was touched; the daemon and ndctl share it.
--
-- A row's `hash` is SHA-256 of the hash before it, in hex, followed by the row without its hash, as JSON
-- with sorted names. A *statement* says what the hash is at a row, {audit = kind, instance, seq, hash,
-- time, key}, and is signed with the agent's Ed25519 key. Kinds:
--
--   base        the chain begins after that row: the first one, or the last that was handed over
--   checkpoint  of the row before; it is in the detail of a row "audit.checkpoint"
--   head        the newest row that there was, in a file beside the database
--   begin, end  around the rows of an export, each a line of JSON
--
-- So an edited, added, missing or moved row breaks the chain; a chain that was made anew from some row on
-- contradicts the statements that were signed after it; and one that was cut off contradicts the head.
--
--   chain.hash(before, row) -> hex           chain.state(seed, statement) -> the same, signed
--   chain.doubt(key, statement, kind) -> why it isn't one of this key and kind; nil where it is
--   chain.verifier(key, most) -> v           key: 32 bytes; most: problems that are told, 20
--     v:begin(statement, kind)     v:row(row)     v:expect({seq, hash}, what, statement's kind or nil)
--     v:line(text)                             a line of an export, its newline included
--     v:finish(exported) -> {ok, rows, first, last, head, checkpoints, problems = {text, ...}}

local crypto = require "crypto"
local json = require "json"

local PURPOSE = "nextdeploy audit 1\n"

local M = {}

function M.hash(before, row)
  local hash = row.hash
  row.hash = nil
  local text = json.encode(row)
  row.hash = hash
  return crypto.sha256(before .. text)
end

local function text_of(statement)
  local signature = statement.signature
  statement.signature = nil
  local text = PURPOSE .. json.encode(statement)
  statement.signature = signature
  return text
end

function M.state(seed, statement)
  statement.key = crypto.base64(crypto.sign_public(seed))
  statement.signature = crypto.base64(crypto.sign(seed, text_of(statement)))
  return statement
end

-- Why a statement isn't one of this key and kind; nil where it is.
local function doubt(key, statement, kind)
  if type(statement) ~= "table" or math.type(statement.seq) ~= "integer" or type(statement.hash) ~= "string" then
    return "is not there, or no statement"
  end
  if statement.audit ~= kind then return "is of another kind" end
  local signature = type(statement.signature) == "string" and crypto.unbase64(statement.signature)
  if not signature or not crypto.signed(key, text_of(statement), signature) then
    return "is not signed with this key"
  end
end

M.doubt = doubt

local Verifier = {}
Verifier.__index = Verifier

function M.verifier(key, most)
  return setmetatable({ key = key, most = most or 20, problems = json.array {}, count = 0, rows = 0,
    checkpoints = 0, expected = {} }, Verifier)
end

function Verifier:problem(text, ...)
  self.count = self.count + 1
  if self.count <= self.most then self.problems[self.count] = text:format(...) end
end

local names = { base = "the base of the log", begin = "the first line", ["end"] = "the last line",
  head = "the file of the newest row" }

-- From where on rows come.
function Verifier:begin(statement, kind)
  local why = doubt(self.key, statement, kind)
  if why then self:problem("%s %s", names[kind], why) end
  if type(statement) == "table" and math.type(statement.seq) == "integer" and type(statement.hash) == "string" then
    self.seq, self.hash, self.instance = statement.seq, statement.hash, statement.instance
  end
end

-- That the row `at.seq` has this hash; `kind`: it is a statement of that kind.
function Verifier:expect(at, what, kind)
  local why = kind and doubt(self.key, at, kind)
  if why then return self:problem("%s %s", what, why) end
  if kind and self.instance and at.instance ~= self.instance then
    return self:problem("%s is of another daemon", what)
  end
  if self.seq and at.seq == self.seq and at.hash ~= self.hash then
    return self:problem("%s: row %d had another hash", what, at.seq)
  end
  if not self.seq or at.seq > self.seq then
    self.expected[at.seq] = self.expected[at.seq] or {}
    table.insert(self.expected[at.seq], { hash = at.hash, what = what })
  end
end

local function check_checkpoint(self, row, before)
  local ok, statement = pcall(json.decode, row.detail or "")
  local why = doubt(self.key, ok and statement, "checkpoint")
  if not why and (statement.seq ~= before.seq or statement.hash ~= before.hash
    or statement.instance ~= self.instance) then
    why = "is of other rows"
  end
  if why then return self:problem("the checkpoint in row %d %s", row.seq, why) end
  self.checkpoints = self.checkpoints + 1
end

function Verifier:row(row)
  local seq = math.type(row.seq) == "integer" and row.seq or 0
  local before = { seq = self.seq or seq - 1, hash = self.hash or "" }
  self.rows, self.first = self.rows + 1, self.first or seq
  if seq > before.seq + 1 then
    self:problem("%s missing", seq == before.seq + 2 and ("row %d is"):format(seq - 1)
      or ("rows %d to %d are"):format(before.seq + 1, seq - 1))
  elseif seq <= before.seq then
    self:problem("row %d comes after row %d", seq, before.seq)
  end
  if row.hash ~= M.hash(before.hash, row) then
    self:problem("row %d is not what was written, or doesn't follow the one before it", seq)
  end
  if row.operation == "audit.checkpoint" then check_checkpoint(self, row, before) end
  if row.operation == "audit.broken" then
    self:problem("row %d, of the daemon itself: %s", seq, tostring(row.detail))
  end
  for _, e in ipairs(self.expected[seq] or {}) do
    if e.hash ~= row.hash then self:problem("%s: row %d had another hash", e.what, seq) end
  end
  self.expected[seq] = nil
  self.seq, self.hash = seq, type(row.hash) == "string" and row.hash or ""
end

-- `text` is what the encoder would have written, to the byte.
function Verifier:line(text)
  self.lines = (self.lines or 0) + 1
  if self.ended then return self:problem("line %d comes after the last one", self.lines) end
  local ok, value = pcall(json.decode, text)
  if not ok or type(value) ~= "table" or json.is_array(value) or json.encode(value) .. "\n" ~= text then
    return self:problem("line %d is not as it was written", self.lines)
  end
  if self.lines == 1 then return self:begin(value, "begin") end
  if value.audit == nil then return self:row(value) end
  self.ended = true
  self:expect(value, names["end"], "end")
  if value.seq ~= self.seq then self:problem("%s is about another row", names["end"]) end
end

function Verifier:finish(exported)
  if exported and not self.ended then self:problem "the last line is missing: the end was cut off" end
  local last = 0
  for seq in pairs(self.expected) do last = math.max(last, seq) end
  if last > (self.seq or 0) then
    self:problem("rows after %d are missing: there were %d", self.seq or 0, last)
  elseif next(self.expected) then
    self:problem("row %d is missing, which a statement is about", last)
  end
  return { ok = self.count == 0, rows = self.rows, first = self.first, last = self.rows > 0 and self.seq or nil,
    head = self.hash, checkpoints = self.checkpoints, problems = self.problems, found = self.count }
end

return M
