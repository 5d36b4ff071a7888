-- An app between two releases: the live one, and the next, which a run gives traffic bit by bit.
--
-- How far it is, is a row of table `shift`, and traffic.lua makes the rules from it, so it holds through
-- restarts of the daemon. By instances: so many of each process of the next release have taken the place
-- of as many of the live one's, which were drained and stopped. By weight: so many percent of the traffic
-- go to the next. It ends with the switch, or with everything back at the live release.
--
-- A weight is obeyed by netfilter, for each new connection; but where host names of the app are served by
-- Caddy or nginx, their requests are split there, and a cookie keeps each caller's side. For them the next
-- release has a service address of its own, which leads to the live one again as soon as it is over: to take
-- a release back, no proxy has to change first.
--
--   shift:of(app) -> {release, config, instances = rows, count | weight, by_proxy} | nil
--   shift.replaced(shift, row)         whether this instance of the live release has its successor
--   shift:set(app, release, {instances = n, drain = ms} | {weight = percent}) -> what it has become
--                                      parks; may be done again after a crash
--   shift:back(app, drain_ms)          parks; the next release gets nothing more, may finish what it has
--                                      begun, and is stopped; may be done again after a crash
--   shift:canary(app) -> what a host name of the app has in its proxy during one, or nil
--   shift:ended(app)                   after the switch: a canary's configuration and address may go
--   shift:start() -> task              when the proxies have been told: clears away what ended canaries have left

local clock = require "clock"
local db = require "db"
local log = require "log"
local task = require "task"
local err = require "nd.error"
local Apps = require "nd.service.app"
local Process = require "nd.service.process"
local release_config = require "nd.service.release_config"

local DRAIN_MS = 30 * 1000
local ON_THE_WAY_MS = 1000 -- from the proxy's choice to the connect; in a first try it is no ms
local RETRY_MS = 2000

local Shift = {}
Shift.__index = Shift

function Shift.new(d) return setmetatable({ d = d, over = task.signal(), asked = true, begun = {} }, Shift) end

-- The row of a shift, and the next release.
local function find(self, app)
  local row = self.d.store:get("SELECT * FROM shift WHERE app = ?", app.id)
  return row, row and self.d.releases:by_id(row.release)
end

