-- lib/trial.lua - one run of a recipe in a world that isn't there (lib/world.lua), with what may go
-- wrong: effects that fail or time out, a daemon that dies before or after one.
--
-- The recipe runs in a real worker. What it asks for is answered here as the daemon does it: journaled,
-- acted on, undone newest first when the run fails before its pivot, finished when it fails later. A
-- crash ends the worker; a new one gets the journal's answers, and what was asked and not answered is
-- acted on again.
--
--   trial.run{ files =, params =, seed =, faults = {[n] = "error" | "timeout" | "crash before" |
--              "crash after"}, chance = one effect in so many goes wrong by the seed, live =, well = as
--              the world takes them, rules = {always = fn(world) -> why|nil, ending = fn(world, state)} }
--     -> { state = "done" | "failed", broken = why | nil, effects = number, faults = {{n, name, fault}},
--          story = lines, error = of the run }
-- The same arguments give the same result.

local budget = require "nd.budget"
local effects = require "nd.effect"
local capability = require "nd.effect.capability"
local engine = require "nd.engine"
local err = require "nd.error"
local json = require "json"
local worlds = require "ndctl.lib.world"

local trial = {}

local STEPS = 2000      -- answers to one run; a loop that waits for the world ends with them
local SUCCESSORS = 20   -- by continue_as
local LATER = 3600 * 1000

trial.kinds = { "error", "timeout", "crash before", "crash after" }

-- A small generator of its own, so that nothing else moves it. -> random(n) -> 1..n
local function generator(seed)
  local state = seed * 2654435761 + 88172645463325252
  return function(n)
    state = state ~ state << 13
    state = state ~ state >> 7
    state = state ~ state << 17
    return (state >> 1) % n + 1
  end
end

local Trial = {}
Trial.__index = Trial

-- ---- the worker ----

local function receive(self)
  local ok, frame = pcall(self.worker.recv, self.worker, budget.wall_ms)
  if ok and frame then return frame end
  if not ok and frame.code ~= "timeout" then error(frame, 0) end
  error(ok and budget.ended(self.worker:wait()) or budget.over("wall", budget.wall_ms), 0)
end

local function answer_frame(e)
  return { type = "answer", n = e.n, ok = e.ok, value = e.ok and e.value or nil, error = not e.ok and e.value or nil }
end

-- Takes in what the worker says: new effects are journaled, known ones have to be the same.
function Trial:take()
  local frame = receive(self)
  if frame.type ~= "parked" then
    self.ending = frame
    return
  end
  for _, asked in ipairs(frame.effects) do
    local known = self.journal[asked.n]
    if not known then
      local e = { n = asked.n, name = asked.name, args = asked.args or json.array {}, at = asked.at,
        task = asked.task or "1", pivot = asked.pivot and 1 or 0, key = self.run .. "/" .. asked.n }
      self.journal[e.n] = e
      self:begin(e)
    elseif known.name ~= asked.name or json.encode(known.args) ~= json.encode(asked.args) then
      err.raise("diverged", ("after a crash the recipe asked for %s as effect %d, where it had asked for %s")
        :format(asked.name, asked.n, known.name))
    end
  end
end

function Trial:begin(e)
  local def = effects.find(e.name)
  local ok, bad = pcall(effects.check, def, e, self)
  e.label = def and effects.label(def, e, function() return { spec = {} } end) or e.name
  e.bad = not ok and err.from(bad) or nil
  e.due = self.world.now + (ok and self.world:lasts(e) or 0)
end

-- Starts a worker, and hands it all answers there are.
function Trial:attach(state)
  self.worker = engine.start(self.files["recipe.lua"], {}, { type = "start", run = "test", files = self.files,
    entry = "recipe.lua", params = self.params, seed = self.seed, mode = "run", state = state })
  self.state = state
  for _, e in ipairs(self.answered) do self.worker:send(answer_frame(e)) end
  local header = receive(self)
  if header.type ~= "header" then
    self.ending = header
    return
  end
  self.needs = capability.read(header.recipe.needs)
  self.world.gap = type(header.recipe.gap) == "string"
  for _ = 0, #self.answered do
    if not self.ending then self:take() end
  end
end

function Trial:crash(when)
  self.world:tell("the daemon dies %s", when)
  self.worker:kill()
  self:attach(self.state)
end

-- ---- effects ----

-- A task.cancel has first everything answered that its tasks had in flight.
function Trial:cancelled(e)
  for n = e.n + 1, #self.journal do
    local other = self.journal[n]
    if other.name == "task.cancel" and not other.order and not e.name:find "^task%."
      and effects.below(e.task, other.args[1].tasks) then return true end
  end
  return false
end

-- What is answered next: what is cancelled, else what ends first.
function Trial:next()
  local first
  for n = 1, #self.journal do
    local e = self.journal[n]
    if not e.order then
      if self:cancelled(e) then return e, true end
      if not first or e.due < first.due then first = e end
    end
  end
  return first
end

