-- What happens to a release after it was retired: drained, stopped, kept, removed.
--
-- A retired release gets no new connections. Its established ones may end by themselves until
-- `drain_until`; what is left then is counted, and SIGTERM asks the app to close it, SIGKILL ends
-- it after the grace. The stopped containers are kept for `keep_ms`, then removed. All of it is
-- rows with times, so it goes on after a restart of the daemon. Workers, which have no connections,
-- get their SIGTERM when it begins.

local clock = require "clock"
local fault = require "fault"
local json = require "json"
local log = require "log"
local task = require "task"
local Process = require "nd.service.process"
local release_config = require "nd.service.release_config"

local POLL_MS = 250
local AT_ONCE = 2    -- releases of one app that may drain together; the oldest is cut
local RETRY_MS = 5000

local Drain = {}
Drain.__index = Drain

function Drain.new(d) return setmetatable({ d = d, active = {} }, Drain) end

-- Takes over a release in state draining or kept.
function Drain:take(app, release)
  self:leave(release)
  self.active[release.id] = task.spawn("drain " .. release.id, function()
    while true do
      local ok, e = pcall(self.drive, self, app, release.id)
      if ok then break end
      if e.code == "cancelled" then return end
      if e.code == "release_damaged" then return log.error(("%s: %s"):format(app.name, e.message)) end
      log.warn(("release %d of %s: %s"):format(release.number, app.name, tostring(e)))
      task.sleep(RETRY_MS)
    end
    self.active[release.id] = nil
  end)
  self:cut_oldest(app)
end

-- Gives a release up: somebody else decides about it now, once what was being done is over.
function Drain:leave(release)
  local driver = self.active[release.id]
  if not driver or driver:name() == task.current() then return end
  self.active[release.id] = nil
  driver:cancel()
  driver:wait()
end

function Drain:cut_oldest(app)
  local draining = self.d.store:all(
    "SELECT * FROM release WHERE app = ? AND state = 'draining' ORDER BY live_at", app.id)
  for i = 1, #draining - AT_ONCE do
    release_config.check(draining[i])
    self.d.store:commit { { "UPDATE release SET drain_until = ? WHERE id = ?", clock.now(), draining[i].id } }
  end
end

-- Established connections of a release's instances (all, or those of `rows`): count and peers.
function Drain:connections(release, rows)
  local config = release_config.of(release)
  local count, peers = 0, json.array {}
  for _, row in ipairs(rows or self.d.releases:instances(release)) do
    local process = Process.of(config, row.process)
    local found = process.port and self.d.docker:inspect(row.name)
    if found and found.State.Running then
      local open = self.d.network:drain(found.State.Pid, process.port)
      count = count + open.count
      for _, peer in ipairs(open.peers) do peers[#peers + 1] = peer end
    end
  end
  return count, peers
end

-- Waits until nothing is connected (seen twice, since one may just be arriving) or it is `until_ms`.
function Drain:wait_idle(release, until_ms, rows)
  local quiet, count, peers = 0, 0, nil
  while quiet < 2 do
    count, peers = self:connections(release, rows)
    quiet = count == 0 and quiet + 1 or 0
    local row = self.d.releases:by_id(release.id)
    local limit = math.min(until_ms, row and row.drain_until or until_ms)
    if clock.now() >= limit then break end
    if quiet < 2 then task.sleep(math.min(POLL_MS, math.max(1, limit - clock.now()))) end
  end
  return count, peers
end

-- Processes that nobody connects to have nothing to drain: they are asked to end at once.
function Drain:stop_deaf(release)
  local config, rows = release_config.of(release), {}
  for _, row in ipairs(self.d.releases:instances(release)) do
    if not Process.of(config, row.process).port then rows[#rows + 1] = row end
  end
  if #rows > 0 then self.d.instances:stop(release, rows) end
end

local function retired(release)
  return release and (release.state == "draining" or release.state == "kept")
end

function Drain:drive(app, id)
  local releases = self.d.releases
  local release = releases:by_id(id)
  if not retired(release) then return end
  release_config.check(release)
  self.d.instances:set_restart(release, "no")
  if release.state == "draining" then
    self:stop_deaf(release)
    local cut, peers = self:wait_idle(release, release.drain_until)
    fault.hit "release.drained"
    if cut > 0 then self.d.metrics.cuts:add(cut, app.project, app.environment, app.name) end
    if not retired(releases:by_id(id)) then return end
    self.d.instances:stop(release)
    fault.hit "release.stopped"
    if release.keep_ms == 0 then return releases:remove(app, release, 0) end
    self.d.store:commit {
      { "UPDATE release SET state = 'kept', keep_until = ?, drained = ? WHERE id = ?",
        clock.now() + release.keep_ms, json.encode { cut = cut, peers = peers }, id },
      self.d.store:event("release.changed", app.id, nil,
        { number = release.number, state = "kept", cut = cut }),
    }
    fault.hit "release.kept"
    release = releases:by_id(id)
  end
  if release.state == "kept" and release.keep_until then
    task.sleep(math.max(0, release.keep_until - clock.now()))
    if retired(releases:by_id(id)) then releases:remove(app, release, 0) end
  end
end

-- At start: goes on with all that drain or are kept.
function Drain:resume()
  for _, release in ipairs(self.d.store:all(
    [[SELECT * FROM release WHERE state <> 'gone' AND state IN ('draining', 'kept')
      AND (state = 'kept' OR drain_until IS NOT NULL)]])) do
    local problem = release_config.problem(release)
    if problem then
      log.error(problem.message)
    else
      self:take(self.d.apps:by_id(release.app), release)
    end
  end
end

return Drain
