-- lib/live.lua - a run as it happens: one line a step.
--
-- Fed with the events of /ws/events (`frame`) or with a run as GET /runs/ID gives it (`sync`); both
-- may tell the same thing twice. On a terminal the steps in progress are redrawn in place with
-- their elapsed time, and a finished one scrolls up; off it a line is written when a step ends, and
-- every ten seconds while one lasts. Knows nothing of connections; the clock, the width and the
-- output are given to it, so that tests can look.

local text = require "ndctl.lib.text"

local live = {}

local Live = {}
Live.__index = Live

local STILL_EVERY = 10000 -- ms, between the lines of a step that lasts, off a terminal
local LABEL_LEAST = 12    -- columns; a narrower terminal gets lines as if it were wider

-- options: tty (boolean), write(s), now() -> ms, width() -> columns, rows; utf8, paint(s, colour).
function live.new(options)
  local self = setmetatable({}, Live)
  self.options = options
  self.steps = {}    -- by n: {n, label, started, ended, ok, detail}
  self.active = {}   -- steps in the order they began
  self.pending = {}  -- finished lines, not yet written
  self.drawn = 0     -- lines of the redrawn part now on the screen
  self.spin = 0
  self.paint = options.paint or function(s) return s end
  self.marks = options.utf8
    and { ok = "✓", failed = "✗", undo = "↩", cancelled = "–",
          spin = { "⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏" } }
    or { ok = "+", failed = "x", undo = "<", cancelled = "-", spin = { "|", "/", "-", "\\" } }
  return self
end

local words = { ok = "ok", failed = "failed", undo = "undone", cancelled = "cut", wait = "..." }
local colours = { ok = "green", failed = "red", undo = "yellow", cancelled = "dim" }

-- Effects that only keep the books.
local hidden = { ["time.now"] = true, uuid = true, ["undo.set"] = true }

