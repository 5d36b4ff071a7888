-- Looks after what is live: probing goes on after the switch.
--
-- When the live release dies or turns unhealthy while its predecessor still drains or is kept, and
-- the app says `go_back = true`, the daemon starts the `rollback` recipe for it, once. Without that
-- it says so in an event and leaves the decision to a person.

local clock = require "clock"
local log = require "log"
local task = require "task"
local release_config = require "nd.service.release_config"

local EAGER_MS = 500     -- between probes while there is a predecessor to go back to
local USUAL_MS = 10000
local PROBE_MS = 2000    -- that a probe may take at most

local Guard = {}
Guard.__index = Guard

function Guard.new(d) return setmetatable({ d = d, watched = {} }, Guard) end

function Guard:watch(app, release)
  self:leave(app)
  local w = { release = release.id, wake = task.signal(), failures = 0 }
  self.watched[app.id] = w
  w.task = task.spawn("guard " .. app.name, function()
    self.d.instances:set_restart(release, "unless-stopped")
    while self.watched[app.id] == w do
      local ok, e = pcall(self.look, self, app, w)
      if not ok then
        if e.code == "cancelled" then return end
        log.warn(("guard of %s: %s"):format(app.name, tostring(e)))
      end
      w.wake:wait(self:predecessor(app) and EAGER_MS or USUAL_MS)
    end
  end)
end

function Guard:leave(app)
  local w = self.watched[app.id]
  self.watched[app.id] = nil
  if w then w.task:cancel() end
end

-- An instance of the app died or started: look now.
function Guard:nudge(app, died)
  local w = self.watched[app.id]
  if not w then return end
  w.died = w.died or died
  w.wake:notify()
end

function Guard:predecessor(app)
  local before = self.d.releases:previous(app)
  return before and (before.state == "draining" or before.state == "kept") and before or nil
end

function Guard:look(app, w)
  local release = self.d.releases:by_id(w.release)
  if release.damaged then return end -- nobody knows how to probe it
  local ok, why, failures = self.d.health:check(release, nil, PROBE_MS)
  if ok and not w.died then
    w.failures = 0
    return
  end
  w.failures = w.failures + 1
  if not w.died and w.failures < failures then return end
  why = why or "an instance died"
  w.died = nil
  self:failed(app, release, w, why)
end

function Guard:failed(app, release, w, why)
  local d = self.d
  if not w.reported then
    w.reported = true
    d.store:post { d.store:event("release.unhealthy", app.id, nil,
      { number = release.number, reason = why }) }
  end
  local before = self:predecessor(app)
  if not before or before.damaged or w.went_back or not release_config.of(release).go_back then return end
  local ok, e = pcall(d.runs.start, d.runs, {
    app = app, recipe = "rollback", owner = "guard", at = clock.now(),
    params = { app = app.name, to = before.number },
  })
  if not ok and e.code == "run_conflict" then return end -- when that has ended, if it still fails
  w.went_back = true
  if not ok then return log.error(("%s: can't go back: %s"):format(app.name, tostring(e))) end
  log.warn(("%s: release %d failed (%s), going back to release %d"):format(app.name,
    release.number, why, before.number))
  d.store:post { { "UPDATE release SET was_healthy = 0 WHERE id = ?", release.id } }
end

-- At start: every app with a live release that nobody has stopped, in whole or in part.
function Guard:resume()
  for _, app in ipairs(self.d.store:all [[SELECT app.* FROM app JOIN release ON release.id = app.live
    WHERE stopped = 0 AND release.state = 'live'
    AND NOT EXISTS (SELECT 1 FROM shift WHERE shift.app = app.id AND instances IS NOT NULL)]]) do
    self:watch(app, self.d.releases:by_id(app.live))
  end
end

return Guard