function Trial:record(e, ok, value)
  self.answered[#self.answered + 1] = e
  e.order, e.ok, e.value = #self.answered, ok, value
  local def = effects.find(e.name)
  if ok and e.pivot == 1 then self.pivot = e end
  e.undo = ok and def and def.undo and e.pivot == 0 and def.undo(e.args, value) or nil
  if e.label ~= "" then
    self.world:tell("%s: %s", e.label, ok and "done" or "failed: " .. tostring(value.message))
  end
  self.worker:send(answer_frame(e))
  self:take()
end

-- Undoes the newest first, of these tasks or of all; nothing that the pivot stands on.
function Trial:undo(roots)
  for i = #self.answered, self.pivot and self.pivot.order or 1, -1 do
    local e = self.answered[i]
    if e.undo and (not roots or effects.below(e.task, roots)) then
      local undo = e.undo
      e.undo = nil
      self.world:tell("undo: %s", undo.label)
      self.world:undo(undo)
      if self.random(4) == 1 then -- the daemon died before it was journaled
        self.world:tell("the same again, after a crash")
        self.world:undo(undo)
      end
      self:look()
    end
  end
end

local specials = {
  ["task.cancel"] = function() end,
  ["task.rollback"] = function(self, e) self:undo(e.args[1].tasks) end,
  ["undo.set"] = function(self, e)
    for _, other in ipairs(self.answered) do
      if other.undo and other.undo.label == e.args[1] then other.undo = nil end
    end
    return true
  end,
}

function Trial:act(e)
  if e.bad then error(e.bad, 0) end
  if specials[e.name] then return specials[e.name](self, e) end
  return self.world:act(e)
end

function Trial:fault_of(e)
  if e.faulted then return nil end
  e.faulted = true
  local fault = self.faults[e.n] or self.chance and self.random(self.chance) == 1 and trial.kinds[self.random(4)]
  if fault then self.hit[#self.hit + 1] = { n = e.n, name = e.name, fault = fault } end
  return fault
end

function Trial:step()
  local e, cancelled = self:next()
  if cancelled then
    self.world:clean(e)
    return self:record(e, false, err.new("cancelled", "cancelled"))
  end
  self.world:pass(e.due)
  self:look()
  local fault = self:fault_of(e)
  if fault == "crash before" then return self:crash("before it can " .. e.label) end
  local ok, value = pcall(self.act, self, e)
  self:look()
  if fault == "crash after" then return self:crash("after it did " .. e.label) end
  if fault == "error" or fault == "timeout" then
    ok, value = false, err.new(fault == "error" and "simulated" or "timeout", fault == "error" and "it is refused"
      or "it took too long")
  end
  if not ok then
    value = err.from(value)
    self.world:clean(e)
    self:look()
  end
  if value == json.null then value = nil end
  self:record(e, ok, value)
end

-- ---- the whole ----

-- What has to hold at every moment; the first break is told.
function Trial:look()
  if self.broken then return end
  self.broken = self.world:broken() or self.rules.always and self.rules.always(self.world)
  if self.broken then self.world:tell("BROKEN: %s", self.broken) end
end

function Trial:interrupt()
  for n = 1, #self.journal do
    local e = self.journal[n]
    if not e.order then
      self.world:clean(e)
      e.order = 0
    end
  end
end

function Trial:finish()
  local ending = self.ending
  self:interrupt()
  if ending.type == "failed" and not self.pivot then
    self.world:tell("the run fails: %s; it goes back", tostring(ending.error.message))
    self:undo()
  end
  self.world:tidy()
  self:look()
  self.world:pass(self.world.now + LATER)
  self.world.gap = false
  self:look()
  local back = ending.type == "failed" and not self.pivot
  self.broken = self.broken or self.world:left(back)
    or self.rules.ending and self.rules.ending(self.world, back and "went back" or ending.type)
end

function Trial:drive(state)
  self.journal, self.answered, self.ending, self.pivot = {}, {}, nil, nil
  self:attach(state)
  while not self.ending do
    self.steps = self.steps + 1
    if self.steps > STEPS then
      err.raise("endless", ("the run had not ended after %d effects"):format(STEPS),
        "a recipe that waits for ever asks with task.timeout around it")
    end
    self:step()
  end
  self.worker:kill()
  self.count = self.count + #self.journal
end

function trial.run(o)
  local random = generator(o.seed)
  local self = setmetatable({ files = o.files, params = o.params, seed = o.seed, faults = o.faults or {},
    chance = o.chance, rules = o.rules or {}, random = random, hit = {}, steps = 0, count = 0, run = "1",
    app = { name = "shop" }, world = worlds.new { random = random, live = o.live, well = o.well } }, Trial)
  local ok, e = pcall(function()
    self:drive(nil)
    for i = 2, SUCCESSORS do
      if self.ending.type ~= "continue_as" then break end
      self.run = tostring(i)
      self.pivot_asked = nil
      self:interrupt()
      self:drive(self.ending.state)
    end
    self:finish()
  end)
  if self.worker then self.worker:kill() end
  if not ok then
    e = err.from(e)
    if e.code == "cancelled" then error(e, 0) end
    self.broken = self.broken or e.message
  end
  return { state = self.ending and self.ending.type == "failed" and "failed" or "done", broken = self.broken,
    effects = self.count, faults = self.hit, story = self.world.story,
    error = self.ending and self.ending.error or nil }
end

return trial