function Live:line(kind, ms, label)
  local opts = self.options
  local time = ms and text.duration(ms) or ""
  label = text.clean(label)
  if not opts.tty then
    return ("%-6s %6s  %s"):format(words[kind], time, label)
  end
  local columns = opts.width()
  local head
  if kind == "wait" then
    head = self.marks.spin[self.spin % #self.marks.spin + 1]
  else
    head = self.paint(self.marks[kind], colours[kind])
  end
  local room = math.max((columns or 80) - 12, LABEL_LEAST)
  return ("  %s %6s  %s"):format(head, time, text.fit(label, room, not opts.utf8))
end

function Live:finished(line)
  self.pending[#self.pending + 1] = line
end

local function described(step)
  local label = step.label
  if step.detail and step.detail ~= "" then label = label .. "  " .. step.detail end
  return label
end

-- Writes what has finished and, on a terminal, redraws the steps in progress.
function Live:draw(closing)
  local parts = {}
  if self.drawn > 0 then parts[1] = ("\r\27[%dA\27[J"):format(self.drawn) end
  for _, line in ipairs(self.pending) do parts[#parts + 1] = line .. "\n" end
  self.pending, self.drawn = {}, 0
  if self.options.tty and not closing then
    local now = self.options.now()
    local _, rows = self.options.width()
    local room = math.max((rows or 24) - 2, 1)
    for i, step in ipairs(self.active) do
      if i > room then break end
      parts[#parts + 1] = self:line("wait", now - step.started, described(step)) .. "\n"
      self.drawn = self.drawn + 1
    end
    if self.state then
      parts[#parts + 1] = self:line("wait", now - self.state_since, self.state) .. "\n"
      self.drawn = self.drawn + 1
    end
  end
  if #parts > 0 then self.options.write(table.concat(parts)) end
end

function Live:tick()
  local now = self.options.now()
  self.spin = self.spin + 1
  if not self.options.tty then
    for _, step in ipairs(self.active) do
      if now - step.said >= STILL_EVERY then
        step.said = now
        self:finished(self:line("wait", now - step.started, described(step)))
      end
    end
  end
  self:draw()
end

-- What is amiss with the connection; nil when all is well again.
function Live:set_state(state)
  if state == self.state then return end
  self.state, self.state_since = state, self.options.now()
  if state and not self.options.tty then
    self:finished(("%-6s %6s  %s"):format("...", "", state))
  end
  self:draw()
end

function Live:begin(n, name, label, ago)
  if self.steps[n] then return self.steps[n] end
  local now = self.options.now()
  local step = { n = n, name = name, label = label or name or "step " .. n,
    started = now - (ago or 0), said = now }
  self.steps[n] = step
  if label ~= "" and not hidden[name] then self.active[#self.active + 1] = step end
  return step
end

local function remove(list, item)
  for i, other in ipairs(list) do
    if other == item then return table.remove(list, i) end
  end
end

function Live:finish(n, ok, ms, err)
  local step = self.steps[n]
  if not step or step.ended then return end
  step.ended, step.ok = self.options.now(), ok
  if not remove(self.active, step) then return end
  local kind, label = "ok", step.label
  if not ok then
    local message = type(err) == "table" and err.message or err
    local cancelled = type(err) == "table" and err.code == "cancelled" or message == "cancelled"
    kind = cancelled and "cancelled" or "failed"
    if message and not cancelled then label = ("%s: %s"):format(label, message) end
  end
  self:finished(self:line(kind, ms or step.ended - step.started, label))
end

local function progress_text(data)
  local parts = {}
  if data.text and data.text ~= "" then parts[1] = data.text end
  if data.total and data.total > 0 and data.done then
    parts[#parts + 1] = ("%d%%"):format(math.min(100, data.done * 100 // data.total))
  end
  return table.concat(parts, "  ")
end

local handlers = {}

handlers["run.queued"] = function(self) self:set_state("it waits for its turn") end
handlers["run.started"] = function(self) self:set_state(nil) end

handlers["effect.asked"] = function(self, data)
  self:begin(data.n, data.name, data.label)
end

handlers["effect.progress"] = function(self, data)
  local step = self.steps[data.n]
  if step and not step.ended then step.detail = progress_text(data) end
end

handlers["effect.answered"] = function(self, data)
  self:begin(data.n, data.name, data.label)
  if data.label then self.steps[data.n].label = data.label end
  self:finish(data.n, data.ok, data.ms, data.code and { code = data.code, message = data.error } or data.error)
end

handlers["run.log"] = function(self, data)
  self:finished((self.options.tty and "           " or "log            ")
    .. text.clean(data.text or ""))
end

-- What a command of the run prints.
handlers["run.output"] = function(self, data)
  self:finished((self.options.tty and "           | " or "output         ")
    .. text.clean(data.text or ""))
end

handlers["run.undo"] = function(self, data)
  self:finished(self:line(data.ok == false and "failed" or "undo", nil,
    data.ok == false and ("undo: %s"):format(data.label) or data.label or "undo"))
end

-- An event of the run. Returns true if it is the run's end.
function Live:frame(frame)
  local handler = handlers[frame.kind]
  if handler then handler(self, frame.data or {}) end
  return frame.kind == "run.ended"
end

local function span(from, to)
  local a, b = text.parse_time(from), text.parse_time(to)
  return a and b and math.max(b - a, 0) or nil
end

-- Catches up with a run as GET /runs/ID gives it. `now` is wall time in ms.
function Live:sync(run, now)
  for _, effect in ipairs(run.effects or {}) do
    local asked = text.parse_time(effect.asked_at)
    self:begin(effect.n, effect.name, effect.label, asked and math.max(now - asked, 0))
    if effect.state ~= "asked" and effect.state ~= "acting" then
      self:finish(effect.n, effect.ok ~= false and not effect.error,
        span(effect.asked_at, effect.answered_at), effect.error)
    end
  end
  self:draw()
end

-- Takes the steps in progress off the screen; what has finished stays.
function Live:stop()
  self.state = nil
  self:draw(true)
end

return live
