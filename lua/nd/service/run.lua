-- One run: a recipe in a worker, its effects acted on here, and the journal between the two.
--
-- The worker asks for effects; this file journals each, acts, journals the answer and hands it
-- back. After a crash of either side the journal is replayed: the worker gets its recorded answers
-- in their recorded order, and goes on at the first effect without one. What such an effect did
-- or didn't do is settled by its `observe`.
--
-- Two numbers order everything: `n`, given by the worker when it asks, and `answered`, given here.
-- An effect that failed or was cancelled has left nothing behind (`clean`). Before the pivot a
-- failure runs the journaled undos in reverse; after it the daemon finishes what is left.

local clock = require "clock"
local db = require "db"
local fault = require "fault"
local json = require "json"
local log = require "log"
local task = require "task"
local budget = require "nd.budget"
local duration = require "nd.duration"
local effects = require "nd.effect"
local err = require "nd.error"
local tasks = require "nd.tasks"
local discreet = require "nd.service.discreet"
local frames = require "nd.service.frames"
local context = require "nd.service.run_context"
local recipe_worker = require "nd.service.recipe_worker"
local run_journal = require "nd.service.run_journal"
local rights_of = require("nd.service.who").rights

local DEATHS = 3             -- of the worker without a new journal row: the run is stuck
local LOOK_MS = 1000         -- how often a worker that waits for answers is looked at
local ASLEEP_MS = 60000      -- a run that sleeps longer gives up its process
local RESULT_BYTES = 64 * 1024
local AWAY_MS = 10 * 60 * 1000 -- how long cleaning up waits for a Docker that is away
local UNDO_LEAST_MS = 1000     -- that each undo has, however late it is
local RETRY_MS = 1000          -- between tries to record how it ended, while the database refuses
local FAILING_MS = 3000        -- ... and how long it tries what fails otherwise
-- Ends of a worker that say nothing of its recipe: it is started again.
local passing = { worker_died = true, worker_protocol = true }
local refusals = { db_full = true, db_io = true, db_locked = true, db_open = true }
local away = { docker_unreachable = true, docker_timeout = true, docker_protocol = true, docker_error = true }

local Run = {}
Run.__index = Run

-- row: of table run. d: the daemon. What it holds in memory can be rebuilt from the journal.
function Run.new(d, row)
  return setmetatable({
    d = d, row = row, app = d.apps:by_id(row.app),
    effects = {},   -- [n] = the journal's row, args and results decoded
    count = 0,      -- of effects asked
    order = 0,      -- of answers given
    acting = {},    -- [n] = the task that acts on it
    ended = task.signal(),
    approved = task.signal(),
  }, Run)
end

for name, method in pairs(run_journal) do Run[name] = method end

function Run:event(kind, data) return self.d.store:event(kind, self.row.app, self.row.id, data) end

-- Asked for by whomever, it is the daemon that begins and ends it.
function Run:audit(operation, outcome, code)
  if not self.d.audit then return end
  self.d.audit:note { operation = operation, outcome = outcome, code = code, app = self.app, run = self.row.id,
    object = self.row.recipe, who = self.row.owner }
end

-- What is journaled, without the app's secrets.
function Run:redacted(value) return self.d.redaction:value(self.row.app, value) end

local function live(state)
  return state == "running" or state == "sleeping" or state == "rolling_back"
end

-- ---- the worker ----

local function answer_frame(e)
  if e.ok == 1 then return { type = "answer", n = e.n, ok = true, value = e.result } end
  return { type = "answer", n = e.n, ok = false, error = e.error }
end