-- Where the next release is damaged, everything is the live one's.
function Shift:of(app)
  local row, release = find(self, app)
  if not release or release_config.problem(release) then return nil end
  return { release = release, config = release_config.of(release), count = row.instances, weight = row.weight,
    instances = self.d.releases:instances(release), by_proxy = row.weight and #self:hosts(app) > 0 or false }
end

-- The host names whose requests Caddy or nginx can split: rows of table route.
function Shift:hosts(app)
  return self.d.store:rows(
    "SELECT * FROM route WHERE app = ? AND port IS NULL AND proxy_type <> 'none' ORDER BY domain", app.id)
end

function Shift:canary(app)
  local shift, live = self:of(app), self.d.releases:live(app)
  if not shift or not shift.by_proxy or not live then return nil end
  return { at = self.d.network:service(Apps.canary(app)).at, new = shift.release.number, old = live.number,
    weight = shift.weight }
end

local function tell_proxies(self, app)
  local d = self.d
  for _, r in ipairs(self:hosts(app)) do
    d.proxy:set(r.domain, d.network:service(Apps.service(app)).at, r.tls, r.proxy_type, self:canary(app))
  end
end

-- Apps whose canary is over, but has an address still. It leads to the live release by now, so there is no hurry.
local function left_over(self)
  local list = {}
  self.d.store:commit {} -- a switch may just have been recorded
  for _, app in ipairs(self.d.store:all "SELECT * FROM app") do
    if self.d.network:find_service(Apps.canary(app)) and not self:canary(app) then list[#list + 1] = app end
  end
  return list
end

-- Its address goes when nobody is on the way to it any more. Not where the proxies were told of it again: that
-- canary may be over by now, too. -> whether it is gone
local function clear(self, app)
  local begun = self.begun[app.id]
  tell_proxies(self, app)
  task.sleep(ON_THE_WAY_MS)
  if self.begun[app.id] ~= begun then return false end
  self.d.traffic:forget_canary(app)
  return true
end

-- true when something stays
local function clear_all(self)
  local stays = false
  for _, app in ipairs(left_over(self)) do
    local ok, e = pcall(clear, self, app)
    if not ok and e.code == "cancelled" then error(e, 0) end
    if not (ok and e) then stays = true end
    if not ok then
      if self.told ~= tostring(e) then log.warn(("what a canary of %s had stays for now: %s"):format(app.name, e)) end
      self.told = tostring(e)
    end
  end
  if not stays then self.told = nil end
  return stays
end

function Shift:start()
  return task.spawn("ended canaries", function()
    while not self.d.stopping do
      if not self.asked then self.over:wait() end
      self.asked = false
      if clear_all(self) then
        self.asked = true
        task.sleep(RETRY_MS)
      end
    end
  end)
end

function Shift:ended(app)
  if not self.d.network:find_service(Apps.canary(app)) then return end -- none behind a proxy
  self.asked = true
  self.over:notify()
end

function Shift.replaced(shift, row)
  local process = shift.count and row.position <= shift.count and Process.of(shift.config, row.process)
  return process and Process.LONG[process.kind] or false
end

-- What takes an instance's place has to be there.
local function check_there(self, release, count)
  local there = {}
  for _, row in ipairs(self.d.releases:instances(release)) do there[row.process .. row.position] = true end
  for _, process in ipairs(Process.list(release_config.of(release), Process.LONG)) do
    for position = 1, math.min(count, process.replicas) do
      if not there[process.name .. position] then
        err.raise("unhealthy", ("release %d has no %s %d as yet"):format(release.number, process.name, position),
          "app.grow starts it")
      end
    end
  end
end

local function check(self, app, release, options)
  local count, weight = options.instances, options.weight
  if (count == nil) == (weight == nil) or count and (math.type(count) ~= "integer" or count < 1)
    or weight and (type(weight) ~= "number" or weight <= 0 or weight >= 100) then
    err.raise("bad_argument", "app.shift takes { instances = 1 or more } or { weight = percent above 0, below 100 }")
  end
  local live = self.d.releases:live(app)
  if not live then
    err.raise("app_not_live", ("nothing of '%s' is live that could share its traffic"):format(app.name),
      "app.switch sends all of it")
  end
  self.d.releases:check_not_live(app, release)
  for _, r in ipairs(weight and self:hosts(app) or {}) do self.d.proxy:require_up(r.proxy_type) end
  self.d.releases:check_instances(app, release)
  check_there(self, release, count or 0)
  return live
end

-- Drains and stops instances of a release that have no traffic any more, of those of which chosen(row).
local function stop(self, app, release, drain_ms, chosen)
  local d, rows = self.d, {}
  for _, row in ipairs(d.releases:instances(release)) do
    if row.state ~= "exited" and chosen(row) then rows[#rows + 1] = row end
  end
  if #rows == 0 then return 0 end
  local cut = d.drain:wait_idle(release, clock.now() + (drain_ms or DRAIN_MS), rows)
  if cut > 0 then d.metrics.cuts:add(cut, app.project, app.environment, app.name) end
  d.instances:stop(release, rows)
  return cut
end

local function record(self, app, release, count, weight, event)
  local d = self.d
  d.store:commit {
    { [[INSERT INTO shift (app, release, instances, weight) VALUES (?, ?, ?, ?) ON CONFLICT (app) DO UPDATE
      SET release = excluded.release, instances = excluded.instances, weight = excluded.weight]],
      app.id, release.id, count or db.null, weight or db.null },
    d.store:event("app.shifted", app.id, nil, event),
  }
end

function Shift:set(app, release, options)
  local d, count, weight = self.d, options.instances, options.weight
  local live = check(self, app, release, options)
  local result = { release = release.number, before = live.number, instances = count, weight = weight }
  record(self, app, release, count, weight, result)
  self.begun[app.id] = (self.begun[app.id] or 0) + 1
  if count then d.guard:leave(app) end -- instances that were stopped are not ill
  d.traffic:retarget(app)
  if self:canary(app) then tell_proxies(self, app) end
  if count then
    local shift = self:of(app)
    result.cut = stop(self, app, live, options.drain, function(row) return Shift.replaced(shift, row) end)
  end
  return result
end

-- Those of the live release that were stopped run again before they get traffic.
local function wake(self, app, live)
  local d, rows = self.d, {}
  for _, row in ipairs(d.releases:instances(live)) do
    if row.state ~= "running" then rows[#rows + 1] = row end
  end
  if #rows == 0 then return end
  d.instances:wake(app, live, nil, rows)
  local quiet = { app = app, asked_at = clock.now(), progress = function() end }
  local ok, e = pcall(d.health.wait, d.health, quiet, live, nil, 0, rows)
  if not ok and e.code == "cancelled" then error(e, 0) end -- else nothing better is there
end

function Shift:back(app, drain_ms)
  local d, _, release = self.d, find(self, app)
  if not release then return end
  local live = d.releases:live(app)
  local serves = live and d.apps:by_id(app.id).stopped == 0
  if serves then wake(self, app, live) end
  record(self, app, release, 0, nil, { release = live and live.number, before = release.number })
  d.traffic:retarget(app)
  self:ended(app)
  if serves then d.guard:watch(app, live) end
  if not release_config.problem(release) then stop(self, app, release, drain_ms, function() return true end) end
  d.store:commit { { "DELETE FROM shift WHERE app = ?", app.id } }
end

return Shift
