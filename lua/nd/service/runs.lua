-- All runs: starting one, finding them, resuming what a crash interrupted, planning.

local clock = require "clock"
local crypto = require "crypto"
local db = require "db"
local json = require "json"
local log = require "log"
local task = require "task"
local err = require "nd.error"
local tasks = require "nd.tasks"
local Plan = require "nd.service.plan"
local Request = require "nd.service.request"
local recipe_worker = require "nd.service.recipe_worker"
local Run = require "nd.service.run"

local SHOWN = 1000                        -- effects of a run that are shown
local KEEP_RUNS = 500                     -- of each app, however old
local DEADLINE_MS = 7 * 24 * 3600 * 1000  -- of a run whose request and recipe say none
local LOOK_MS = 60000                     -- between looks at the clock, which somebody may set
local KEEP_MS = 30 * 24 * 60 * 60 * 1000  -- and all younger ones

local Runs = {}
Runs.__index = Runs

function Runs.new(d)
  return setmetatable({ d = d, live = {}, asking = tasks.lock(), rousing = tasks.lock(), begun = task.signal(),
    asleep = {}, -- [run.id] = when it is to be roused; it is a row, and not in `live`
  }, Runs)
end

-- Short, sorts by time: seconds since 2020, milliseconds and randomness, in base 32 without look-alikes.
local function new_id()
  local alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
  local now = clock.now()
  local number = (now // 1000 - 1577836800) << 25 | now % 1000 << 15 | string.unpack("<I2", crypto.random(2)) & 0x7fff
  local out = {}
  for i = 12, 1, -1 do
    local digit = number & 31
    out[i] = alphabet:sub(digit + 1, digit + 1)
    number = number >> 5
  end
  return table.concat(out)
end

local function row_for(request, bundle)
  return {
    id = new_id(), app = request.app.id, recipe = bundle.name, bundle = bundle.hash,
    params = json.encode(request.params or {}),
    spec = request.spec and json.encode(request.spec) or nil,
    seed = string.unpack("<I4", crypto.random(4)), state = "running",
    owner = request.owner or "unknown", started_at = clock.now(), deaths = 0,
    request = request.key, request_hash = request.hash,
  }
end

-- The statements that record a new run; `after`: its predecessor, where it has one.
function Runs:record(row, after)
  return {
    { [[INSERT INTO run (id, app, recipe, bundle, params, spec, begun_with, seed, state, owner, started_at,
        deadline, request, request_hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)]], row.id, row.app,
      row.recipe, row.bundle, row.params, row.spec or db.null, row.begun_with or db.null, row.seed, row.state,
      row.owner, row.started_at, row.deadline or db.null, row.request or db.null, row.request_hash or db.null },
    self.d.store:event("run.started", row.app, row.id,
      { recipe = row.recipe, owner = row.owner, after = after }),
  }
end

-- ways: what to do about it, in words.
local function refuse(id, message, ways)
  err.raise("run_conflict", message, table.concat(ways, ", "), { run_id = id })
end

-- What who wants to change the app as well can do about a run.
local function ways_past(run, step)
  local watch = ("wait for it: `ndctl runs watch %s`"):format(run.id)
  local cancel = ("end it: `ndctl runs cancel %s`"):format(run.id)
  if run.pivot or run.state == "rolling_back" then return { watch } end -- it is about to end
  if step and step.name == "approval.wait" then
    return { ("approve of it: `ndctl runs approve %s`"):format(run.id), cancel }
  end
  return { watch, cancel }
end

-- Raises run_conflict where a run changes the app, or others wait to do so.
function Runs:conflict(app, waited)
  local other = self.d.store:get(
    "SELECT * FROM run WHERE app = ? AND state IN ('running', 'sleeping', 'rolling_back')", app.id)
  if other then
    local step = self:step_of(other.id)
    refuse(other.id, ("'%s' is being changed by the run %s (%s), started %s by %s%s"):format(app.name, other.id,
      other.recipe, clock.format(other.started_at), other.owner, step and "; its step: " .. step.label or ""),
      ways_past(other, step))
  end
  local first = not waited and app.id and self.d.queue:waits(app.id)
  if first then
    refuse(first.id, ("the run %s (%s) waits for its turn to change '%s', asked for %s by %s"):format(first.id,
      first.recipe, app.name, clock.format(first.asked_at), first.owner), ways_past(first))
  end
end

-- The last thing that a run asked for.
function Runs:step_of(id)
  return self.d.store:get("SELECT name, label FROM effect WHERE run = ? AND label <> '' ORDER BY n DESC LIMIT 1", id)
end

-- The recipe that a request runs, and its row; what waited keeps the files it was asked with.
function Runs:prepare(request)
  local waited = request.waited
  if not waited then
    local bundle = self.d.recipes:bundle(request.recipe)
    return bundle, row_for(request, bundle)
  end
  local text = self.d.recipes:kept(waited.bundle)
  local bundle = { name = waited.recipe, hash = waited.bundle, text = text, files = json.decode(text) }
  request.key, request.hash = waited.request, waited.request_hash
  local row = row_for(request, bundle)
  row.id = waited.id
  return bundle, row
end

-- request: {app = row, recipe = name | {name, files}, params, spec?, owner, key?, hash?, waited?} ->
-- Run, under way. Bad recipes and parameters are refused before anything is recorded.
function Runs:start(request)
  local d = self.d
  if d.stopping then err.raise("shutting_down", "the daemon is stopping", "try again in a moment") end
  self:conflict(request.app, request.waited)
  local bundle, row = self:prepare(request)
  local w, header = recipe_worker.start(d, row, bundle.files)
  local app = d.apps:ensure(request.app)
  row.app = app.id
  row.deadline = row.started_at + (request.deadline or math.tointeger(header.deadline) or DEADLINE_MS)
  local statements = self:record(row)
  table.insert(statements, 1, d.recipes.keep(bundle))
  if request.waited then
    table.insert(statements, 1, { "DELETE FROM waiting WHERE id = ?", row.id, expect = 1 })
  end
  local run = Run.new(d, row)
  run.needs = header.allowed
  -- What is recorded must be driven: a task of its own, which goes on where the caller is cancelled.
  return task.spawn("start run " .. row.id, function()
    local ok, e = pcall(d.store.try, d.store, statements)
    if ok then return self:begin(run, w) end
    w:kill()
    if e.code == "constraint" then self:conflict(app, request.waited) end
    error(e, 0)
  end):join()
end

-- Keeps a request until its turn comes, when the same is checked again.
function Runs:enqueue(request, asked)
  local d = self.d
  local bundle, row = self:prepare(request)
  recipe_worker.start(d, row, bundle.files):kill()
  row.app = d.apps:ensure(request.app).id
  d.store:commit { d.recipes.keep(bundle) }
  return d.queue:add(row, asked)
end

-- The newest wins: what waits before it is dropped, and what can still go back does. One that waits no more has
-- had its turn, or a newer one sees to the rest.
function Runs:supersede(app, by)
  local queue = self.d.queue
  for _, row in ipairs(queue:list([[WHERE app = ? AND (asked_at, rowid) <
      (SELECT asked_at, rowid FROM waiting WHERE id = ?)]], { app, by })) do
    pcall(queue.drop, queue, row, "cancelled", "superseded by the run " .. by)
  end
  for _, row in ipairs(self.d.store:all("SELECT * FROM run WHERE app = ? AND state = 'sleeping'", app)) do
    self:rouse(row.id)
  end
  if not queue:find(by) then return end
  for _, run in pairs(self.live) do
    if run.row.app == app then pcall(run.cancel, run, ("the run %s, which supersedes it"):format(by)) end
  end
end

-- The run that the same request made before; raises where the key came with another one.
function Runs:asked_before(request)
  local row = self.d.store:get("SELECT * FROM run WHERE request = ?", request.key)
    or self.d.store:get("SELECT * FROM waiting WHERE request = ?", request.key)
  if not row then return nil end
  if row.request_hash ~= request.hash then
    err.raise("idempotency_conflict",
      ("the Idempotency-Key was sent with another request before, which made the run %s"):format(row.id),
      "send a new key with each new request", { run_id = row.id })
  end
  return self.live[row.id] or { row = self:get(row.id), app = self.d.apps:by_id(row.app) }
end

-- asked: {kind = as in request.lua, body, owner, key = an Idempotency-Key?, busy = "refuse" | "queue" |
-- "supersede"}. -> the run: under way, waiting or, where it was asked for before with this key, ended.
function Runs:ask(asked)
  local key = asked.key and asked.owner .. " " .. asked.key
  local _ <close> = key and self.asking:hold(key)
  local request = { key = key, hash = key and crypto.sha256(asked.kind .. json.encode(asked.body)) }
  local before = key and self:asked_before(request)
  if before then return before end
  for name, value in pairs(Request.make(self.d, asked.kind, asked.body, asked.owner)) do request[name] = value end
  local ok, result = pcall(self.start, self, request)
  if ok then return result end
  if result.code ~= "run_conflict" then error(result, 0) end
  if (asked.busy or "refuse") == "refuse" then
    result.hint = result.hint .. "; or have this wait for its turn: --queue, or take its place: --supersede "
      .. "(in the API: busy=queue, busy=supersede)"
    error(result, 0)
  end
  local waiting = self:enqueue(request, asked)
  if asked.busy == "supersede" then self:supersede(waiting.row.app, waiting.row.id) end
  return waiting
end

-- Drives a run, which is recorded by now: nothing here may fail. `w`: a worker that has loaded its recipe
-- already, or nil.
function Runs:begin(run, w)
  self.live[run.row.id] = run
  run:audit("run.begin", "done")
  run:go(w)
  self.begun:notify()
  return run
end

-- A run sleeps, until then at most.
function Runs:lay_down(id, wake, deadline)
  self.asleep[id] = math.min(wake, deadline or wake)
  self.begun:notify()
  return true
end

-- Rouses those that are due, and ends runs at their deadlines. One task for all, so that a run which
-- sleeps costs a row.
function Runs:keep_time()
  while not self.d.stopping do
    local now, wait, due = clock.now(), LOOK_MS, {}
    for id, at in pairs(self.asleep) do
      if at <= now then due[#due + 1] = id else wait = math.min(wait, at - now) end
    end
    for _, id in ipairs(due) do
      local ok, e = pcall(self.rouse, self, id)
      if not ok then log.error(("the run %s can't be roused: %s"):format(id, tostring(e))) end
    end
    for _, run in pairs(self.live) do
      local left = (run.row.deadline or math.huge) - now
      if left <= 0 then
        run:expire()
      else
        wait = math.min(wait, left)
      end
    end
    self.begun:wait(wait)
  end
end

-- The run that goes on where the run `row` ended: the same recipe, app and bundle, another state.
-- Returns its row and the statements that record it.
function Runs:successor(row, state)
  local now = clock.now()
  local successor = {
    id = new_id(), app = row.app, recipe = row.recipe, bundle = row.bundle, params = row.params,
    spec = row.spec, seed = string.unpack("<I4", crypto.random(4)), state = "running",
    owner = row.owner, started_at = now, deaths = 0,
    deadline = row.deadline and now + row.deadline - row.started_at, -- as long again
    begun_with = state ~= nil and state ~= json.null and json.encode(state) or nil,
  }
  return successor, self:record(successor, row.id)
end

-- The statement that removes old runs of an app, with their effects: those that ended over 30 days
-- ago and have 500 newer ones, but none that made a release which is still there. A hundred at a
-- time, oldest first, since it rides with a commit that somebody waits for.
function Runs.forget_old(app, now)
  return { [[DELETE FROM run WHERE id IN (SELECT id FROM run WHERE app = ?1 AND ended_at < ?2
      AND started_at < (SELECT started_at FROM run WHERE app = ?1 ORDER BY started_at DESC LIMIT 1 OFFSET ?3)
      AND id NOT IN (SELECT run FROM release WHERE app = ?1 AND state <> 'gone')
      ORDER BY started_at LIMIT 100)]], app, now - KEEP_MS, KEEP_RUNS - 1 }
end

-- What was under way when the daemon ended. To be asked before anybody can start another run.
function Runs:interrupted()
  self.orderly = self.d.store:meta "ended" == "orderly"
  self.d.store:commit { { "DELETE FROM meta WHERE key = 'ended'" } }
  return self.d.store:all(
    "SELECT * FROM run WHERE state NOT IN ('done', 'failed', 'cancelled')")
end

-- At the daemon's orderly end: the next start need not suspect a run of having been the cause of it.
function Runs:park()
  self.d.store:commit { self.d.store:set_meta("ended", "orderly") }
end

-- A run whose row is not what was written ends there: not even its app can be believed. What it has started
-- is removed as of any run that has ended, once the releases that say so are looked at.
local function bury(self, row)
  local e = err.from(err.new("journal_damaged", ("the row of the run %s is not what was written"):format(row.id),
    "look at the apps with `ndctl status`; then start it anew"))
  log.error(e.message)
  self.d.store:commit {
    { "UPDATE run SET state = 'failed', ended_at = ?, error = ? WHERE id = ?", clock.now(), json.encode(e), row.id },
    self.d.store:event("run.ended", nil, row.id, { state = "failed", error = e }),
  }
end

-- `roused`: it slept, and its time is up or somebody wants something of it.
local function resume(self, row, roused)
  local run = Run.new(self.d, row)
  run.roused = roused
  self.live[row.id] = run
  run:load()
  local suspect = row.state == "running" and not self.orderly
  local stuck = suspect and run:died(("resumed after a death of the daemon, at effect %d"):format(run.count))
    and err.new("stuck", "the run made no progress over three restarts of the daemon")
  if run.damage then
    log.error(run.damage.message)
  elseif not roused then
    log.info(("run %s of %s goes on"):format(row.id, run.app.name))
  end
  local hopeless = run.damage or stuck
  run:go(nil, hopeless and err.from(hopeless))
end

-- At start: all that goes on, and the deadlines of all that will.
function Runs:resume(interrupted)
  for _, row in ipairs(interrupted) do
    if row.damaged then
      bury(self, row)
    elseif row.state == "sleeping" then
      self:lay_down(row.id, row.wake_at or 0, row.deadline)
    else
      resume(self, row)
    end
  end
  task.spawn("keep time", self.keep_time, self)
end

-- The run, where it hasn't ended: one that sleeps goes on, and is driven again.
function Runs:rouse(id)
  local _ <close> = self.rousing:hold(id)
  if not self.asleep[id] or self.d.stopping then return self.live[id] end
  local row = self.d.store:get("SELECT * FROM run WHERE id = ?", id)
  if row then (row.damaged and bury or resume)(self, row, true) end
  self.asleep[id] = nil
  task.yield() -- it is on its way
  return self.live[id]
end

-- What waits for its turn, as a run.
local function as_run(row)
  return { id = row.id, app = row.app, recipe = row.recipe, bundle = row.bundle, params = row.params,
    owner = row.owner, state = "queued", started_at = row.asked_at }
end

function Runs:get(id)
  local waiting = self.d.queue:find(id)
  local row = waiting and as_run(waiting) or self.d.store:get("SELECT * FROM run WHERE id = ?", id)
  if not row then
    local app = self.d.store:get("SELECT 1 AS one FROM app WHERE name = ?", id)
    err.raise("run_not_found", ("there is no run '%s'%s"):format(id, app and "; that is an app" or ""),
      app and ("its runs: `ndctl runs list --app %s`"):format(id) or "`ndctl runs list` shows them")
  end
  return row
end

function Runs:cancel(id, who)
  local row = self:get(id)
  local run = self:rouse(id)
  if row.state == "queued" then
    local queue = self.d.queue
    local ok, e = pcall(queue.drop, queue, queue:find(id), "cancelled", "cancelled by " .. who)
    if ok then return { row = row } end
    if queue:find(id) then error(e, 0) end
    return self:cancel(id, who) -- its turn has come meanwhile
  end
  if not run then
    err.raise("run_ended", ("the run %s has ended: %s"):format(id, row.state), "`ndctl runs show " .. id .. "`")
  end
  run:cancel(who)
  return run
end

function Runs:approve(id, who)
  local row, run = self:get(id), self:rouse(id)
  if not run then
    err.raise(row.state == "queued" and "not_waiting" or "run_ended", row.state == "queued"
      and ("the run %s waits for its turn"):format(id) or ("the run %s has ended: %s"):format(id, row.state),
      "`ndctl runs show " .. id .. "`")
  end
  run:approve(who)
  self:rouse(id) -- where it lay down meanwhile
  return run
end

local ended = { done = true, failed = true, cancelled = true }

-- Waits until the run has ended; returns its row. Raises when the daemon ends before.
function Runs:wait(run)
  while true do
    local live, row = self.live[run.row.id], self:get(run.row.id)
    if not live and ended[row.state] then return row end
    if self.d.stopping then
      err.raise("shutting_down", ("the daemon ends or is replaced; the run %s goes on when it is back"):format(row.id),
        "ndctl runs watch " .. row.id, { run_id = row.id })
    end
    (live and live.ended or self.d.queue.changed):wait(1000)
  end
end

-- Has all who wait look again.
function Runs:wake()
  for _, run in pairs(self.live) do run.ended:notify() end
  self.d.queue.changed:notify()
end

-- ---- for people ----

-- A run whose journal is damaged is shown as far as it can be read.
local function decoded(text)
  local ok, value = pcall(json.decode, text or "")
  if ok then return value end
end

function Runs:describe(row)
  local app = self.d.apps:by_id(row.app) or { name = "", project = "", environment = "" } -- of a damaged row
  local last = self:step_of(row.id)
  return {
    id = row.id, app = app.name, project = app.project, environment = app.environment,
    recipe = row.recipe, bundle = row.bundle, state = row.state, owner = row.owner,
    started_at = clock.format(row.started_at),
    ended_at = row.ended_at and clock.format(row.ended_at),
    deadline = row.deadline and clock.format(row.deadline),
    wake_at = row.wake_at and row.state == "sleeping" and clock.format(row.wake_at) or nil,
    step = last and last.label, error = decoded(row.error) or decoded(row.reason),
    params = decoded(row.params) or {}, result = decoded(row.result),
  }
end

local function effect_state(e)
  if e.undone == 1 then return "undone" end
  if not e.answered then return "acting" end
  local failure = decoded(e.error)
  return failure and failure.code == "cancelled" and "cancelled" or "answered"
end

-- The run with its last effects: all of 10,000 would hold the loop for 0.1 s.
function Runs:show(id)
  local run = self:describe(self:get(id))
  local rows = self.d.store:all([[SELECT * FROM (SELECT * FROM effect WHERE run = ? ORDER BY n DESC LIMIT ?)
    ORDER BY n]], id, SHOWN)
  run.effects, run.effects_before = json.array {}, rows[1] and rows[1].n - 1 or 0
  for i, e in ipairs(rows) do
    run.effects[i] = {
      n = e.n, name = e.name, version = e.version, args = decoded(e.args) or json.array {}, label = e.label,
      state = effect_state(e), at = e.at, task = e.task, asked_at = clock.format(e.asked_at),
      deadline = e.deadline and clock.format(e.deadline), answered = e.answered,
      answered_at = e.answered_at and clock.format(e.answered_at), ok = e.ok and e.ok == 1,
      ms = e.answered_at and e.answered_at - e.asked_at, result = decoded(e.result),
      error = decoded(e.error), undo = decoded(e.undo), pivot = e.pivot == 1,
    }
  end
  return run
end

-- All that a run depended on and what came of it, so that it can be gone through again without us.
function Runs:recording(id)
  local row = self:get(id)
  if row.state == "queued" then
    err.raise("not_begun", ("the run %s waits for its turn, and has done nothing yet"):format(id),
      ("`ndctl runs watch %s` waits for its end"):format(id))
  end
  local files = decoded(self.d.store:get("SELECT files FROM bundle WHERE hash = ?", row.bundle).files)
  if not files then
    err.raise("journal_damaged", ("the recipe of the run %s can't be read"):format(id),
      "`ndctl runs show " .. id .. "`")
  end
  local undos = json.array {}
  for i, event in ipairs(self.d.store:all(
    "SELECT time, data FROM event WHERE run = ? AND kind = 'run.undo' ORDER BY seq", id)) do
    local undo = decoded(event.data) or {}
    undos[i] = { n = undo.n, label = undo.label, ok = undo.ok, error = undo.error, time = clock.format(event.time) }
  end
  return { run = self:show(id), files = files, seed = row.seed, state = decoded(row.begun_with), heard = row.heard,
    undos = undos }
end

local function add(list, args, clause, value)
  if value == nil then return end
  list[#list + 1] = clause
  args[#args + 1] = value
end

local function where(clauses)
  return #clauses > 0 and "WHERE " .. table.concat(clauses, " AND ") or ""
end

-- The newest first: before all others what waits for its turn.
function Runs:list(filter)
  local apps, clauses, args, list = {}, {}, {}, json.array {}
  local most = math.min(filter.limit or 20, 200)
  add(apps, args, "name = ?", filter.app)
  add(apps, args, "project = ?", filter.project)
  add(apps, args, "environment = ?", filter.environment)
  if filter.seen then
    apps[#apps + 1] = filter.seen.sql
    table.move(filter.seen.args, 1, #filter.seen.args, #args + 1, args)
  end
  if #apps > 0 then -- an app's runs are found by `run_app`, those of all by `run_started`
    clauses[1] = ("app IN (SELECT id FROM app WHERE %s)"):format(table.concat(apps, " AND "))
  end
  if not filter.before and (filter.state or "queued") == "queued" then
    local waiting = self.d.queue:list(where(clauses), args)
    for i = #waiting, math.max(1, #waiting - most + 1), -1 do list[#list + 1] = self:describe(as_run(waiting[i])) end
  end
  add(clauses, args, "state = ?", filter.state)
  add(clauses, args, "id < ?", filter.before)
  args[#args + 1] = most - #list
  for _, row in ipairs(self.d.store:all(("SELECT * FROM run %s ORDER BY started_at DESC, rowid DESC LIMIT ?")
    :format(where(clauses)), table.unpack(args))) do
    list[#list + 1] = self:describe(row)
  end
  return list
end

-- ---- plan ----

-- What a request would do, without doing it.
function Runs:plan(request)
  local bundle = self.d.recipes:bundle(request.recipe)
  local plan = Plan.make(self.d, request, row_for(request, bundle), bundle)
  plan.recipe, plan.app_name = bundle.name, request.app.name
  return plan
end

return Runs
