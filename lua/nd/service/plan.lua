-- What a run would do: the same recipe in a worker of its own, against answers that act on nothing
-- (an effect's `plan`).
--
-- What would have changed in the end is noted by the effects, in ctx:
--   made       releases that were started: rows {number, image, image_id, config}
--   live       the row that would be live, false where none would; nil while that stays as it is
--   outside    what would be done elsewhere, in words
-- changes.lua holds it against what is.
--
-- Time is the plan's own: everything else is answered first, then the sleep that ends first. So a
-- task.timeout runs out only where its work sleeps for longer.

local clock = require "clock"
local json = require "json"
local task = require "task"
local budget = require "nd.budget"
local effects = require "nd.effect"
local err = require "nd.error"
local changes = require "nd.service.changes"
local frames = require "nd.service.frames"
local recipe_worker = require "nd.service.recipe_worker"

local STEPS = 200 -- a loop that waits for the world never ends in a plan

local Plan = {}
Plan.__index = Plan

function Plan:interrupted(e)
  for _, cancel in ipairs(self.in_flight) do
    if cancel.cancels and e.n < cancel.n and not e.name:find "^task%." and effects.below(e.task, cancel.cancels) then
      return true
    end
  end
end

-- Takes the effect to be answered next out of those in flight; true if it is cancelled.
function Plan:next()
  local chosen
  for i, e in ipairs(self.in_flight) do
    if self:interrupted(e) then return table.remove(self.in_flight, i), true end
    local best = self.in_flight[chosen]
    if not best or best.due and (not e.due or e.due < best.due) then chosen = i end
  end
  return table.remove(self.in_flight, chosen)
end

function Plan:drop_undos(gone)
  for i = #self.undos, 1, -1 do
    if gone(self.undos[i]) then table.remove(self.undos, i) end
  end
end

function Plan:note(def, e, value)
  local label = (def.class ~= "read" or def.planned) and effects.label(def, e, function() return self.ctx end)
  if label and label ~= "" then
    self.lines[#self.lines + 1] = label .. (e.pivot == 1 and "  (from here on only forward)" or "")
  end
  self.passed = self.passed or e.pivot == 1
  if e.name == "undo.set" then
    self:drop_undos(function(u) return u.label == e.args[1] end)
  elseif e.name == "task.rollback" then
    self:drop_undos(function(u) return effects.below(u.task, e.args[1].tasks) end)
  end
  local undo = not self.passed and def.undo and value and def.undo(e.args, value)
  if undo then table.insert(self.undos, 1, { label = undo.label, task = e.task }) end
end

function Plan:answer(e)
  local def = effects.find(e.name)
  effects.check(def, e, self.ctx.run)
  local value = def.plan(self.ctx, effects.unpack(e))
  if value == json.null then value = nil end
  if e.due then self.ctx.slept = math.max(self.ctx.slept, e.due) end
  self:note(def, e, value)
  return value
end

local function receive(w)
  local ok, message = pcall(frames.receive, w, budget.wall_ms)
  if ok and message then return message end
  if not ok and message.code == "timeout" then
    error(budget.over("wall", budget.wall_ms), 0)
  end
  if not ok then error(message, 0) end
  error(budget.ended(w:wait()), 0)
end

function Plan:take(asked)
  local e = { n = asked.n, name = asked.name, args = asked.args or json.array {}, at = asked.at,
    pivot = asked.pivot and 1 or 0, task = asked.task or "1" }
  if e.name == "task.cancel" and effects.types.selection(e.args[1]) then e.cancels = e.args[1].tasks end
  if e.name == "time.sleep" then e.due = self.ctx.slept + (tonumber(e.args[1]) or 0) end
  self.in_flight[#self.in_flight + 1] = e
end

function Plan:follow(w)
  for _ = 1, STEPS do
    local message = receive(w)
    if message.type == "failed" then error(task.error(message.error), 0) end
    if message.type ~= "parked" then return end
    for _, asked in ipairs(message.effects) do self:take(asked) end
    local e, cancelled = self:next()
    local ok, value = false, err.new("cancelled", "cancelled")
    if not cancelled then ok, value = pcall(self.answer, self, e) end
    w:send { type = "answer", n = e.n, ok = ok, value = ok and value or nil,
      error = not ok and err.from(value) or nil }
  end
  self.lines[#self.lines + 1] = ("... and so on: a plan ends after %d steps"):format(STEPS)
  self.cut = true
end

-- request: of runs:start. Returns {lines = of what is done, undos = of what is undone on failure,
-- changes =, same = whether there is nothing that would be another afterwards}.
function Plan.make(d, request, row, bundle)
  local self = setmetatable({
    lines = json.array {}, undos = {}, in_flight = {},
    ctx = { d = d, app = request.app, spec = request.spec, key = "plan", asked_at = clock.now(),
      run = { app = request.app, row = row }, progress = function() end, slept = 0, made = {}, outside = {} },
  }, Plan)
  local w, header = recipe_worker.start(d, row, bundle.files)
  self.ctx.run.needs = header.allowed
  local _ <close> = setmetatable({}, { __close = function() w:kill() end })
  self:follow(w)
  local labels = json.array {}
  for i, undo in ipairs(self.undos) do labels[i] = undo.label end
  local list = changes.of(d, request, self.ctx)
  return { lines = self.lines, undos = labels, changes = list, same = #list == 0 and not self.cut }
end

return Plan
