-- Keeps the database true to Docker: by its events, and by looking at everything once a minute.
--
-- The reconciler starts what should run and doesn't, and removes only containers whose run or job this
-- database knows to have ended. What it doesn't know it reports (`ndctl doctor`) and leaves alone:
-- a restored or cloned host must not eat its own production.

local clock = require "clock"
local fs = require "fs"
local json = require "json"
local log = require "log"
local task = require "task"
local container = require "nd.service.container"
local tasks = require "nd.tasks"
local Health = require "nd.service.health"
local Process = require "nd.service.process"
local Shift = require "nd.service.shift"
local instant = require "nd.instant"
local release_config = require "nd.service.release_config"

local EVERY_MS = 60 * 1000
local RETRY_MS = 1000
local REVIVE_MS = 3000
local READY_TRIES = 50   -- probes of a restarted instance before it gets traffic anyway
local HEAL_AT_ONCE = 4   -- apps whose instances are started side by side

local Watch = {}
Watch.__index = Watch

function Watch.new(d)
  return setmetatable({ d = d, unknown = json.array {}, stranger = task.signal(), away_at = clock.now(),
    starting = {}, -- [instance.id] = the task that waits until a restarted one answers
  }, Watch)
end

local function instance_of(self, id)
  return self.d.store:get([[SELECT instance.*, release.app, release.state AS release_state
    FROM instance JOIN release ON release.id = instance.release WHERE container = ? AND gone_at IS NULL]], id)
end

local function has_row(self, id, name)
  return self.d.store:get("SELECT 1 AS one FROM instance WHERE container = ? AND gone_at IS NULL", id)
    or self.d.store:get("SELECT 1 AS one FROM instance WHERE name = ? AND gone_at IS NULL", name)
    or self.d.jobs:owns(name)
end

-- Is the instance one of those that its release has for good? One that a run adds or removes is that run's,
-- and one whose successor has its traffic was stopped.
local function has_place(self, row)
  local release, shift = self.d.releases:by_id(row.release), self.d.shift:of { id = row.app }
  if release_config.problem(release) then return true end -- who starts it says so
  local process = Process.of(release_config.of(release), row.process)
  return process ~= nil and row.position <= process.replicas and not (shift and Shift.replaced(shift, row))
end

-- The row of an instance, if it is still one that should run. A live release that isn't in the state
-- `live` was stopped by a run; when that has ended, it is nobody's any more.
local function should_run(self, id)
  local row = self.d.store:get([[SELECT instance.*, release.app FROM instance
    JOIN release ON release.id = instance.release JOIN app ON app.live = release.id
    WHERE instance.id = ? AND gone_at IS NULL AND app.stopped = 0 AND (release.state = 'live' OR NOT EXISTS
    (SELECT 1 FROM run WHERE run.app = app.id AND run.state IN ('running', 'sleeping', 'rolling_back')))]], id)
  return row and has_place(self, row) and row or nil
end

