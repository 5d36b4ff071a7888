-- audit.lua - `ndctl audit`: who did what, and whether the record of it was touched.
--
-- `verify --file` needs no daemon: the same code that the daemon verifies its log with goes through an
-- export, line by line.

local crypto = require "crypto"
local fail = require "ndctl.lib.fail"
local json = require "json"
local out = require "ndctl.lib.out"
local outcome = require "ndctl.lib.outcome"
local tables = require "ndctl.lib.table"
local text = require "ndctl.lib.text"

local present = outcome.present

local function open(path)
  local file, why = io.open(path, "r")
  if not file then
    fail.raise("not_found", ("can't read %s"):format(why), "name a file that `ndctl audit export -o` made")
  end
  return file
end

-- ---- list ----

local function on_what(row)
  local app = present(row.app) or present(row.environment) and "*"
  if app and row.environment ~= "production" then app = row.environment .. "/" .. app end
  if app and row.project ~= "default" then app = row.project .. "/" .. app end
  local object = present(row.object)
  if app and object and object ~= row.app then return app .. " " .. object end
  return app or object
end

local function how(row)
  local said = row.outcome .. (present(row.code) and " " .. row.code or "")
  return present(row.count) and ("%s (%d)"):format(said, row.count) or said
end

local function who(row) return present(row.user) or row.kind end

local function list(ctx)
  local o, c = ctx.options, ctx.client()
  local payload = c:call("GET", "/audit", { query = { user = o.user, app = o.app, project = c.project,
    environment = c.environment, operation = o.operation, outcome = o.outcome, run = o.run, since = o.since,
    ["until"] = o["until"], before = o.before, limit = o.limit } })
  if o.json then return out.json(payload) end
  if #payload == 0 then return out.progress("Nothing of that is in the audit log.") end
  out.print(tables.render({
    { "SEQ", function(row) return tostring(row.seq) end, right = true },
    { "TIME", "time" },
    { "WHO", who },
    { "FROM", function(row) return present(row.origin) end },
    { "WHAT", "operation" },
    { "ON", on_what },
    { "OUTCOME", how },
    { "RUN", function(row) return present(row.run) end },
  }, payload))
end

-- ---- verify ----

-- base64, or a file with it -> 32 bytes
local function read_key(given)
  local file = io.open(given, "r")
  local said = file and file:read("l") or given
  if file then file:close() end
  local key = crypto.unbase64(said)
  if not key or #key ~= 32 then
    fail.usage("--key: that is no public key: 32 bytes in base64, or a file with them",
      "`ndctl audit verify` prints it; keep it apart from the exports")
  end
  return key
end

local function verify_file(o)
  if not o.key then
    fail.usage("--file needs --key, the public key of the daemon that wrote it",
      "`ndctl audit verify` prints it; keep it apart from the exports")
  end
  local v = require("nd.service.audit_chain").verifier(read_key(o.key))
  local file <close> = open(o.file)
  for line in file:lines("L") do v:line(line) end
  local verdict = v:finish(true)
  verdict.key = crypto.base64(v.key)
  return verdict
end

-- The row that an export ends with.
local function end_of(path)
  local file <close> = open(path)
  local last
  for line in file:lines("l") do last = line end
  local ok, statement = pcall(json.decode, last or "")
  if not ok or type(statement) ~= "table" or statement.audit ~= "end" then
    fail.usage(("--since-export: %s is no whole export"):format(path), "`ndctl audit export -o FILE` makes one")
  end
  return statement
end

