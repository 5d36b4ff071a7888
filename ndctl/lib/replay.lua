-- lib/replay.lua - a recorded run once more: its recipe, in a locked-in nd-worker of our own, gets the
-- recorded answers in their recorded order. Nothing is acted on, and nobody is asked.
--
--   replay.run(recording, tell) -> how it ended: a step of the kind "ended"
--       recording: GET /runs/ID/recording; tell(step) is called for each step and may wait; true ends it there
--   A step is {kind =, ms = since the run began, ...}:
--     asked      n, name, args, task, at, source (the line of the recipe)
--     log        text
--     answered   n, name, ok, result | error, took (ms), pivot
--     undone     n, label, ok, error
--     ended      how = "done" | "failed" | "continue_as" | "given up" | "under way" | "never began", value | error
-- Where the recipe does something else than the recording says, `diverged` is raised and names it.

local budget = require "nd.budget"
local engine = require "nd.engine"
local fail = require "ndctl.lib.fail"
local json = require "json"
local outcome = require "ndctl.lib.outcome"
local text = require "ndctl.lib.text"

local present = outcome.present

local replay = {}

local Replay = {}
Replay.__index = Replay

local function quoted(e)
  local args = {}
  for i, value in ipairs(e.args or {}) do args[i] = json.encode(value) end
  return ("%s(%s)"):format(e.name, table.concat(args, ", "))
end
replay.quoted = quoted

-- expected, got: in words.
local function diverged(self, expected, got)
  local e = fail.new("diverged", ("the replay goes another way than the run %s did: recorded is %s; now %s"):format(
    self.run.id, expected, got), "a recipe must do the same from the same answers; this is a fault in NextDeploy "
    .. "unless the recording was changed")
  e.data = { expected = expected, got = got }
  error(e, 0)
end

-- "recipe.lua:20" -> what is written there
local function source_of(self, at)
  local file, number = tostring(at):match "^(.+):(%d+)$"
  local source = self.recording.files[file]
  if not source then return nil end
  local n = 0
  for line in (source .. "\n"):gmatch "([^\n]*)\n" do
    n = n + 1
    if n == tonumber(number) then return line:match "^%s*(.-)%s*$" end
  end
end

function Replay:offset(time)
  local ms = text.parse_time(present(time))
  return ms and ms - self.began
end

function Replay:tell(step)
  step.ms = step.ms or self.now
  self.now = math.max(self.now, step.ms)
  self.stopped = self.on_step(step) or self.stopped
end

-- ---- what the recipe says ----

local function receive(self)
  local ok, frame = pcall(self.worker.recv, self.worker, budget.wall_ms)
  if ok and frame then return frame end
  if ok then return { type = "failed", error = budget.ended(self.worker:wait()), ended_itself = true } end
  if frame.code ~= "timeout" then error(frame, 0) end
  return { type = "failed", error = budget.over("wall", budget.wall_ms), ended_itself = true }
end

-- Whether the recipe may go on where the recording has no more.
local function may_go_on(self)
  return self.next > #self.answers and (self.recording.heard or not self.run.ended_at)
end

function Replay:take_asked(asked)
  local known = self.effects[asked.n]
  if not known then
    if not may_go_on(self) then diverged(self, "nothing", ("it asks for %s at %s"):format(quoted(asked), asked.at)) end
    return
  end
  if known.name ~= asked.name or json.encode(known.args) ~= json.encode(asked.args or json.array {}) then
    diverged(self, ("effect %d, %s at %s"):format(known.n, quoted(known), known.at),
      ("it is %s at %s"):format(quoted(asked), asked.at))
  end
  self.asked[asked.n] = true
  self:tell { kind = "asked", n = known.n, name = known.name, args = known.args, task = present(known.task),
    at = present(known.at), source = source_of(self, known.at), label = known.label, ms = self:offset(known.asked_at) }
end

-- Takes in what the recipe did with an answer; its last word becomes self.last.
function Replay:take()
  local frame = receive(self)
  for _, line in ipairs(frame.logs or {}) do self:tell { kind = "log", text = tostring(line) } end
  if frame.type ~= "parked" then
    self.last = frame
    return
  end
  for _, asked in ipairs(frame.effects) do self:take_asked(asked) end
end

-- ---- what it is told ----

