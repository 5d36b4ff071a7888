-- Who did what, from where, on what, and what came of it: what of a request is written to the audit log.
--
--   audit:asks(c)         before a handler: parks until its row "asked" is durable, raises if it can't be;
--                         what isn't audited passes. c: as in api/init.lua
--   audit:answers(c, e) -> e   before the answer leaves: its outcome; e: the error it is, nil where it is done
--   audit:record{...}     the same for what no route stands for. Parks until it is durable, raises:
--                         {operation=, outcome=, c= or kind=, who=; app = row, object=, run=, code=, detail=}
--   audit:note{...}       the same, of what has happened: parks for nothing, and is not lost
--   audit.log             the log itself (audit_log.lua)
--
-- Audited is what may change something (any method but GET, and routes with `audit = true`: reads of
-- secrets, commands in a container), and every attempt that is refused (401, 403, 429; before the handler,
-- any). A change has two rows: without the first it is not begun. If the second can't be written at once,
-- it is kept and written as soon as it can be; until then nothing else is begun, and a daemon that dies
-- before says at its next start that it doesn't know. What anybody may ask for (a login) could fill the disk
-- with rows "asked": it has only the second, and without that it gets no answer. So could what is certain to be
-- refused: it is before anything is asked (`before` of a route).
--
-- Refusals before that must not fill the disk: of one person, or of all who show no token, the first ten of a
-- minute have a row each; the rest is counted, and told in one row a minute, with up to eight addresses. What
-- was begun and is refused then has its two rows, as a change has: only who may make changes gets so far.

local clock = require "clock"
local crypto = require "crypto"
local json = require "json"
local log = require "log"
local task = require "task"
local err = require "nd.error"
local Log = require "nd.service.audit_log"

local TEXT_MOST = 200       -- bytes of what a request says, in a row
local SINGLE = 10           -- refusals a minute that have a row each
local MINUTE_MS = 60000
local ORIGINS = 8
local DAY_MS = 24 * 3600 * 1000
local SEAL_MS = 3600 * 1000 -- between two looks for what is to be handed over

local Audit = {}
Audit.__index = Audit

function Audit.new(d)
  return setmetatable({ d = d, log = Log.new(d.store, d.options.state_dir), floods = {} }, Audit)
end

-- ---- texts ----

local hidden = { -- what changes how a line looks: ends of lines, marks and overrides of direction
  ["\u{2028}"] = true, ["\u{2029}"] = true, ["\u{200E}"] = true, ["\u{200F}"] = true, ["\u{061C}"] = true,
}
for code = 0x80, 0x9F do hidden[utf8.char(code)] = true end
for code = 0x202A, 0x202E do hidden[utf8.char(code)] = true end
for code = 0x2066, 0x2069 do hidden[utf8.char(code)] = true end

local function escape(bytes)
  return (bytes:gsub(".", function(c) return ("\\x%02X"):format(c:byte()) end))
end

