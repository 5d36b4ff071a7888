-- lib/follow.lua - waits for a run to end, showing it, through restarts of the daemon.
--
-- Listens on /ws/events, from the run's first event; where the connection breaks it is opened again
-- after the last event seen. While the WebSocket can't be had, the run is polled. A daemon that
-- stays away for a minute is `lost`. Ctrl-C leaves the run alone and says so.

local clientlib = require "ndctl.lib.client"
local clock = require "clock"
local fail = require "ndctl.lib.fail"
local livelib = require "ndctl.lib.live"
local out = require "ndctl.lib.out"
local task = require "task"
local term = require "term"

local follow = {}

local AWAY_MOST = 60000   -- ms without a sign of the daemon
local POLL_EVERY = 500    -- ms between polls while there is no WebSocket
local QUIET_MOST = 5000   -- ms without an event before the run is read, in case its end was missed
local DRAW_EVERY = 100    -- ms, on a terminal
local CALL_TIMEOUT = 5000 -- ms for one look at the run

local ended = { done = true, failed = true, cancelled = true }

function follow.ended(run)
  return ended[run.state] or false
end

-- The display for this terminal; one that shows nothing under --quiet.
function follow.display()
  local tty = term.isatty(2) and os.getenv("TERM") ~= "dumb"
  return livelib.new {
    tty = tty and not out.quiet, utf8 = out.utf8, paint = out.painter(2),
    now = clock.monotonic,
    width = function() return term.size(2) end,
    write = function(s) if not out.quiet then out.raw_note(s) end end,
  }
end

local Watch = {}
Watch.__index = Watch

-- Reads the run and catches up; returns it if it has ended. Raises what isn't the connection's.
function Watch:look()
  local ok, run = pcall(self.client.call, self.client, "GET", "/runs/" .. self.id,
    { timeout_ms = CALL_TIMEOUT })
  if not ok then
    local code = type(run) == "table" and run.code
    if code == "unreachable" or code == "lost" or (run.http and run.http >= 500) then
      return nil, false
    end
    error(run, 0)
  end
  self.heard = clock.monotonic()
  self.live:sync(run, clock.now())
  return follow.ended(run) and run or nil, true
end

function Watch:reopen()
  local query = { run = self.id, since = self.seq, follow = "true" }
  local ok, ws = pcall(self.client.websocket, self.client, "/ws/events", query)
  if ok then
    self.ws = ws
  elseif type(ws) == "table" and ws.code == "cancelled" then
    error(ws, 0)
  end
  return ok
end

-- Without a WebSocket: polls, and tries to have one again. Returns the run if it ended.
function Watch:away()
  if clock.monotonic() - self.heard > AWAY_MOST then
    self.live:stop()
    fail.raise("lost", ("the daemon at %s hasn't answered for a minute; run %s may be going on")
      :format(self.client.host, self.id), "ndctl runs watch " .. self.id)
  end
  local reopened = self:reopen()
  local run, answered = self:look()
  if run then return run end
  if reopened and answered then
    self.live:set_state(nil)
    return nil
  end
  self.live:set_state(answered and "no events from the daemon, asking it instead"
    or "the daemon doesn't answer, trying again")
  task.sleep(POLL_EVERY)
  self.live:tick()
end

-- Takes what came; returns true if the run's end was among it.
function Watch:take(frames)
  local last = false
  for _, frame in ipairs(frames) do
    if frame.seq then self.seq = math.max(self.seq, frame.seq) end
    last = self.live:frame(frame) or last
  end
  return last
end

function Watch:until_ended()
  local run
  self:reopen()
  while not run do
    if self.ws then
      local frames = clientlib.receive(self.ws, self.live.options.tty and DRAW_EVERY or 500)
      if frames == nil then
        self.ws = nil
      else
        local last = self:take(frames)
        if #frames > 0 then self.heard = clock.monotonic() end
        if last or clock.monotonic() - self.heard > QUIET_MOST then run = self:look() end
        self.live:tick()
      end
    else
      run = self:away()
    end
  end
  return run
end

local function say_it_goes_on(id)
  out.note(("Interrupted. The run goes on without this terminal."),
    "  watch it   ndctl runs watch " .. id,
    "  stop it    ndctl runs cancel " .. id)
end

-- Waits until run `id` has ended and returns it as GET /runs/ID gives it.
function follow.run(client, id, live)
  local watch = setmetatable({ client = client, id = id, live = live, seq = 0,
    heard = clock.monotonic() }, Watch)
  local ok, result = pcall(watch.until_ended, watch)
  live:stop()
  if watch.ws then pcall(watch.ws.close, watch.ws) end
  if ok then return result end
  if type(result) == "table" and result.code == "cancelled" and not result.http then
    say_it_goes_on(id)
    result.shown = true
  end
  error(result, 0)
end

return follow
