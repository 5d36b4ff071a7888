-- Schedules: fires the cron processes of live releases.
--
-- A firing is a job keyed "cron/app/process/due time", so that it happens once, whatever restarts.
-- Fired while the daemon was away: what is at most a minute late is made up for; of what is later,
-- one, the first, where the process says `missed = "run"`. While the firing before still runs, one
-- is skipped, and listed as such, unless the process says `overlap = "allow"`. A stopped app's
-- schedules rest.

local clock = require "clock"
local cron = require "cron"
local log = require "log"
local task = require "task"
local Process = require "nd.service.process"
local release_config = require "nd.service.release_config"

local LATE_MS = 60 * 1000      -- that a firing may be and still happens
local LOOK_MS = 30 * 1000      -- between two looks at the clock, which somebody may have set

local Schedule = {}
Schedule.__index = Schedule

-- apps[id] = { name = {due = ms, process = settings} } of each app with cron processes.
function Schedule.new(d) return setmetatable({ d = d, apps = {}, changed = task.signal() }, Schedule) end

local function key_of(app, process, due) return ("cron/%d/%s/%d"):format(app.id, process, due) end

-- From when on firings of a process are looked for: after the last one, or the release's begin. One that came
-- late stands for all up to when it came.
local function since(self, app, release, process)
  local last = self.d.store:get([[SELECT max(iif(created_at > due_at + ?, created_at, due_at)) AS at FROM job
    WHERE app = ? AND process = ? AND trigger = 'cron']], LATE_MS, app.id, process.name)
  return math.max(last.at or 0, release.live_at or 0)
end

-- The time of the next firing; of what was missed, at most the one to be made up for.
local function next_due(self, app, release, process, now)
  local due = cron.next(process.schedule, since(self, app, release, process), process.zone)
  if not due or due >= now - LATE_MS or process.missed == "run" then return due end
  return cron.next(process.schedule, now - LATE_MS, process.zone)
end

-- The app's schedules are those of its live release.
local function look(self, app)
  app = self.d.apps:by_id(app.id) or app
  local release = app.live and app.stopped == 0 and self.d.releases:by_id(app.live)
  local entries
  for _, process in ipairs(release and Process.list(release_config.of(release), { cron = true }) or {}) do
    entries = entries or {}
    local ok, due = pcall(next_due, self, app, release, process, clock.now())
    if ok and due then
      entries[process.name] = { due = due, process = process, release = release.id }
    elseif not ok then
      log.error(("%s: the schedule of %s: %s"):format(app.name, process.name, tostring(due)))
    end
  end
  self.apps[app.id] = entries
  self.changed:notify()
end

-- What is live of the app has changed, or is about to be recorded as changed; `config`: its
-- configuration, where that is known.
function Schedule:look(app, config)
  if config and not self.apps[app.id] and #Process.list(config, { cron = true }) == 0 then return end
  task.spawn("schedules of " .. app.name, function()
    self.d.store:commit {}
    look(self, app)
  end)
end

local function running(self, app, process)
  return self.d.store:get([[SELECT id FROM job WHERE app = ? AND process = ? AND trigger = 'cron'
    AND ended_at IS NULL]], app.id, process.name)
end

local function fire(self, app, entry)
  local d, process = self.d, entry.process
  local release = d.releases:by_id(entry.release)
  local key = key_of(app, process.name, entry.due)
  local other = process.overlap ~= "allow" and running(self, app, process)
  if other then
    return d.jobs:skip(app, release, process, key, entry.due,
      { code = "overlap", message = ("job %d, the firing before, still ran"):format(other.id),
        hint = 'overlap = "allow" lets them run side by side' })
  end
  if d.audit then d.audit:record { operation = "schedule.fire", app = app, object = process.name } end
  d.jobs:launch(app, release, process, { key = key, trigger = "cron", due_at = entry.due,
    suffix = tostring(entry.due // 1000), owner = "schedule" })
end

-- Fires what is due; returns when the next one is.
function Schedule:turn()
  local now, first = clock.now(), math.huge
  for id, entries in pairs(self.apps) do
    local app = self.d.apps:by_id(id)
    local rests = not app or app.stopped == 1
    for _, entry in pairs(rests and {} or entries) do
      if entry.due <= now then
        local late = now - entry.due > LATE_MS and entry.process.missed ~= "run"
        local ok, e = true, nil
        if not late then ok, e = pcall(fire, self, app, entry) end
        if not ok and e.code == "cancelled" then error(e, 0) end
        if not ok then log.error(("%s: can't fire %s: %s"):format(app.name, entry.process.name, tostring(e))) end
        entry.due = cron.next(entry.process.schedule, math.max(entry.due, now), entry.process.zone) or math.huge
      end
      first = math.min(first, entry.due)
    end
    if rests then self.apps[id] = nil end
  end
  return first
end

-- When a process is due next; nil while it isn't live.
function Schedule:next(app, name)
  local entry = self.apps[app.id] and self.apps[app.id][name]
  return entry and entry.due < math.huge and entry.due or nil
end

-- At start: the schedules of all that is live.
function Schedule:start()
  for _, app in ipairs(self.d.store:all([[SELECT app.* FROM app JOIN release ON release.id = app.live
    WHERE app.stopped = 0 AND release.config LIKE '%"schedule"%']])) do
    local ok, e = pcall(look, self, app)
    if not ok then log.error(("the schedules of %s are not known: %s"):format(app.name, tostring(e))) end
  end
  task.spawn("schedules", function()
    while not self.d.stopping do
      local ok, due = pcall(self.turn, self)
      if not ok and due.code == "cancelled" then return end
      if not ok then log.error("schedules: " .. tostring(due)) end
      local wait = ok and due - clock.now() or LOOK_MS
      if wait == math.huge then
        self.changed:wait()
      else
        self.changed:wait(math.max(1, math.min(wait, LOOK_MS)) // 1)
      end
    end
  end)
end

return Schedule