-- A text that somebody sent, such that it can't pretend to be something else: control characters and what
-- is no UTF-8 as \xNN, a backslash doubled, at most 200 bytes of it.
function Audit.clean(text)
  if text == nil then return nil end
  text = tostring(text)
  if #text > TEXT_MOST then text = text:sub(1, TEXT_MOST) .. "..." end
  if not text:find "[^ -%[%]-~]" then return text end
  local out, at = {}, 1
  while at <= #text do
    local char = text:match("^" .. utf8.charpattern, at)
    if not char or not utf8.len(char) then
      char = text:sub(at, at)
      out[#out + 1] = escape(char)
    elseif char:find "%c" or hidden[char] then
      out[#out + 1] = escape(char)
    else
      out[#out + 1] = char == "\\" and "\\\\" or char
    end
    at = at + #char
  end
  return table.concat(out)
end

local clean = Audit.clean

local function text_in(t, ...)
  for _, name in ipairs { ... } do
    if type(t) == "table" and type(t[name]) == "string" then return t[name] end
  end
end

-- ---- rows ----

local function origin_of(peer)
  if peer.kind == "unix" then return "pid " .. tostring(peer.pid) end
  return ("%s:%s"):format(peer.address, peer.port)
end

local function who_of(c)
  if not c.user then return "none" end
  local kind = c.user.kind or c.request.peer.kind == "unix" and "unix" or "token"
  return kind, clean(c.user.name), clean(c.user.id)
end

-- -> project, environment, app: what the route is about (about.lua), all apps of an environment without `app`;
-- where it is about the host or wasn't found out, what the request says.
local function place_of(c, route, path, body, query)
  local found = c.place
  if found then return found.project, found.environment, found.name ~= "*" and found.name or nil end
  local project = text_in(body, "project") or text_in(query, "project")
  local environment = text_in(body, "environment") or text_in(query, "environment")
  local app = path.app or text_in(body, "app_name", "app") or text_in(query, "app")
  if not (project or environment or app) then return nil end
  if route.about == "host" or route.about == "any" then return project or "*", environment or "*", app or "*" end
  return project or "default", environment or "production", app
end

-- What every row of a request says.
local function row_of(c)
  local route, path, body, query = c.route or {}, c.path or {}, c.body, c.query or c.request.query
  local project, environment, app = place_of(c, route, path, body, query)
  local object = path.name or path.email or path.domain or path.host or path.id
    or text_in(body, "name", "email", "image", "domain", "host", "recipe", "process") or text_in(c.payload, "email")
  local kind, who, id = who_of(c)
  return {
    request = c.request_id, kind = kind, who = who, credential = id ~= who and id or nil,
    origin = origin_of(c.request.peer),
    operation = route.id or clean(c.request.method .. " " .. c.request.path), permission = route.permission,
    project = clean(project), environment = clean(environment), app = clean(app), object = clean(object),
    detail = clean(text_in(body, "role")), run = route.tag == "runs" and clean(path.id) or nil,
  }
end

function Audit.is_audited(route)
  if route.audit ~= nil then return route.audit end
  return route.method ~= "GET" and route.method ~= "WS" and route.method ~= "ANY"
end

-- A copy with more in it.
local function with(row, more)
  local out = {}
  for name, value in pairs(row) do out[name] = value end
  for name, value in pairs(more) do out[name] = value end
  return out
end

-- ---- requests ----

local function begin(c)
  c.request_id = c.request_id or crypto.uuid()
  c.headers = c.headers or {}
  c.headers["x-request-id"] = c.request_id
end

function Audit:asks(c)
  if not Audit.is_audited(c.route) or not c.user or c.route.permission == "none" then return end
  begin(c)
  c.audited = row_of(c)
  local ok, e = pcall(self.log.append, self.log, with(c.audited, { outcome = "asked" }))
  if ok then return end
  c.audited = nil
  err.raise(e.code or "internal", "nothing was done, since it can't be audited: " .. (e.message or tostring(e)),
    e.hint, e.data)
end

local refused = { [401] = true, [403] = true, [429] = true }

-- done, refused (for what it is or how things stand), or failed.
local function outcome_of(status)
  if status < 400 then return "done" end
  return status < 500 and status ~= 422 and "refused" or "failed"
end

local function run_of(payload, e)
  local data = e and type(e.data) == "table" and e.data or type(payload) == "table" and payload or {}
  local id = data.run_id or data.id
  return type(id) == "string" and clean(id) or nil
end

function Audit:answers(c, e)
  local status = e and (e.http or err.status(e.code)) or 200
  local row, outcome = c.audited, outcome_of(status)
  if row then
    self:settle(with(row, { outcome = outcome, code = e and clean(e.code), run = row.run or run_of(c.payload, e) }))
  elseif refused[status] or c.unseen or e and c.route and Audit.is_audited(c.route) then
    self:refuse(c, e.code)
  elseif c.route and Audit.is_audited(c.route) then
    begin(c)
    local ok, why = pcall(self.log.append, self.log, with(row_of(c), { outcome = outcome }))
    if not ok then return err.from(why) end
  end
  return e
end

-- Durable before this returns, unless the disk refuses: then as soon as it can be.
function Audit:settle(row)
  local ok = pcall(self.log.append, self.log, row)
  if not ok then self.log:post(row) end
end

-- ---- refusals ----

local function told(flood)
  local list = {}
  for origin, n in pairs(flood.origins) do list[#list + 1] = ("%s (%d)"):format(origin, n) end
  table.sort(list)
  return table.concat(list, ", ") .. (flood.elsewhere and ", and others" or "")
end

-- Writes what was only counted. What can't be written is counted on.
local function tell(self, flood)
  local row = with(flood.row, { outcome = "refused", operation = "several", count = flood.more, detail = told(flood) })
  local more = flood.more
  if not pcall(self.log.append, self.log, row) then return end
  flood.more = flood.more - more
  if flood.more == 0 then flood.origins, flood.known, flood.elsewhere = {}, 0, nil end
end

-- All of them; others may come meanwhile.
local function tell_all(self)
  local floods = {}
  for _, flood in pairs(self.floods) do floods[#floods + 1] = flood end
  for _, flood in ipairs(floods) do
    if flood.more > 0 then tell(self, flood) end
  end
end

-- Each minute, as long as somebody is refused.
local function tell_floods(self)
  repeat
    task.sleep(MINUTE_MS)
    for key, flood in pairs(self.floods) do
      if flood.single == 0 and flood.more == 0 then self.floods[key] = nil end
      flood.single = 0
    end
    tell_all(self)
  until not next(self.floods)
  self.telling = false
end

local function count(flood, peer)
  flood.more = flood.more + 1
  local origin = peer.address or "the unix socket"
  if flood.origins[origin] then
    flood.origins[origin] = flood.origins[origin] + 1
  elseif flood.known < ORIGINS then
    flood.origins[origin], flood.known = 1, flood.known + 1
  else
    flood.elsewhere = true
  end
end

local function flood_of(self, c)
  local kind, who = who_of(c)
  local key = kind .. " " .. (who or "")
  self.floods[key] = self.floods[key] or { single = 0, more = 0, origins = {}, known = 0,
    row = { kind = kind, who = who } }
  if not self.telling then
    self.telling = true
    task.spawn("refusals", tell_floods, self)
  end
  return self.floods[key]
end

function Audit:refuse(c, code)
  local flood = flood_of(self, c)
  flood.single = flood.single + 1
  if flood.single > SINGLE then return count(flood, c.request.peer) end
  begin(c)
  if c.user and not c.body then -- on what it would have been
    local ok, body = pcall(json.decode, c.request.body)
    c.body = ok and body or nil
  end
  if not pcall(self.log.append, self.log, with(row_of(c), { outcome = "refused", code = clean(code) })) then
    count(flood, c.request.peer)
  end
end

-- ---- for others ----

local function row_for(fields)
  local row = fields.c and row_of(fields.c) or { kind = fields.kind or "system", who = clean(fields.who) }
  local app = fields.app
  row.operation, row.outcome, row.permission = fields.operation, fields.outcome or "done", fields.permission
  if app then row.project, row.environment, row.app = app.project, app.environment, app.name end
  row.object, row.run, row.code = clean(fields.object) or row.object, clean(fields.run) or row.run, clean(fields.code)
  row.detail = clean(fields.detail)
  return row
end

function Audit:record(fields) self.log:append(row_for(fields)) end

-- A read or change of secrets, by name: before it is made, beside its request's own rows.
function Audit:secret(c, action, names)
  table.sort(names)
  self:record { c = c, operation = "secret." .. action, outcome = "noted",
    object = #names > 0 and table.concat(names, ",") or nil }
end

function Audit:note(fields) self.log:post(row_for(fields)) end

-- ---- the daemon's own ----

-- What the daemon before had begun, up to that row, and said no outcome of.
local function tell_interrupted(self, newest)
  local last = self.d.store:all([[SELECT max(seq) AS seq FROM audit WHERE operation = 'daemon.start'
    AND kind = 'system' AND seq <= ?]], newest)[1]
  local rows = self.d.store:all([[SELECT * FROM audit WHERE seq > ? AND seq <= ? AND outcome = 'asked'
    AND NOT EXISTS (SELECT 1 FROM audit AS later WHERE later.request = audit.request AND later.outcome <> 'asked')]],
    last and last.seq or 0, newest)
  for _, row in ipairs(rows) do
    self.log:post(with(row, { outcome = "failed", code = "unknown_outcome", time = clock.now(),
      detail = "the daemon ended before it could say" }))
  end
end

local function keep_handing_over(self)
  while true do
    local ok, e = pcall(self.log.hand_over, self.log, clock.now() - self.d.options.audit_keep * DAY_MS)
    if not ok then log.error("the audit log can't hand over what is old: " .. tostring(e)) end
    task.sleep(SEAL_MS)
  end
end

function Audit:open()
  self.log:open()
  local newest = self.log.seq
  self:note { operation = "daemon.start", object = self.d.version }
  task.spawn("audit of what was interrupted", function()
    local ok, e = pcall(tell_interrupted, self, newest)
    if not ok then log.error("the audit log can't be read: " .. tostring(e)) end
  end)
  if self.d.options.audit_keep then task.spawn("audit hand-over", keep_handing_over, self) end
end

function Audit:close()
  tell_all(self)
  self:note { operation = "daemon.stop", object = self.d.version }
  self.log:close()
end

return Audit
