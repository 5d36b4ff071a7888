-- The audit log: looked through, verified, taken along.

local clock = require "clock"
local json = require "json"
local err = require "nd.error"
local instant = require "nd.instant"
local s = require "nd.api.schema"
local shapes = require "nd.api.shapes"

local LIMIT, MOST = 100, 1000

-- Parameters of the query that are columns.
local columns = { user = "who", app = "app", project = "project", environment = "environment",
  operation = "operation", run = "run", request = "request" }

local function entry_of(row)
  row.time = clock.format(row.time)
  row.user, row.who = row.who, nil
  return row
end

local function conditions(q)
  local parts, args = {}, {}
  local function add(condition, value)
    parts[#parts + 1], args[#args + 1] = condition, value
  end
  for name, column in pairs(columns) do
    if q[name] then add(column .. " = ?", q[name]) end
  end
  if q.outcome then add("outcome = ?", q.outcome) else parts[1 + #parts] = "outcome <> 'asked'" end
  if q.since then add("time >= ?", instant.ms("since", q.since)) end
  if q["until"] then add("time < ?", instant.ms("until", q["until"])) end
  if q.before then add("seq < ?", q.before) end
  return table.concat(parts, " AND "), args
end

local function list(c)
  local where, args = conditions(c.query)
  local out = json.array {}
  for i, row in ipairs(c.d.store:all(("SELECT * FROM audit WHERE %s ORDER BY seq DESC LIMIT %d"):format(where,
    c.query.limit or LIMIT), table.unpack(args))) do
    out[i] = entry_of(row)
  end
  return out
end

local function verify(c)
  local q = c.query
  if (q.seq == nil) ~= (q.hash == nil) then
    err.raise("bad_request", "query: seq and hash go together", "as a line of an export says them")
  end
  local log = c.d.audit.log
  local verdict = log:verify(q.seq and { seq = q.seq, hash = q.hash })
  verdict.key, verdict.waiting = log:public_key(), log:waiting()
  return verdict, verdict.ok and "The audit log is whole" or "The audit log is broken"
end

local function export(c)
  local since = c.query.since and instant.ms("since", c.query.since)
  c.raw = true
  return { status = 200, headers = { ["content-type"] = "application/x-ndjson",
    server = "nextdeployd/" .. c.d.version },
    stream = function(write) c.d.audit.log:export(since, write) end }
end

local since = s.doc(s.text, "From that time on: RFC 3339, UTC milliseconds, or how long ago (24h).")

return {
  { method = "GET", path = "/audit", id = "listAudit", permission = "audit", about = "host",
    summary = "Who did what, from where, on what, and what came of it; the newest first.",
    doc = "What was asked for and has its outcome is shown by that; `outcome=asked` shows the requests as they "
      .. "began. A page ends at `limit`; the next one begins `before` the last `seq`.",
    query = {
      user = s.doc(s.text, "Of that person or token."), app = s.doc(s.text, "On that app."),
      project = shapes.key.project, environment = shapes.key.environment,
      operation = s.doc(s.text, "An operationId of this description, or daemon.start and the like."),
      outcome = { type = "string", enum = json.array { "asked", "done", "refused", "failed", "noted" } },
      run = s.doc(s.text, "Of that run."), request = s.doc(s.text, "Of the answer with that x-request-id."),
      since = since, ["until"] = s.doc(s.text, "Before that time."),
      before = { type = "integer", minimum = 1, description = "Rows with a smaller `seq`." },
      limit = { type = "integer", minimum = 1, maximum = MOST, description = "100 without it." } },
    payload = s.list(s.ref "AuditEntry"), handler = list },
  { method = "GET", path = "/audit/verify", id = "verifyAudit", permission = "audit", about = "host",
    summary = "Whether the audit log is what was written.",
    doc = "Every row is looked at: the chain, the signed checkpoints, the file of the newest row, and what the "
      .. "daemon itself remembers. With `seq` and `hash`, also whether that row, known from an earlier export, is "
      .. "still the same.",
    query = { seq = { type = "integer", minimum = 0 }, hash = s.text }, payload = s.ref "AuditVerdict",
    handler = verify },
  { method = "GET", path = "/audit/export", id = "exportAudit", permission = "audit", about = "host",
    summary = "The audit log as JSON lines: a signed first line, a row a line, a signed last line.",
    doc = "`ndctl audit verify --file` verifies it without a daemon.", query = { since = since },
    payload = s.any, also = { ["application/x-ndjson"] = s.text }, handler = export },
}