-- Hands a new worker all recorded answers; it takes one at a time, in this order.
function Run:replay()
  local answered = {}
  for _, e in pairs(self.effects) do
    if e.answered then answered[#answered + 1] = e end
  end
  table.sort(answered, function(a, b) return a.answered < b.answered end)
  for _, e in ipairs(answered) do self:send(answer_frame(e)) end
end

function Run:send(frame)
  if not self.worker then return end
  self.bursts = self.bursts + 1
  self.busy_since = self.busy_since or clock.monotonic()
  pcall(self.worker.send, self.worker, frame)
end

-- The worker's next message; nil when it died. Kills one that computes for too long.
function Run:receive()
  while true do
    local left = self.busy_since and math.max(1, self.busy_since + budget.wall_ms - clock.monotonic())
    local ok, message = pcall(frames.receive, self.worker, left or LOOK_MS)
    if ok then return message end
    if message.code ~= "timeout" then
      if message.code == "cancelled" then error(message, 0) end
      return nil, message
    end
    if self.busy_since and clock.monotonic() - self.busy_since >= budget.wall_ms then
      return nil, budget.over("wall", budget.wall_ms)
    end
  end
end

-- Attends to one worker until it ends. Returns how: "done", value | "continue_as", state |
-- "failed", error | "died", error? | "asleep", wake time.
function Run:attend(w)
  self.worker, self.bursts, self.busy_since = w, 1, clock.monotonic()
  local _ <close> = setmetatable({}, { __close = function()
    self.worker = nil
    w:kill()
  end })
  self:replay()
  while true do
    local message, why = self:receive()
    if not message then
      why = why or budget.ended(w:wait())
      return passing[why.code] and "died" or "failed", why
    end
    self.bursts = self.bursts - 1
    self.busy_since = self.bursts > 0 and clock.monotonic() or nil
    for _, line in ipairs(message.logs or {}) do
      local much = self:log(line)
      if much then return "failed", much end
    end
    if message.type == "parked" then
      for _, asked in ipairs(message.effects) do
        local differs = self:asked(asked)
        if differs then return "failed", differs end
      end
      local wake = self:asleep()
      if wake then return "asleep", wake end
    elseif message.type == "done" then
      return "done", message.value
    elseif message.type == "continue_as" then
      return "continue_as", message.state
    elseif message.type == "failed" then
      return "failed", message.error
    end
  end
end

-- A line that the recipe logged: an event, shown once, so not again in a replay. Returns an error once
-- there were too many.
function Run:log(line)
  self.log_bytes = self.log_bytes + budget.of_line(line)
  if self.log_bytes > budget.log_bytes then return budget.over("log", budget.log_bytes) end
  self.logged = (self.logged or 0) + 1
  if self.logged <= (self.log_seen or 0) then return end
  self.log_seen = self.logged
  self.d.store:post { self:event("run.log", { text = line }) }
end

-- When all that is in flight sleeps for long and nothing is being computed: until when.
function Run:asleep()
  if self.bursts > 0 then return nil end
  local wake
  for n in pairs(self.acting) do
    local e = self.effects[n]
    if not e.wake then return nil end
    wake = math.min(wake or math.huge, e.wake)
  end
  if wake and wake - clock.now() > ASLEEP_MS then return wake end
end

-- ---- effects ----

-- Where a test has the daemon die or stop, or (action "fail") its worker die. Points of an effect:
-- before (its intent is journaled), asked (the intent is durable, or becomes so with its first
-- step), acted, answered (not yet durable); undoing, undone (neither is that).
function Run:fault(e, point)
  if not fault.hit(("effect.%s.%s"):format(e.name, point)) then return end
  log.warn("fault: " .. (self.worker and "the worker is killed" or "there is no worker"))
  if self.worker then self.worker:kill() end
end

-- The worker asked for an effect: new, or known from the journal. Returns an error, which ends the run,
-- when the journal holds another one under this number, and when there were too many.
function Run:asked(asked)
  local known = self.effects[asked.n]
  if known then
    local same = json.encode(self:redacted(known.args)) == json.encode(self:redacted(asked.args))
    if known.name ~= asked.name or not same then
      return err.new("diverged", ("on replay the recipe asked for %s as effect %d where the journal has %s")
        :format(asked.name, asked.n, known.name),
        "a recipe must decide the same from the same answers; this is a fault in NextDeploy if it has no state outside")
    end
    if not known.answered and not self.acting[known.n] then
      known.args = asked.args -- as they were before anything was taken out of them
      self:act(known, true)
    end
    return nil
  end
  if asked.n > budget.effects then return budget.over("effects", budget.effects) end
  self:journal(asked)
end

function Run:journal(asked)
  local def = effects.find(asked.name)
  local e = {
    n = asked.n, name = asked.name, version = asked.version or 1, task = asked.task or "1",
    at = asked.at, args = asked.args or json.array {}, pivot = asked.pivot and 1 or 0,
    asked_at = clock.now(), undone = 0,
  }
  e.label = self.d.redaction:text(self.row.app,
    def and effects.label(def, e, function() return self:context(e) end) or e.name)
  self.effects[e.n] = e
  self.count = math.max(self.count, e.n)
  self:fault(e, "before")
  local ok, bad = pcall(effects.check, def, e, self)
  e.deadline = ok and effects.deadline(def, e, self:context(e)) or nil
  local statements = {
    { [[INSERT INTO effect (run, n, name, version, task, at, args, label, pivot, asked_at, deadline)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)]],
      self.row.id, e.n, e.name, e.version, e.task, e.at or db.null, json.encode(self:redacted(e.args)), e.label,
      e.pivot, e.asked_at, e.deadline or db.null },
    self:event("effect.asked", { n = e.n, name = e.name, label = e.label }),
  }
  if self.row.deaths > 0 then
    self.row.deaths = 0
    statements[#statements + 1] = { "UPDATE run SET deaths = 0 WHERE id = ?", self.row.id }
  end
  self.d.store:post(statements)
  if ok then
    self:act(e, false)
  else
    self:answer(e, false, bad)
  end
end

-- What who began it may do now.
function Run:rights() return rights_of(self.d, self.row.owner) end

function Run:context(e) return context.of(self, e) end

local function too_late(e)
  return err.new("deadline", ("%s had not ended after %s, its deadline"):format(e.label,
    duration.text(e.deadline - e.asked_at)), "a recipe that can do without it catches this with pcall")
end

-- Acts until the deadline of e, where it has one, or for `least` ms.
local function within(e, least, act)
  if not e.deadline then return act() end
  return tasks.act(math.max(least, e.deadline - clock.now()), too_late(e), act)
end

-- Acts on an effect in a task of its own. `again`: its intent is in the journal from before a
-- crash, and it may or may not have happened.
function Run:act(e, again)
  local def = effects.find(e.name)
  local ctx = self:context(e)
  e.wake = def.wake and e.asked_at + def.wake(ctx, effects.unpack(e)) or nil
  self.acting[e.n] = task.spawn("effect " .. e.name, function()
    local ok, result = pcall(function()
      if def.class ~= "read" and not (def.commits and not again) then ctx.intend() end
      self:fault(e, "asked")
      if again and e.result ~= nil then return e.result end
      if again and def.observe then
        local seen = def.observe(ctx, effects.unpack(e))
        if seen ~= nil then return seen end
      end
      if again and def.class == "once" then
        err.raise("unknown_outcome", ("%s was asked for before a crash, and nobody can tell whether it happened")
          :format(e.label), "look for yourself; the recipe says retry = \"never\"")
      end
      return within(e, 0, function() return def.act(ctx, effects.unpack(e)) end)
    end)
    if not ok and result.code == "cancelled" then result = err.new("cancelled", e.label .. ": interrupted") end
    self:fault(e, "acted")
    local put_aside = self.resting or self.d.stopping -- not answered
    if not ok and def.clean and not put_aside then self:clean(def, ctx, e) end
    self.acting[e.n] = nil
    if not put_aside then self:answer(e, ok, result) end
  end)
end

-- Cleaning up is not to be cancelled, and tried again while Docker is away. Returns the error of
-- what could not be done all the same; the reconciler removes later what that left.
function Run:insist(fn, ...)
  local began, wait = clock.monotonic(), 50
  while true do
    local ok, why = pcall(fn, ...)
    if ok then return nil end
    if self.d.stopping then error(why, 0) end
    local problem = discreet(err.from(why))
    local limit = away[problem.code] and AWAY_MS or FAILING_MS
    if problem.code ~= "cancelled" and clock.monotonic() - began > limit then return problem end
    wait = math.min(wait * 2, 1000)
    pcall(task.sleep, wait)
  end
end

-- An effect that raises leaves nothing behind.
function Run:clean(def, ctx, e)
  local problem = self:insist(def.clean, ctx, effects.unpack(e))
  if problem then
    log.warn(("run %s: can't clean up after %s: %s"):format(self.row.id, e.label, problem.message))
  end
end

-- Journals the answer and hands it to the worker. The row is durable with the next commit, which
-- comes before any further act.
function Run:answer(e, ok, value)
  local def = effects.find(e.name)
  self.order = self.order + 1
  e.answered, e.answered_at, e.ok = self.order, clock.now(), ok and 1 or 0
  if ok and value ~= nil and #json.encode(value) > RESULT_BYTES then
    ok, e.ok = false, 0
    value = err.new("result_too_large", ("%s brought more than %d bytes"):format(e.label, RESULT_BYTES))
  end
  if ok then
    e.result = self:redacted(value)
    e.undo = def.undo and e.pivot == 0 and def.undo(e.args, value) or nil
  else
    local problem = discreet(err.from(value))
    if problem.traceback then log.error(("run %s: %s: %s"):format(self.row.id, e.label, problem.traceback)) end
    problem.traceback = nil
    e.error = self:redacted(problem)
  end
  local statements = {
    { [[UPDATE effect SET answered = ?, answered_at = ?, ok = ?, result = ?, error = ?, undo = ?
      WHERE run = ? AND n = ?]],
      e.answered, e.answered_at, e.ok, e.result ~= nil and json.encode(e.result) or db.null,
      e.error and json.encode(e.error) or db.null, e.undo and json.encode(e.undo) or db.null,
      self.row.id, e.n },
    self:event("effect.answered", { n = e.n, name = e.name, label = e.label, ok = ok,
      ms = e.answered_at - e.asked_at, error = e.error and e.error.message,
      code = e.error and e.error.code }),
  }
  if ok and e.pivot == 1 then
    self.row.pivot = e.n
    statements[#statements + 1] = { "UPDATE run SET pivot = ? WHERE id = ?", e.n, self.row.id }
  end
  self.d.store:post(statements)
  self.d.metrics.effects:add(1, def and e.name or "unknown", ok and "done" or "failed")
  self:fault(e, "answered")
  self:send(answer_frame(e))
end

-- Interrupts what is in flight and waits until each was answered. With `roots`, only what these
-- tasks asked for before effect `before`: what came later is their clean-up, also after a crash in
-- between; and a branch's own task.cancel or task.rollback runs to its end.
function Run:interrupt(roots, before)
  local chosen = {}
  for n, acting in pairs(self.acting) do
    local e = self.effects[n]
    if not roots or n < before and effects.below(e.task, roots) and not e.name:find "^task%." then
      chosen[#chosen + 1] = acting
    end
  end
  for _, acting in ipairs(chosen) do acting:cancel() end
  for _, acting in ipairs(chosen) do acting:wait() end
end

-- ---- undo ----

local function newest_first(a, b) return a.answered > b.answered end

-- Runs the undos that are still due (of these tasks, or all), the newest first. What the pivot
-- stands on stays, also where its branch has lost.
function Run:undo(roots)
  local due = {}
  local firm = self.row.pivot and self.effects[self.row.pivot].answered or 0
  for _, e in pairs(self.effects) do
    if e.undo and e.undone == 0 and (e.answered or 0) > firm and (not roots or effects.below(e.task, roots)) then
      due[#due + 1] = e
    end
  end
  table.sort(due, newest_first)
  local by = clock.now() + budget.undo_ms
  for _, e in ipairs(due) do self:undo_one(e, by) end
end

-- by: when those that the recipe set have had their time.
function Run:undo_one(e, by)
  local def, ctx = effects.find(e.undo.effect), self:context(e)
  local label = e.undo.label or ("undo " .. e.label)
  local undo = { args = e.undo.args, label = label, asked_at = clock.now() }
  undo.deadline = effects.deadline(def, undo, ctx)
  if e.name == "undo.set" then undo.deadline = math.min(undo.deadline or by, by) end
  self:fault(e, "undoing")
  local problem = self:insist(function()
    return within(undo, UNDO_LEAST_MS, function() return def.act(ctx, effects.unpack(undo)) end)
  end)
  self:fault(e, "undone")
  self:record {
    { "UPDATE effect SET undone = 1 WHERE run = ? AND n = ?", self.row.id, e.n },
    self:event("run.undo", { n = e.n, label = label, ok = not problem,
      error = problem and problem.message }),
  }
  e.undone = 1
  if problem then
    log.error(("run %s: %s failed: %s"):format(self.row.id, label, problem.message))
    self.undo_failed = problem
  end
end

-- Takes back what was to be undone under this label.
function Run:drop_undo(label)
  for _, e in pairs(self.effects) do
    if e.undo and e.undone == 0 and e.undo.label == label then
      e.undo = nil
      self.d.store:post { { "UPDATE effect SET undo = NULL WHERE run = ? AND n = ?", self.row.id, e.n } }
    end
  end
end

-- Effects whose intent is journaled but that nobody acts on any more: what is known to have happened is answered,
-- the rest made to have left nothing.
function Run:settle()
  for _, e in pairs(self.effects) do
    if not e.answered and e.result ~= nil then
      self:answer(e, true, e.result)
    elseif not e.answered then
      local def = effects.find(e.name)
      if def and def.clean then self:clean(def, self:context(e), e) end
      self:answer(e, false, err.new("cancelled", "the run was rolled back"))
    end
  end
end

-- ---- the whole ----

-- What has to be known is recorded as soon as the database takes it.
function Run:record(statements)
  while true do
    local ok, e = pcall(self.d.store.commit, self.d.store, statements)
    if ok then return end
    if self.d.stopping or not refusals[e.code] then error(e, 0) end
    log.error(("run %s: %s"):format(self.row.id, e.message))
    task.sleep(RETRY_MS)
  end
end

function Run:set_state(state, more)
  self.row.state = state
  local statements = { { "UPDATE run SET state = ? WHERE id = ?", state, self.row.id } }
  self:record(table.move(more or {}, 1, #(more or {}), 2, statements))
end

function Run:roll_back(reason)
  self.reason = self.reason or reason
  if self.row.state ~= "rolling_back" then
    self:set_state("rolling_back", {
      { "UPDATE run SET reason = ?, heard = ? WHERE id = ?", json.encode(self.reason), self.order, self.row.id },
      self:event("run.rolling_back", { error = self.reason }),
    })
  end
  fault.hit "run.rolling_back"
  self:interrupt()
  self:settle()
  if self.row.pivot then return self:clean_up(self.reason) end -- it happened before it could be interrupted
  self:undo()
  self.d.releases:tidy(self.app, self.row.id) -- what no undo knew of
  local by_person = self.reason and self.reason.code == "cancelled"
  self:finish(by_person and "cancelled" or "failed", self.reason)
end

-- Past the pivot there is only forward: the daemon retires what the recipe no longer can.
function Run:clean_up(reason)
  self:set_state("cleaning", {
    { "UPDATE run SET error = ?, heard = coalesce(heard, ?) WHERE id = ?", json.encode(reason), self.order,
      self.row.id } })
  self:interrupt()
  self:settle()
  self.d.releases:tidy(self.app, self.row.id)
  self:finish("done", reason)
end

-- `more`: statements of the same commit.
function Run:finish(state, reason, result, more)
  if reason and self.undo_failed then
    reason.data = reason.data or {}
    reason.data.undo_failed = self.undo_failed.message
  end
  local now = clock.now()
  self.row.error, self.row.result = reason, result
  self.row.ended_at = now
  local statements = {
    { "UPDATE run SET ended_at = ?, error = ?, result = ? WHERE id = ?", now,
      reason and json.encode(reason) or db.null, result ~= nil and json.encode(result) or db.null,
      self.row.id },
    { "UPDATE app SET updated_at = ? WHERE id = ?", now, self.row.app },
    { [[UPDATE app SET strategy = ? WHERE id = ? AND EXISTS
      (SELECT 1 FROM release WHERE id = app.live AND run = ?)]], self.row.recipe, self.row.app, self.row.id },
    self:event("run.ended", { state = state, error = reason, recipe = self.row.recipe }),
    self.d.store:event("app.changed", self.row.app, nil, {}),
    self.d.runs.forget_old(self.row.app, now),
  }
  self:set_state(state, table.move(more or {}, 1, #(more or {}), #statements + 1, statements))
  self.d.metrics.runs_ended:add(1, self.d.recipes:is_named(self.row.recipe) and self.row.recipe or "sent", state)
  self:audit("run.end", state == "done" and "done" or "failed", reason and reason.code)
  fault.hit "run.ended"
  self.ended:notify()
end

-- Ends the run and begins its successor, in one commit: no other run can come between.
function Run:continue_as(state)
  local row, statements = self.d.runs:successor(self.row, state)
  local successor = Run.new(self.d, row)
  self:finish("done", nil, { continued_as = row.id }, statements)
  self.d.runs:begin(successor)
end

-- The recipe goes no further: back before the pivot, forward after it.
function Run:give_up(reason)
  if self.row.pivot then return self:clean_up(reason) end
  return self:roll_back(reason)
end

-- Drives the run to its end. `w`: a worker that has loaded the recipe already, or nil. `stuck`:
-- the error when it is not to be tried again.
function Run:drive(w, stuck)
  if self.row.state == "rolling_back" then
    self.undo_failed = self.damage
    return self:roll_back(self.row.reason or self.damage)
  elseif self.row.state == "cleaning" then
    return self:clean_up(self.row.error or self.damage)
  elseif stuck then
    return self:give_up(stuck)
  elseif self.row.state == "sleeping" then
    if self:sleep_until(self.row.wake_at) then return end
  end
  while true do
    local how, value = self:once(w)
    w = nil
    if how == "continue_as" and self.count == 0 then
      how, value = "failed", err.new("recipe_failed", "the recipe calls continue_as without having done anything",
        "its successors would do so for ever; let each ask for something, time.sleep for instance")
    end
    if how == "done" then
      self:interrupt()
      self.d.releases:tidy(self.app, self.row.id)
      return self:finish("done", nil, value)
    elseif how == "continue_as" then
      self:interrupt()
      return self:continue_as(value)
    elseif how == "asleep" then
      if self:sleep_until(value) then return end
    elseif how == "failed" or self:died(value) then
      local reason = how == "failed" and err.from(value) or self:stuck(value)
      reason.http = nil
      if reason.code == "internal" then reason.code = "recipe_failed" end
      return self:give_up(reason)
    end
  end
end

function Run:once(w)
  self.logged, self.log_bytes = 0, 0
  local ok, how, value = pcall(function()
    if not w then
      local header
      w, header = recipe_worker.start(self.d, self.row, self:files())
      self.needs = header.allowed
    end
    return self:attend(w)
  end)
  if ok then return how, value end
  if how.code == "cancelled" then error(how, 0) end
  return passing[how.code] and "died" or "failed", how
end

function Run:files()
  local bundle = { files = self.d.recipes:kept(self.row.bundle) }
  return self:read(bundle, "files", "its recipe") or error(self.damage, 0)
end

-- One more death of the worker. True when it died too often in the same place.
function Run:died(why)
  self.row.deaths = self.row.deaths + 1
  self.d.store:post { { "UPDATE run SET deaths = ? WHERE id = ?", self.row.deaths, self.row.id } }
  log.warn(("run %s: %s"):format(self.row.id, tostring(why)))
  return self.row.deaths >= DEATHS
end

function Run:stuck(why)
  return err.new("stuck", ("the recipe's worker died %d times after effect %d without getting any further; "
    .. "the last time: %s"):format(DEATHS, self.count, why.message), "`ndctl runs show " .. self.row.id .. "`")
end

-- Somebody has approved of what the run waited for, perhaps before a crash.
local function is_approved(self)
  return self.d.store:get([[SELECT 1 AS one FROM approval JOIN effect ON effect.run = approval.run
    AND effect.n = approval.n WHERE approval.run = ? AND answered IS NULL]], self.row.id)
end

-- Returns true where the run is its row alone from now on, until runs.lua rouses it; one that was roused
-- before its time waits here, for whoever wants something of it.
function Run:sleep_until(wake)
  local order = self.order
  self:set_state("sleeping", { { "UPDATE run SET wake_at = ? WHERE id = ?", wake, self.row.id } })
  self.resting = true
  self:interrupt()
  self.resting = false
  local answered = self.order > order -- while it lay down
  local left = wake - clock.now()
  if not answered and left > 0 and not is_approved(self) then
    if not self.roused then return self.d.runs:lay_down(self.row.id, wake, self.row.deadline) end
    self.approved:wait(left)
  end
  self.roused = nil
  self:set_state("running")
end

-- Somebody approves of what the run waits for: of all of it, where branches wait.
function Run:approve(who)
  local statements = {}
  for n, e in pairs(self.effects) do
    if e.name == "approval.wait" and not e.answered then
      statements[#statements + 1] = { "INSERT OR IGNORE INTO approval (run, n, by, at) VALUES (?, ?, ?, ?)",
        self.row.id, n, who, clock.now() }
    end
  end
  if #statements == 0 then
    err.raise("not_waiting", ("the run %s waits for nobody's approval"):format(self.row.id),
      ("`ndctl runs show %s` tells what it is at"):format(self.row.id))
  end
  statements[#statements + 1] = self:event("run.approved", { by = who })
  self.d.store:commit(statements)
  self.approved:notify()
end

-- Has the run end at once, for this reason: back, or past the pivot to its end.
function Run:stop(reason)
  self.reason, self.stopped = reason, true
  self.driver:cancel()
end

local function is_past_pivot(self, why)
  err.raise("past_pivot", ("the run %s is past its point of no return%s: it only goes forward"):format(self.row.id,
    why), ("let it finish, then `ndctl rollback %s`"):format(self.app.name))
end

-- Asks the run to end by its undo path. Refused after the pivot.
function Run:cancel(who)
  local state = self.row.state
  if self.row.pivot and (live(state) or state == "cleaning") then
    is_past_pivot(self, ", effect " .. self.row.pivot)
  elseif not live(state) then
    err.raise("run_ended", ("the run %s has ended: %s"):format(self.row.id, state),
      ("`ndctl runs show %s`"):format(self.row.id))
  end
  if self.stopped or state == "rolling_back" then return end -- under way already
  self:stop { code = "cancelled", message = "cancelled by " .. who }
end

-- Its time is over, unless it is about to end anyway.
function Run:expire()
  if self.stopped or self.row.state ~= "running" and self.row.state ~= "sleeping" then return end
  local took = duration.text(self.row.deadline - self.row.started_at)
  self:stop { code = "deadline", message = ("the run had not ended after %s, its deadline"):format(took),
    hint = ("`ndctl runs show %s` tells where the time went; --deadline TIME gives it more"):format(self.row.id) }
end

-- Starts the task that drives it.
function Run:go(w, stuck)
  self.driver = task.spawn("run " .. self.row.id, function()
    local ok, e = pcall(self.drive, self, w, stuck)
    if not ok and self.stopped and e.code == "cancelled" then
      ok, e = pcall(self.give_up, self, self.reason)
    end
    if not ok and not self.d.stopping then
      log.error(("run %s: %s"):format(self.row.id, tostring(e.traceback or e)))
      while not self.d.stopping and not pcall(self.finish, self, "failed", err.from(e)) do task.sleep(RETRY_MS) end
    end
    self.d.runs.live[self.row.id] = nil
    self.ended:notify()
    if self.d.runs.asleep[self.row.id] then return end
    self.d.queue:next(self.row.app)
    self.d.gc:nudge()
  end)
end

return { new = Run.new }