local function all_that_should_run(self, rows)
  local list = {}
  for _, row in ipairs(rows) do
    if should_run(self, row.id) then list[#list + 1] = row end
  end
  return list
end

-- ---- events ----

local handlers = {}

local function ended(self, row, event)
  local d = self.d
  local code = tonumber(event.Actor.Attributes.exitCode)
  d.store:commit {
    { "UPDATE instance SET state = 'exited', exit_code = ? WHERE id = ? AND state <> 'gone'",
      code or 0, row.id },
    d.store:event("instance.died", row.app, nil, { name = row.name, exit_code = code }),
    { "UPDATE app SET updated_at = ? WHERE id = ?", clock.now(), row.app },
  }
  local ok, e = pcall(d.traffic.retarget, d.traffic, { id = row.app }) -- after a switch that is being made
  if not ok then log.warn(("%s ended and may still get traffic: %s"):format(row.name, tostring(e))) end
  local app = d.apps:by_id(row.app)
  if not app or app.live ~= row.release or app.stopped == 1 or row.state == "stopping" then return end
  d.guard:nudge(app, true)
  self:revive_later(row)
end

-- Docker restarts what crashed, but not what somebody else stopped or killed: that is for us.
function Watch:revive_later(row)
  task.sleep(REVIVE_MS)
  local now = should_run(self, row.id)
  if not now or now.state == "running" then return end
  local found = self.d.docker:inspect(now.name)
  if not found or not (found.State.Running or found.State.Restarting) then self:heal { now } end
end

handlers.die = ended

-- Waits until a restarted instance answers, but not for ever.
local function await_answer(self, release, row)
  local probe = Health.probe_of(release, nil, row.process)
  probe.timeout = 500
  for _ = 1, READY_TRIES do
    if self.d.health:probe(row, probe) then return end
    task.sleep(100)
  end
end

-- A live instance that Docker restarted gets traffic once it answers.
function handlers.start(self, row)
  local d = self.d
  d.store:commit {} -- its death may just have been told
  row = instance_of(self, row.container)
  if not row or row.state ~= "exited" then return end -- a first start: whoever asked for it looks after it
  local app = d.apps:by_id(row.app)
  local release = d.releases:by_id(row.release)
  if app.live == row.release then await_answer(self, release, row) end
  d.store:commit {
    { [[UPDATE instance SET state = 'running', started_at = ?, restarts = restarts + (state = 'exited')
      WHERE id = ? AND state <> 'gone']], clock.now(), row.id },
    d.store:event("instance.started", row.app, nil, { name = row.name }),
  }
  d.traffic:retarget(app)
end

-- A death ends what is done about the start before it.
function Watch:handle(action, row, event)
  local starting = self.starting[row.id]
  if action == "start" and starting then return end
  if starting then starting:cancel() end
  self.starting[row.id] = nil
  local handler
  handler = task.spawn("event " .. action, function()
    local ok, e = pcall(handlers[action], self, row, event)
    if self.starting[row.id] == handler then self.starting[row.id] = nil end
    if ok or e.code == "cancelled" then return end
    log.warn(("Docker's event %s of %s: %s"):format(action, row.name, tostring(e)))
  end)
  if action == "start" then self.starting[row.id] = handler end
end

function Watch:on_event(event)
  if event.Type ~= "container" then return end
  local row = instance_of(self, event.Actor.ID)
  if row and event.Action == "start" then self.d.logs:started(row) end
  if row and handlers[event.Action] then
    self:handle(event.Action, row, event)
  elseif event.Action == "create" and not has_row(self, event.Actor.ID, event.Actor.Attributes.name) then
    self.stranger:notify() -- asked of Docker by somebody who has given up since
  end
end

-- Containers that ended and were started again while nobody listened: what Docker would have told of them.
-- (`started_at` is never before Docker's own time of the start that it is for.)
function Watch:catch_up()
  local d = self.d
  for _, row in ipairs(d.store:all [[SELECT container FROM instance
    WHERE gone_at IS NULL AND state = 'running' AND container IS NOT NULL AND started_at IS NOT NULL]]) do
    local found = d.docker:inspect(row.container)
    local started = found and found.State.Running and found.State.StartedAt
    local now = started and instance_of(self, row.container)
    if now and now.state == "running" and instant.ms("StartedAt", started) > now.started_at then
      d.store:commit {
        { "UPDATE instance SET started_at = ?, restarts = restarts + 1 WHERE id = ? AND state = 'running'",
          instant.ms("StartedAt", started), now.id },
        d.store:event("instance.died", now.app, nil, { name = now.name, missed = true }),
        d.store:event("instance.started", now.app, nil, { name = now.name }),
      }
      local app = d.apps:by_id(now.app)
      if app and app.live == now.release then d.guard:nudge(app, true) end
    end
  end
end

-- Subscribes first, then looks at everything, so that nothing falls between. (Docker answers
-- before it has subscribed us, hence `since`.)
function Watch:follow()
  local stream <close> = self.d.docker:events { since = clock.now(), filters = {
    type = json.array { "container" },
    label = json.array { "nextdeploy.instance=" .. self.d.store.instance },
  } }
  self.connected = true
  task.spawn("logs", function() self.d.logs:resume() end)
  local again = task.spawn("reconcile", function()
    self:reconcile()
    self:set_policies()
    self:catch_up()
  end)
  while true do
    local event = stream:recv()
    if not event then break end
    self:on_event(event)
  end
  again:wait()
end

-- Whether Docker, or we, may have died since that time (nil: since a start that nobody saw the end of).
function Watch:was_away(since) return not since or since <= self.away_at end

function Watch:start()
  self.follower = task.spawn("watch Docker", function()
    while not self.d.stopping do
      local ok, e = pcall(self.follow, self)
      if not ok and e.code == "cancelled" then return end
      if self.connected ~= false then
        log.warn("Docker's events can't be followed, trying again" .. (ok and "" or ": " .. tostring(e)))
      end
      self.connected, self.away_at = false, clock.now()
      task.sleep(RETRY_MS)
    end
  end)
  self.ticker = task.spawn("reconcile", function()
    while true do
      if self.stranger:wait(EVERY_MS) then task.sleep(RETRY_MS) end -- its run may be about to end
      if self.connected then pcall(self.reconcile, self) end
      self.d.store:trim_events()
    end
  end)
end

-- ---- looking at everything ----

-- The network, where it could not be set up at the start, and what a netfilter that failed was told in vain.
local function match_traffic(d)
  local ok, e = pcall(d.network.start, d.network) -- nothing, where it is up
  if not ok then return log.warn("the network is not set up: " .. tostring(e)) end
  d.traffic:retarget_all()
end

function Watch:reconcile()
  local d = self.d
  match_traffic(d)
  local ok, e = pcall(function()
    local rows, found = self:rows(), {} -- in this order: Docker's word is the newer one
    for _, c in ipairs(d.docker:list { all = true,
      labels = { ["nextdeploy.instance"] = d.store.instance } }) do
      found[c.Id] = c
    end
    self:match_rows(rows, found)
    self:judge_strangers(found)
    self:tidy_apps()
    d.jobs:sweep()
    self:sweep_secrets()
  end)
  if not ok and e.code ~= "cancelled" then log.warn("reconciling: " .. tostring(e)) end
  d.reconciled = ok and clock.now() or d.reconciled
end

local MATCHED = [[SELECT instance.*, release.app, release.state AS release_state,
  app.live, app.stopped, run.state AS run_state FROM instance
  JOIN release ON release.id = instance.release JOIN app ON app.id = release.app
  LEFT JOIN run ON run.app = app.id AND run.state IN ('running', 'sleeping', 'rolling_back')
  WHERE gone_at IS NULL]]

-- A stop that a crash cut short, of an app that nobody is stopping.
function Watch:finish_stop(id)
  local d = self.d
  local app = d.apps:by_id(id)
  if app and app.stopped == 1 and not d.releases.stopping[id] then d.releases:user_stop(app) end
end

-- An instance row against its container, or nil where Docker has none. True where it is to be healed. A run
-- sees to what it starts and stops, but not to what is live meanwhile.
function Watch:match_row(row, c)
  if c then c.known = true end
  local running = c and c.State == "running"
  local ours = not row.run_state or row.release_state == "live"
  if row.live == row.release and not running and should_run(self, row.id) then
    return true
  elseif row.live == row.release and row.stopped == 1 and running then
    task.spawn("stop " .. row.name, self.finish_stop, self, row.app)
  elseif (row.state == "running") ~= (running or false) and ours
    and not (running and (row.state == "stopping" or row.run_state and row.state ~= "exited")) then
    if running and row.state == "exited" then
      self:handle("start", row)
    else
      self.d.store:post { { "UPDATE instance SET state = ? WHERE id = ? AND state = ?",
        running and "running" or "exited", row.id, row.state } }
    end
  end
end

-- The rows to match: those at rest, which may be thousands, matter only where their container runs
-- all the same.
function Watch:rows()
  return self.d.store:all(MATCHED .. " AND NOT (app.stopped = 1 AND instance.state = 'exited')")
end

-- Every instance row against its container. It may take long: what is done about one is decided by
-- what is true then.
function Watch:match_rows(rows, found)
  local ill, apps = {}, {}
  for _, row in ipairs(rows) do
    if self:match_row(row, row.container and found[row.container]) then
      if not ill[row.app] then
        ill[row.app] = {}
        apps[#apps + 1] = ill[row.app]
      end
      table.insert(ill[row.app], row)
    end
  end
  for id, c in pairs(found) do
    local row = not c.known and c.State == "running" and self.d.store:get(MATCHED .. " AND container = ?", id)
    if row then self:match_row(row, c) end
  end
  tasks.each("heal", apps, function(list) self:heal(list) end, HEAL_AT_ONCE)
end

-- Starts these instances of an app's live release, which should run; traffic follows as they answer.
function Watch:heal(rows)
  local d, names = self.d, {}
  rows = all_that_should_run(self, rows)
  if #rows == 0 then return end
  for i, row in ipairs(rows) do
    names[i] = row.name
    if row.state == "running" then -- nobody has told of its end
      d.store:post {
        { "UPDATE instance SET state = 'exited' WHERE id = ? AND state = 'running'", row.id },
        d.store:event("instance.died", row.app, nil, { name = row.name, missed = true }),
      }
    end
  end
  names = table.concat(names, ", ")
  local app, release = d.apps:by_id(rows[1].app), d.releases:by_id(rows[1].release)
  log.info(("starting %s, which should run"):format(names))
  local ok, e = pcall(function()
    d.traffic:retarget(app)
    d.instances:wake(app, release, function(row) return should_run(self, row.id) end, rows)
    rows = all_that_should_run(self, rows)
    if #rows == 0 then return end
    d.instances:set_restart(release, "unless-stopped")
    for _, row in ipairs(rows) do
      d.store:post { { "UPDATE instance SET restarts = restarts + 1 WHERE id = ?", row.id } }
      task.spawn("answer of " .. row.name, function()
        await_answer(self, release, row)
        d.traffic:retarget(app)
      end)
    end
  end)
  if not ok then log.error(("can't start %s: %s"):format(names, tostring(e))) end
end

-- Containers with our label and no row: each was asked for by a run, or by the key of a job.
function Watch:judge_strangers(found)
  local d, unknown = self.d, json.array {}
  for id, c in pairs(found) do
    local run = c.Labels["nextdeploy.run"]
    local stranger = not c.known and not has_row(self, id, c.Names[1]:sub(2))
    local by = stranger and (d.store:get("SELECT * FROM run WHERE id = ?", run or "")
      or d.jobs:by_key(c.Labels["nextdeploy.key"] or ""))
    if stranger and not by then
      unknown[#unknown + 1] = { id = id, name = c.Names[1], run = run }
    elseif stranger and by.ended_at and not by.damaged and not d.store.cloned then
      log.info(("removing %s: the %s that asked for it has ended"):format(c.Names[1], run and "run " .. run or "job"))
      pcall(d.docker.remove, d.docker, id, { force = true, volumes = true })
    end
  end
  self.unknown = unknown
end

-- The containers of unknown runs that are there now; the last look at everything may be a minute old.
function Watch:strangers()
  local there = json.array {}
  for _, c in ipairs(self.unknown) do
    local ok, found = pcall(self.d.docker.inspect, self.d.docker, c.id)
    if not ok or found then there[#there + 1] = c end
  end
  self.unknown = there
  return there
end

-- What a run left behind because Docker was away when it ended.
function Watch:tidy_apps()
  for _, app in ipairs(self.d.store:all [[SELECT * FROM app
    WHERE NOT EXISTS (SELECT 1 FROM run WHERE run.app = app.id AND ended_at IS NULL)
    AND (EXISTS (SELECT 1 FROM release WHERE release.app = app.id AND state <> 'gone'
        AND state IN ('created', 'healthy', 'draining', 'kept'))
      OR (SELECT count(*) FROM instance WHERE release = app.live AND gone_at IS NULL) > 1)]]) do
    self.d.releases:tidy(app)
  end
end

-- What a crash may have kept from being told to Docker: to restart what is live.
function Watch:set_policies()
  for _, app in ipairs(self.d.store:all("SELECT * FROM app WHERE live IS NOT NULL AND stopped = 0")) do
    local live = self.d.releases:live(app)
    if live and live.state == "live" then self.d.instances:set_restart(live, "unless-stopped") end
  end
end

-- Directories of secrets that belong to no instance. One that was just made has its row at least
-- under way, hence the commit between looking and judging.
function Watch:sweep_secrets()
  local d = self.d
  local dir = d.options.run_dir .. "/secrets"
  local names = fs.exists(dir) and fs.list(dir) or {}
  d.store:commit {}
  for _, name in ipairs(names) do
    if not d.store:get("SELECT 1 AS one FROM instance WHERE name = ? AND gone_at IS NULL", name)
      and not d.jobs:owns(name) then
      container.drop_secrets(d, name)
    end
  end
end

return Watch
