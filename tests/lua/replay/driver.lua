-- A run's journal and the daemon's side of the seam, without a daemon: what a recipe asks is
-- written down, answered in any order, and replayed to a new worker after each death of the old.
--
-- The journal is a list of effects by `n` (asked order); `answered` lists their numbers in the
-- order of the answers. Together they are all that survives a crash. Two effects have a meaning:
--   task.cancel{tasks}    each effect of these tasks (and below) that was asked before it and is
--                         not answered yet is answered first: with "cancelled", or with its result
--                         if it had just completed. task.* effects are never interrupted. What the
--                         tasks ask for after it (their clean-up) has a higher `n` and is left be.
--   task.rollback{tasks}  the undos of these tasks' effects, the newest first.

local json = require "json"
local engine = require "tests.lua.lib.engine"

local M = {}
M.__index = M

-- world: decides how effects are answered: world.answer(effect) -> ok, value; see spec.
function M.new(source, seed, world)
  return setmetatable({
    start = {
      type = "start", run = "r", files = { ["recipe.lua"] = source }, entry = "recipe.lua",
      params = {}, seed = seed, mode = "run",
    },
    world = world, journal = {}, answered = {}, logs = {}, undone = {}, deaths = 0,
  }, M)
end

local function same(known, asked)
  return known.name == asked.name and known.task == asked.task and known.at == asked.at
    and known.version == asked.version and json.encode(known.args) == json.encode(asked.args)
end

-- Takes in a frame: new effects go into the journal, known ones must be the same.
function M:take(frame, burst)
  if not frame then
    error("the worker died by itself")
  end
  local logs = json.encode(frame.logs or {})
  if self.logs[burst] and self.logs[burst] ~= logs then
    error("another log than before in burst " .. burst)
  end
  self.logs[burst] = logs
  if frame.type ~= "parked" then
    self.result = frame
    return
  end
  for _, asked in ipairs(frame.effects) do
    local known = self.journal[asked.n]
    if known and not same(known, asked) then
      error(("diverged: effect %d was %s, is %s"):format(asked.n, json.encode(known),
        json.encode(asked)))
    elseif not known then
      assert(asked.n == #self.journal + 1, "effects are numbered without gaps")
      self:check_parked(asked)
      self.journal[asked.n] = asked
    end
  end
end

local function below(id, tasks)
  for _, root in ipairs(tasks) do
    if id == root or id:sub(1, #root + 1) == root .. "." then
      return true
    end
  end
  return false
end

local function is_special(e)
  return e.name:sub(1, 5) == "task."
end

-- A task runs only when nothing that it, or a branch of it, asked for is in flight any more.
function M:check_parked(asked)
  for _, e in ipairs(self.journal) do
    if not e.order and not is_special(asked) and below(e.task, { asked.task }) then
      error(("task %s asked for effect %d while effect %d of task %s is in flight"):format(
        asked.task, asked.n, e.n, e.task))
    end
  end
end

local function receive(self)
  return self.worker:recv(20000)
end

local function answer_frame(e)
  return { type = "answer", n = e.n, ok = e.ok, value = e.ok and e.value or nil,
    error = not e.ok and e.value or nil }
end

-- Starts a worker and hands it all answers at once; then it stands where the last one stood.
function M:attach()
  self.worker = engine.spawn()
  self.worker:send(self.start)
  for _, n in ipairs(self.answered) do
    self.worker:send(answer_frame(self.journal[n]))
  end
  local header = receive(self)
  if not header or header.type ~= "header" then
    error("no header: " .. json.encode(header or {}))
  end
  for burst = 0, #self.answered do
    self:take(receive(self), burst)
  end
end

function M:kill()
  self.worker:close()
  self.worker = nil
  self.deaths = self.deaths + 1
end

-- ---- effects in flight ----

-- The effects that a task.cancel interrupts and that are not answered yet.
function M:interrupted_by(cancel)
  local list = {}
  for n = 1, cancel.n - 1 do
    local e = self.journal[n]
    if not e.order and not is_special(e) and below(e.task, cancel.args[1].tasks) then
      list[#list + 1] = e
    end
  end
  return list
end

function M:is_interrupted(e)
  for n = e.n + 1, #self.journal do
    local other = self.journal[n]
    if other.name == "task.cancel" and not other.order and below(e.task, other.args[1].tasks) then
      return not is_special(e)
    end
  end
  return false
end

-- The effects that may be answered next.
function M:choices()
  local list = {}
  for _, e in ipairs(self.journal) do
    if not e.order and not (e.name == "task.cancel" and #self:interrupted_by(e) > 0) then
      list[#list + 1] = e
    end
  end
  return list
end

local function roll_back(self, rollback)
  for _, e in ipairs(self.journal) do
    if e ~= rollback and below(e.task, rollback.args[1].tasks) and not e.order then
      error(("rollback %d while effect %d of task %s is in flight"):format(rollback.n, e.n, e.task))
    end
  end
  for i = #self.answered, 1, -1 do
    local e = self.journal[self.answered[i]]
    if e.ok and below(e.task, rollback.args[1].tasks) then
      self.undone[e.n] = true
    end
  end
end

-- Decides the answer to an effect and writes it down; `deliver` says whether the worker gets it.
function M:answer(e, deliver)
  if e.name == "task.rollback" then
    e.ok = true
    roll_back(self, e)
  elseif is_special(e) then
    e.ok = true
  elseif self:is_interrupted(e) and self.world.interrupts(e) then
    e.ok, e.value = false, { code = "cancelled", message = "cancelled" }
  else
    e.ok, e.value = self.world.answer(e)
  end
  self.answered[#self.answered + 1] = e.n
  e.order = #self.answered
  if deliver then
    self.worker:send(answer_frame(e))
  end
end

-- Reads what the worker did with the last answer.
function M:follow()
  self:take(receive(self), #self.answered)
end

return M