local function verify(ctx)
  local o = ctx.options
  local known = o.since_export and end_of(o.since_export)
  local verdict = o.file and verify_file(o) or ctx.client():call("GET", "/audit/verify", { timeout_ms = 900000,
    query = { seq = known and known.seq, hash = known and known.hash } })
  local status = verdict.ok and 0 or 1
  if o.json then
    out.json(verdict)
    return status
  end
  for _, problem in ipairs(verdict.problems) do out.print("broken: " .. text.clean(problem)) end
  if verdict.found > #verdict.problems then
    out.print(("... and %d more"):format(verdict.found - #verdict.problems))
  end
  local rows = verdict.rows == 0 and "no rows"
    or ("%s, %d to %d"):format(text.plural(verdict.rows, "row", "rows"), verdict.first, verdict.last)
  out.print(("%s: %s, %s"):format(verdict.ok and "whole" or "NOT whole", rows,
    text.plural(verdict.checkpoints, "signed checkpoint", "signed checkpoints")))
  out.print("key: " .. verdict.key)
  return status
end

-- ---- export ----

local function export(ctx)
  local o, c = ctx.options, ctx.client()
  local clientlib = require "ndctl.lib.client"
  local ok, answer = pcall(require("http").stream, { unix = c.unix, headers = c:headers(), method = "GET",
    url = c.base .. clientlib.target("/audit/export", { since = o.since }), timeout_ms = 60000 })
  if not ok then error(c:unreachable(answer), 0) end
  local file = not o.output and io.stdout or assert(io.open(o.output .. ".part", "w"))
  local whole = {}
  for chunk in function() return answer.body:recv() end do
    if answer.status ~= 200 then whole[#whole + 1] = chunk else file:write(chunk) end
  end
  if answer.status ~= 200 then c:refused { data = { status = answer.status, body = table.concat(whole) } } end
  if not o.output then
    file:flush()
    return
  end
  file:close()
  os.rename(o.output .. ".part", o.output)
  out.progress(("The audit log is in %s."):format(o.output))
end

local verdict = "AuditVerdict"

return {
  name = "audit",
  summary = "Who did what, from where, on what; and whether that record was touched.",
  notes = {
    "Every change, every refused attempt and every read of a secret has a row, written before the answer left. Each "
      .. "row carries the hash of the one before, and the daemon signs where the chain stands.",
    "Who is root on the daemon's host has the key too and can make a chain anew: keep exports, and the public key, "
      .. "elsewhere. `verify --since-export` tells whether the log still continues one of them.",
  },
  examples = { { "ndctl audit list" } },
  commands = {
    {
      name = "list", also = { "ls" },
      summary = "Show the newest rows, or those that are asked for.",
      options = {
        { "user", short = "u", value = "NAME", doc = "of that person or token" },
        { "app", short = "a", value = "NAME", doc = "on that app" },
        { "operation", value = "ID", doc = "as in /openapi.json: deploy, createToken, ..." },
        { "outcome", type = "choice", choices = { "asked", "done", "refused", "failed", "noted" },
          doc = "what came of it; asked: how requests began" },
        { "run", value = "ID", complete = "runs", doc = "of that run" },
        { "since", value = "TIME", doc = "from then on: 24h, 2026-01-31T12:00:00Z" },
        { "until", value = "TIME", doc = "before then" },
        { "before", type = "int", value = "SEQ", doc = "rows before that one: the next page" },
        { "limit", short = "n", type = "int", least = 1, value = "N", doc = "so many at most: 100" },
      },
      permission = "audit", json = "AuditEntry[]",
      examples = {
        { "ndctl audit list" },
        { "ndctl audit list --outcome refused --since 24h", "who was turned away" },
        { "ndctl audit list --app shop --operation deploy --json" },
      },
      run = list,
    },
    {
      name = "verify",
      summary = "Tell whether the audit log, or an export of it, is what was written; exit status 1 if not.",
      options = {
        { "file", short = "f", value = "FILE", doc = "verify this export; no daemon is asked" },
        { "key", value = "KEY", doc = "with --file: the public key, or a file with it" },
        { "since-export", value = "FILE", complete = "files",
          doc = "also whether the daemon's log continues that export" },
      },
      permission = "audit", json = verdict,
      examples = {
        { "ndctl audit verify" },
        { "ndctl audit verify --file audit.jsonl --key audit.pub", "what was exported, without a daemon" },
        { "ndctl audit verify --since-export audit.jsonl", "nothing was cut off or made anew since" },
      },
      run = verify,
    },
    {
      name = "export",
      summary = "Write the audit log as JSON lines, signed at both ends.",
      options = {
        { "since", value = "TIME", doc = "from then on; otherwise all of it" },
        { "output", short = "o", value = "FILE", complete = "files", doc = "to this file; otherwise to stdout" },
      },
      permission = "audit", json = false,
      examples = {
        { "ndctl audit export -o audit.jsonl" },
        { "ndctl audit export --since 24h" },
      },
      run = export,
    },
  },
}
