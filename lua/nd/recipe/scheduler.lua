-- Tasks and their order: the worker's half of the seam between recipes and the daemon.
--
-- A task is a coroutine that runs until it waits for an effect or for its own children ("parks").
-- One answer wakes one task; then every task that can run does, in the order in which they became
-- able to, until all are parked. Only then are the new effects numbered, in the order in which they
-- were asked, and sent. So the same answers in the same order give the same effects.
--
-- Cancellation. A cancelled task has the error `cancelled` raised where it waits, and may then wait
-- again only to clean up:
--   * in `<close>` variables, as the error passes them, whatever they call;
--   * after a pcall that caught it, until the task ends or enters another pcall that waits.
-- There it is raised again, and this time no pcall holds it: a task that swallows a cancellation
-- ends all the same. `shield` is that state: nil (a wait raises), "unwinding" (the error is on its
-- way up), "caught" (a pcall held it). A second cancellation, by an outer race or timeout, starts
-- anew and interrupts the clean-up of the first.

local errors = require "nd.recipe.errors"

local rawcreate, rawresume, rawyield = coroutine.create, coroutine.resume, coroutine.yield
local rawstatus, isyieldable = coroutine.status, coroutine.isyieldable
local rawxpcall = xpcall
local pack, unpack, concat = table.pack, table.unpack, table.concat
local format, tostring, error = string.format, tostring, error
local rawequal, ipairs, setmetatable = rawequal, ipairs, setmetatable

local M = {}

local PARK = setmetatable({}, { __name = "park" }) -- what a coroutine yields when its task parks

local LOG_LINE, LOG_BURST = 16 * 1024, 512 * 1024 -- bytes
local LOG_ROW = 128 -- bytes that a line counts for besides: the daemon keeps each as a row
local BURST, ARGUMENTS = 3 * 1024 * 1024, 1024 * 1024 -- bytes of one frame's effects; of one

local host            -- see runtime/script/recipe.h
local current         -- the task that runs
local main            -- task "1"
local ready = {}      -- queue of { task, values... }
local first, last = 1, 0
local outgoing = {}   -- effects asked in this burst
local burst_bytes = 0
local in_flight = {}  -- n -> effect sent and not answered
local waiting = 0     -- how many
local asked = 0       -- the last n
local logs, log_bytes, logs_left_out = {}, 0, 0
local successor       -- { state } once continue_as was called
local pivoted = false

M.PARK = PARK
M.task_coroutines = {} -- thread -> true: not for a recipe to resume

function M.current()
  return current
end

-- ---- the queue ----

local function enqueue(task, ...)
  last = last + 1
  ready[last] = pack(task, ...)
end

-- ---- logs ----