function Replay:answer(e)
  if not self.asked[e.n] then
    diverged(self, ("effect %d, %s at %s"):format(e.n, quoted(e), e.at), "it has not been asked for")
  end
  local ok = e.ok
  local value, problem = nil, nil
  if ok then value = e.result else problem = present(e.error) end
  self:tell { kind = "answered", n = e.n, name = e.name, ok = ok, result = present(value), error = problem,
    took = e.ms, pivot = e.pivot, ms = self:offset(e.answered_at) }
  self.worker:send { type = "answer", n = e.n, ok = ok, value = value, error = problem }
end

-- ---- its end ----

local function check_end(self, how, value)
  local run, recorded = self.run, present(self.run.error)
  if not present(run.ended_at) or run.state == "cleaning" then return end
  local failed = recorded ~= nil and recorded.code ~= "cancelled"
  if how == "failed" then
    if not failed then diverged(self, "a run that ended as " .. run.state, "it fails: " .. tostring(value.message)) end
    local code = value.code == "internal" and "recipe_failed" or value.code
    if code ~= recorded.code and recorded.code ~= "stuck" then
      diverged(self, ("the error %s (%s)"):format(recorded.code, recorded.message),
        ("it fails by %s (%s)"):format(code, value.message))
    end
  elseif run.state ~= "done" then
    diverged(self, "a run that ended as " .. run.state, "it comes to its end")
  end
end

local function ended(self)
  local last = self.last
  if last then
    local value = last.value
    if last.type == "continue_as" then value = present(present(self.run.result) and self.run.result.continued_as) end
    check_end(self, last.type, last.error)
    return { kind = "ended", how = last.type, value = present(value), error = last.error }
  elseif self.recording.heard then
    return { kind = "ended", how = "given up", error = present(self.run.error) }
  elseif not present(self.run.ended_at) then
    return { kind = "ended", how = "under way" }
  end
  diverged(self, "a run that ended as " .. self.run.state, "it goes on")
end

local function tell_undos(self)
  for _, undo in ipairs(self.recording.undos or {}) do
    if not self.stopped then
      self:tell { kind = "undone", n = undo.n, label = undo.label, ok = undo.ok, error = present(undo.error),
        ms = self:offset(undo.time) }
    end
  end
end

local function drive(self)
  self:take()
  while not self.last and not self.stopped and self.answers[self.next] do
    local e = self.answers[self.next]
    self.next = self.next + 1
    self:answer(e)
    if not self.stopped then self:take() end
  end
end

-- The answers that the recipe had, in their order.
local function answers_of(recording)
  local list = {}
  for _, e in ipairs(recording.run.effects) do
    local order = present(e.answered)
    if order and order <= (recording.heard or math.huge) then list[#list + 1] = e end
  end
  table.sort(list, function(a, b) return a.answered < b.answered end)
  return list
end

local function start(self)
  local recording = self.recording
  self.worker = engine.start(recording.files["recipe.lua"], {}, { type = "start", run = self.run.id,
    files = recording.files, entry = "recipe.lua", params = present(self.run.params) or {}, seed = recording.seed,
    mode = "run", state = recording.state })
end

local function load_recipe(self)
  local header = receive(self)
  if header.type == "header" then return end
  local message = "the recipe of the run doesn't load: " .. header.error.message
  error(fail.new(header.error.code, message, header.error.hint), 0)
end

function replay.run(recording, tell)
  local run = recording.run
  local self = setmetatable({ recording = recording, run = run, on_step = tell, now = 0, next = 1, asked = {},
    effects = {}, answers = answers_of(recording), began = text.parse_time(run.started_at) or 0 }, Replay)
  recording.heard, run.ended_at = present(recording.heard), present(run.ended_at)
  for _, e in ipairs(run.effects) do self.effects[e.n] = e end
  local last
  if recording.heard == 0 and #run.effects == 0 then
    last = { kind = "ended", how = "never began", error = present(run.error) }
  else
    start(self)
    local _ <close> = setmetatable({}, { __close = function() self.worker:kill() end })
    load_recipe(self)
    drive(self)
    if self.stopped then return nil end
    last = ended(self)
  end
  last.ms = self:offset(run.ended_at)
  if last.how ~= "done" and last.how ~= "continue_as" then tell_undos(self) end
  if self.stopped then return nil end
  self:tell(last)
  return last
end

return replay
