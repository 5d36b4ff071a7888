-- Requests that came while their app was being changed: each is kept until its turn comes, and is
-- made anew then from what was asked. A turn comes when a run of the app has ended, or when the
-- daemon starts.
--
--   queue:add(row, asked) -> {row=, app=} as of a run    parks; asked: see runs:ask
--   queue:next(app id)        begins the first, in a task of its own, where nothing else changes the app
--   queue:resume()            next, of all apps
--   queue:find(id) -> row | nil    queue:waits(app id) -> row of the first | nil
--   queue:list(where, args) -> rows, oldest first
--   queue:drop(row, code, message)   parks; it becomes a run that failed, or was cancelled, and never began
--   queue.changed             notified when one leaves

local clock = require "clock"
local db = require "db"
local json = require "json"
local log = require "log"
local task = require "task"
local err = require "nd.error"
local Request = require "nd.service.request"
local discreet = require "nd.service.discreet"

local MOST = 100      -- of an app
local RETRY_MS = 1000 -- between tries to begin one, while the database refuses

local Queue = {}
Queue.__index = Queue

function Queue.new(d) return setmetatable({ d = d, beginning = {}, changed = task.signal() }, Queue) end

function Queue:find(id) return self.d.store:get("SELECT * FROM waiting WHERE id = ?", id) end

function Queue:waits(app)
  return self.d.store:get("SELECT * FROM waiting WHERE app = ? ORDER BY asked_at, rowid LIMIT 1", app)
end

function Queue:list(where, args)
  return self.d.store:all(("SELECT * FROM waiting %s ORDER BY asked_at, rowid"):format(where),
    table.unpack(args))
end

function Queue:add(row, asked)
  local d = self.d
  if asked.busy == "queue" and #self:list("WHERE app = ?", { row.app }) >= MOST then
    err.raise("run_conflict", ("%d runs wait for their turn at this app, and no more may"):format(MOST),
      "`ndctl runs list --state queued` lists them; --supersede drops them")
  end
  d.store:commit {
    { [[INSERT INTO waiting (id, app, kind, body, recipe, bundle, params, owner, asked_at, request, request_hash)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)]], row.id, row.app, asked.kind, json.encode(asked.body), row.recipe,
      row.bundle, row.params, row.owner, row.started_at, row.request or db.null, row.request_hash or db.null },
    d.store:event("run.queued", row.app, row.id, { recipe = row.recipe, owner = row.owner }),
  }
  row.state = "queued"
  self:next(row.app) -- what it waited for may have ended meanwhile
  return { row = row, app = d.apps:by_id(row.app) }
end

-- It becomes a run that has ended: people find it where they look for it.
function Queue:drop(row, code, message)
  local d, failure = self.d, err.new(code, message)
  local state = code == "cancelled" and "cancelled" or "failed"
  local now = clock.now()
  local statements = d.runs:record { id = row.id, app = row.app, recipe = row.recipe, bundle = row.bundle,
    params = row.params, seed = 0, owner = row.owner, state = state, started_at = row.asked_at,
    request = row.request, request_hash = row.request_hash }
  table.insert(statements, 1, { "DELETE FROM waiting WHERE id = ?", row.id, expect = 1 })
  statements[#statements + 1] = { "UPDATE run SET ended_at = ?, error = ?, heard = 0 WHERE id = ?", now,
    json.encode(err.from(failure)), row.id }
  statements[#statements + 1] = d.store:event("run.ended", row.app, row.id,
    { state = state, error = failure, recipe = row.recipe })
  d.store:try(statements)
  self.changed:notify()
end

local function begin(self, row)
  local d = self.d
  local request = Request.make(d, row.kind, json.decode(row.body), row.owner)
  request.waited = row
  d.runs:start(request)
  self.changed:notify()
end

-- Errors that say that it isn't its turn yet.
local later = { run_conflict = true, constraint = true, shutting_down = true, cancelled = true }

-- -> whether the next may be tried
local function turn(self, app)
  local row = self:waits(app)
  if not row then return false end
  local ok, e = pcall(begin, self, row)
  e = not ok and discreet(err.from(e))
  if ok or later[e.code] then return false end
  if not self:find(row.id) then return true end -- somebody has dropped it meanwhile
  log.warn(("the run %s, which waited for its turn, can't begin: %s"):format(row.id, e.message))
  local dropped = pcall(self.drop, self, row, e.code, e.message)
  if not dropped and self:find(row.id) then task.sleep(RETRY_MS) end -- the database takes nothing now
  return true
end

function Queue:next(app)
  if self.d.stopping then return end
  if self.beginning[app] then
    self.beginning[app] = "again" -- what was in the way may just have ended
    return
  end
  self.beginning[app] = "once"
  task.spawn("queue", function()
    repeat
      self.beginning[app] = "once"
    until not turn(self, app) and self.beginning[app] == "once"
    self.beginning[app] = nil
  end)
end

function Queue:resume()
  for _, row in ipairs(self.d.store:all "SELECT DISTINCT app FROM waiting") do self:next(row.app) end
end

return Queue