function M.log(text)
  if #text > LOG_LINE then
    text = text:sub(1, LOG_LINE) .. "…"
  end
  if log_bytes + #text + LOG_ROW > LOG_BURST then
    logs_left_out = logs_left_out + 1
    return
  end
  log_bytes = log_bytes + #text + LOG_ROW
  logs[#logs + 1] = host.encode(text)
end

local function take_logs()
  if logs_left_out > 0 then
    logs[#logs + 1] = format('"(%d more lines left out)"', logs_left_out)
  end
  local text = "[" .. concat(logs, ",") .. "]"
  logs, log_bytes, logs_left_out = {}, 0, 0
  return text
end

-- ---- cancellation ----

local function raise_cancelled(task)
  task.shield = "unwinding"
  error(errors.new({ code = "cancelled", message = "the task " .. task.id .. " was cancelled" }), 0)
end

local function must_raise(task)
  return task.cancelled and not task.shield
end

-- Running out of memory ends the process: a protected call that holds it lets nothing go on.
function M.check_memory(err)
  if err == "not enough memory" then
    host.out_of_memory()
  end
end

-- What a protected call does on its way in: the state to restore.
function M.enter_protected(task)
  local shield = task.shield
  if shield == "caught" then
    task.shield = nil
  end
  return shield
end

-- ... and on its way out. Raises where a cancellation must not be caught.
function M.leave_protected(task, shield, err)
  if shield == "unwinding" then
    task.shield = shield
  elseif task.shield ~= "unwinding" then
    task.shield = task.shield or shield
  elseif task.caught then
    error(err, 0)
  else
    task.caught, task.shield = true, "caught"
  end
end

-- Takes back an effect that was asked in this burst and not sent yet.
local function withdraw(effect)
  for i = #outgoing, 1, -1 do
    if rawequal(outgoing[i], effect) then
      table.remove(outgoing, i)
      burst_bytes = burst_bytes - #effect.text
    end
  end
end

local end_task

-- Cancels a task and all below it. True if one of them waits for an effect that was sent.
local function cancel(task)
  if task.ended then
    return false
  end
  task.cancelled, task.shield, task.caught = true, nil, false
  local wait, children = task.waits, task.open
  if not task.started then
    end_task(task, false, errors.new({ code = "cancelled", message = "never started" }))
    return false
  elseif children then
    local sent = false
    children.abandoned = true
    for _, child in ipairs(children.children) do
      sent = cancel(child) or sent
    end
    return sent
  elseif not wait then
    return false -- it is about to run: raised where it waits next
  elseif wait.n then
    return true
  end
  withdraw(wait)
  task.waits = nil
  enqueue(task, false, { code = "cancelled", message = "cancelled" })
  return false
end

-- ---- effects ----

-- Each coroutine from the task's own down to the one that runs must be able to yield.
local function check_can_wait(task, name)
  local able = isyieldable()
  for i = 1, task.depth do
    able = able and isyieldable(task.nested[i])
  end
  if not able then
    errors.raise("cant_wait", name .. " can't wait here: it is called from inside a function that "
      .. "is written in C, such as table.sort, string.gsub or the handler of xpcall",
      "ask for it before, and use its result there")
  end
end

local function frame_of(task, name, version, args, pivot)
  local text, why = host.encode(args)
  if not text then
    errors.raise("bad_argument", name .. ": an argument can't be sent to the daemon: " .. why,
      "effects take strings, numbers, booleans and tables of these")
  end
  if #text > ARGUMENTS or burst_bytes + #text > BURST then
    errors.raise("bad_argument", format("%s: its arguments are too large (%d bytes)", name, #text),
      "an effect takes at most 1 MiB, and 3 MiB may be asked at once")
  end
  local where = host.where() or task.at
  return format(',"name":%s,"version":%d,"args":%s,"at":%s,"task":"%s"%s}',
    host.encode(name), version, text, host.encode(where or "?"), task.id,
    pivot and ',"pivot":true' or "")
end

-- Asks for an effect and waits for its answer; returns ok, value or error fields.
local function ask(task, name, version, args, pivot)
  check_can_wait(task, name)
  local effect = { task = task }
  effect.text = frame_of(task, name, version, args, pivot)
  burst_bytes = burst_bytes + #effect.text
  outgoing[#outgoing + 1] = effect
  task.waits = effect
  return rawyield(PARK)
end

-- What an effect's stub does: returns its value or raises. `class` is the row's.
function M.effect(name, version, class, args, pivot)
  local task = current
  if not task then
    errors.raise("too_early", name .. " is called while the recipe is still being loaded",
      "call it from the recipe's run function")
  end
  if must_raise(task) then
    raise_cancelled(task)
  end
  if successor then
    errors.raise("after_continue_as", name .. " is called after continue_as",
      "write `return continue_as(state)`")
  end
  if pivot then
    if pivoted then
      errors.raise("second_pivot", "a run has one pivot at most, and this one had it already")
    end
    pivoted = true
  end
  if class ~= "read" then
    local above = task
    while above and not above.acted do
      above.acted, above = true, above.parent
    end
  end
  local ok, value = ask(task, name, version, args, pivot)
  if must_raise(task) then
    raise_cancelled(task)
  end
  if ok then
    return value
  end
  error(errors.new({
    code = value.code or "effect_failed",
    message = value.message or name .. " failed",
    hint = value.hint,
    data = value.data,
  }), 0)
end

-- ---- tasks ----

-- Mistakes in the recipe itself: whoever reads the message wants the line.
local mistakes = {}
for code in ("bad_argument bad_json bad_recipe cant_wait too_early second_pivot pivot_twice not_here "
  .. "after_continue_as capability unknown_effect"):gmatch("%S+") do
  mistakes[code] = true
end

-- Any error as the object that is reported: what a handler of xpcall makes of it.
function M.describe_error(err)
  M.check_memory(err)
  err = errors.of(err)
  if not err.traceback then
    local where = mistakes[err.code] and host.where()
    if where then
      err.message = where .. ": " .. err.message
    end
    err.traceback = host.traceback(tostring(err.message))
  end
  return err
end

local function new_task(parent, id, fn, at)
  local task = { id = id, parent = parent, at = at, spawned = 0, depth = 0, nested = {} }
  -- Inside a protected call, so that `<close>` clean-up can wait.
  task.co = rawcreate(function(...)
    return rawxpcall(fn, M.describe_error, ...)
  end)
  M.task_coroutines[task.co] = true
  return task
end

function end_task(task, ok, ...)
  if not ok then
    M.check_memory((...)) -- no handler of xpcall sees it
  end
  task.ended, task.ok, task.values = true, ok, pack(...)
  M.task_coroutines[task.co] = nil
  task.co, task.waits = nil, nil
  if task.group then
    task.group:on_end(task)
  end
end

local function after_resume(task, resumed, ...)
  current = nil
  if rawstatus(task.co) == "dead" then
    if resumed then
      return end_task(task, ...)
    end
    return end_task(task, false, errors.of((...)))
  end
  if not rawequal((...), PARK) then
    error("a task yielded something else than a wait")
  end
end

local function step(entry)
  local task = entry[1]
  if task.ended then
    return
  end
  task.started, task.waits = true, nil
  current = task
  after_resume(task, rawresume(task.co, unpack(entry, 2, entry.n)))
end

local function run_ready()
  while first <= last do
    local entry = ready[first]
    ready[first] = nil
    first = first + 1
    step(entry)
  end
end

-- ---- groups of children ----

-- A group is the children of one task.all, race or timeout. The parent waits for it to be settled
-- (`decide` says when, at the end of each child), then for the cancelled ones to end.
local group = {}
group.__index = group

function group:on_end(child)
  self.live = self.live - 1
  if not child.ok and child.cancelled and not self.abandoned then
    local err = child.values[1]
    if not (errors.is(err) and err.code == "cancelled") then
      M.log(format("task %s failed while it was being cancelled: %s", child.id, tostring(err)))
    end
  end
  if not self.settled and not self.abandoned then
    self.settled = self.decide(self, child)
    if self.settled and self.live > 0 then
      self:cancel_rest()
    end
  end
  if self.parent.waits == self and (self.live == 0 or self.settled) and not self.woken then
    self.woken = true
    enqueue(self.parent)
  end
end

function group:cancel_rest()
  self.losers, self.interrupt = {}, {}
  for _, child in ipairs(self.children) do
    if not child.ended then
      self.losers[#self.losers + 1] = child
    end
  end
  for _, child in ipairs(self.losers) do
    if cancel(child) then
      self.interrupt[#self.interrupt + 1] = child.id
    end
  end
end

-- Parks the parent until something changes for it.
local function wait_for(g)
  g.woken = false
  g.parent.waits = g
  rawyield(PARK)
end

-- An effect of the scheduler itself: not interrupted, and its failure is the group's.
local function ask_special(task, name, ids)
  local ok, err = ask(task, name, 1, { { tasks = host.json.array(ids) } })
  if not ok then
    return errors.new(err)
  end
end

-- Runs the functions as children of the current task; `decide(group, child)` is called as each ends
-- and returns true when the others are not needed any more. Returns the group when all have ended.
function M.run_group(name, functions, decide, rollback)
  local task = current
  if not task then
    errors.raise("too_early", name .. " is called while the recipe is still being loaded",
      "call it from the recipe's run function")
  end
  if must_raise(task) then
    raise_cancelled(task)
  end
  check_can_wait(task, name)
  local g = setmetatable({ parent = task, children = {}, decide = decide }, group)
  local at = host.where() or task.at
  for i, fn in ipairs(functions) do
    task.spawned = task.spawned + 1
    local child = new_task(task, task.id .. "." .. task.spawned, fn, host.where(fn) or at)
    child.group = g
    g.children[i] = child
    enqueue(child)
  end
  g.live, task.open = #functions, g
  while g.live > 0 and not g.settled do
    wait_for(g)
  end
  local failure
  if g.interrupt and #g.interrupt > 0 and not g.abandoned then
    failure = ask_special(task, "task.cancel", g.interrupt)
  end
  while g.live > 0 do
    wait_for(g)
  end
  if rollback and g.losers and not must_raise(task) then
    local acted = {}
    for _, child in ipairs(g.losers) do
      if child.acted then
        acted[#acted + 1] = child.id
      end
    end
    if #acted > 0 then
      failure = ask_special(task, "task.rollback", acted) or failure
    end
  end
  task.open = nil
  if must_raise(task) then
    raise_cancelled(task)
  end
  if failure then
    error(failure, 0)
  end
  return g
end

-- ---- the run ----

function M.continue_as(state)
  if current ~= main then
    errors.raise("not_here", "continue_as is called in a branch",
      "call it in the recipe's run function itself")
  end
  local text, why = host.encode(state)
  if not text then
    errors.raise("bad_argument", "continue_as: the state can't be stored: " .. why)
  end
  successor = { text = text }
end

local function flush()
  local frames = {}
  for i, effect in ipairs(outgoing) do
    asked = asked + 1
    effect.n = asked
    in_flight[asked] = effect
    frames[i] = '{"n":' .. asked .. effect.text
  end
  waiting = waiting + #outgoing
  outgoing, burst_bytes = {}, 0
  assert(waiting > 0, "no task can run and none waits for an effect")
  host.send('{"type":"parked","effects":[' .. concat(frames, ",") .. '],"logs":'
    .. take_logs() .. "}")
end

local function fail(err)
  local fields = {
    code = err.code, message = err.message, hint = err.hint, data = err.data,
    traceback = err.traceback,
  }
  local text = host.encode(fields)
  if not text then
    fields.data, fields.message = nil, tostring(fields.message)
    fields.hint, fields.traceback = nil, nil
    text = host.encode(fields)
  end
  host.send('{"type":"failed","error":' .. text .. ',"logs":' .. take_logs() .. "}")
end

M.fail = fail

local function finish()
  if not main.ok then
    return fail(errors.of(main.values[1]))
  end
  if successor then
    return host.send('{"type":"continue_as","state":' .. successor.text .. ',"logs":'
      .. take_logs() .. "}")
  end
  local text, why = host.encode(main.values[1])
  if text and #text > ARGUMENTS then
    text, why = nil, format("it is too large (%d bytes; at most 1 MiB)", #text)
  end
  if not text then
    return fail(errors.new({
      code = "bad_result",
      message = "what the recipe's run function returned can't be stored: " .. why,
    }))
  end
  host.send('{"type":"done","value":' .. text .. ',"logs":' .. take_logs() .. "}")
end

local function deliver(answer)
  local n = answer.n
  local effect = answer.type == "answer" and in_flight[n]
  if not effect then
    fail(errors.new({
      code = "diverged",
      message = format("the answer to effect %s came, which this run has not asked for",
        tostring(n)),
      hint = "the recipe does not do the same thing each time it runs",
    }))
    return false
  end
  in_flight[n] = nil
  waiting = waiting - 1
  if answer.ok then
    enqueue(effect.task, true, answer.value)
  else
    enqueue(effect.task, false, answer.error or {})
  end
  return true
end

-- Runs `fn(...)` as task "1" to its end and reports it.
function M.run(the_host, fn, ...)
  host = the_host
  main = new_task(nil, "1", fn, host.where(fn))
  enqueue(main, ...)
  run_ready()
  while not main.ended do
    flush()
    if not deliver(host.recv()) then
      return
    end
    run_ready()
  end
  finish()
end

function M.open(the_host)
  host = the_host
end

return M
