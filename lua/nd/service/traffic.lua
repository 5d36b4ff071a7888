-- Which instances get an app's new connections: a service address for each process that listens.
--
-- The services of a release are switched together or not at all. What a switch records is the
-- app's live release; the rules follow the database at a start, and whenever an instance comes
-- or goes (`retarget`). An app may be between two releases (shift.lua): both get traffic then.

local clock = require "clock"
local db = require "db"
local json = require "json"
local log = require "log"
local task = require "task"
local tasks = require "nd.tasks"
local Apps = require "nd.service.app"
local Process = require "nd.service.process"
local Shift = require "nd.service.shift"
local release_config = require "nd.service.release_config"

local Traffic = {}
Traffic.__index = Traffic

function Traffic.new(d)
  return setmetatable({ d = d, deciding = tasks.lock() }, Traffic)
end

-- An instance beyond the process's replicas is on its way out. `leave_out(row)`: no traffic for it.
local function targets_of(service, rows, leave_out)
  local targets = {}
  for _, row in ipairs(rows) do
    if row.state == "running" and row.process == service.process and row.position <= service.replicas
      and not (leave_out and leave_out(row)) then
      targets[#targets + 1] = row.address .. ":" .. service.target
    end
  end
  table.sort(targets)
  return targets
end

local function services_of(config)
  local list = Process.services(config)
  return table.move(Process.ports(config), 1, #Process.ports(config), #list + 1, list)
end

local function key_of(app, service)
  return Apps.service(app, service.name or service.process, service.port, service.proto)
end

local function name_of(key) return ("%s:%d/%s"):format(key.process, key.port, key.proto or "tcp") end

-- Those of the next release's instances that share a service of the live one.
local function targets_of_next(app, service, shift)
  for _, other in ipairs(services_of(shift.config)) do
    if name_of(key_of(app, other)) == name_of(key_of(app, service)) then
      return targets_of(other, shift.instances, function(row) return shift.count and row.position > shift.count end)
    end
  end
  return {}
end

-- What a service of the live release has during a shift: targets of both, and the share of each where
-- it goes by weight. What has nothing in one of them goes to the other alone.
local function mixed(app, service, rows, shift)
  local old = targets_of(service, rows, function(row) return Shift.replaced(shift, row) end)
  local new = targets_of_next(app, service, shift)
  local weights = shift.weight and #old > 0 and #new > 0 and {} or nil
  for _, target in ipairs(weights and old or {}) do weights[target] = (100 - shift.weight) / #old end
  for _, target in ipairs(weights and new or {}) do weights[target] = shift.weight / #new end
  table.move(new, 1, #new, #old + 1, old)
  table.sort(old)
  return old, weights
end

-- What every service of the app is to have while `release` serves; nil: nothing does. `shift`: it
-- shares the traffic.
local function wanted(self, app, release, shift)
  local list, named = {}, {}
  local rows = release and self.d.releases:instances(release) or {}
  for _, service in ipairs(release and services_of(release_config.of(release)) or {}) do
    local w = { key = key_of(app, service), published = service.published }
    local own, next = name_of(w.key) == name_of(Apps.service(app)), {}
    if shift and own and shift.by_proxy then
      w.targets, next = targets_of(service, rows), targets_of_next(app, service, shift)
      if #w.targets == 0 then w.targets = next end
    elseif shift then
      w.targets, w.weights = mixed(app, service, rows, shift)
    else
      w.targets = targets_of(service, rows)
    end
    named[name_of(w.key)] = true
    list[#list + 1] = w
    if own and (shift and shift.by_proxy or self.d.network:find_service(Apps.canary(app))) then
      named[name_of(Apps.canary(app))] = true
      list[#list + 1] = { key = Apps.canary(app), targets = #next > 0 and next or w.targets }
    end
  end
  for _, key in ipairs(self.d.network:services_of(Apps.net(app))) do
    if not named[name_of(key)] then
      list[#list + 1] = { key = key, targets = {}, published = release and {} or nil }
    end
  end
  return list
end

-- One at a time decides where an app's traffic goes, or how its live release is configured, from reading what
-- is live to recording it: `local _ <close> = traffic:hold(app)`.
function Traffic:hold(app) return self.deciding:hold(app.id) end

local function deciding(self, app, fn, ...)
  local _ <close> = self:hold(app)
  return fn(self, app, ...)
end

-- What a release replaces when it first serves, by number. One that is the same anew, as after a
-- restart, stands in the other's place.
local function replaced(old, release)
  if not old or release.live_at then return release.replaced end
  local same = old.image_id == release.image_id and old.config == release.config
  if same then return old.replaced end
  return old.number
end

local function switch(self, app, release, happened)
  local d = self.d
  local old = d.releases:live(app)
  local config = release_config.of(release)
  d.apps:check_routes(app, config)
  local before = d.store:all("SELECT domain, tls, proxy_type, port FROM route WHERE app = ?", app.id)
  d.network:service(Apps.service(app)) -- an app without a host name has an address too
  d.apps:set_routes(app, config.routes)
  local ok, e = pcall(d.network.switch_all, d.network, wanted(self, app, release))
  if not ok then
    d.apps:set_routes(app, before)
    error(e, 0)
  end
  local now, result = clock.now(), { release = release.number, before = old and old.number }
  local statements = {
    { "UPDATE app SET live = ?, stopped = 0, updated_at = ? WHERE id = ?", release.id, now, app.id },
    { "DELETE FROM shift WHERE app = ?", app.id },
    { [[UPDATE release SET state = 'live', live_at = ?, replaced = ?, drain_until = NULL, keep_until = NULL
      WHERE id = ?]], now, replaced(old, release) or db.null, release.id },
    d.releases:changed(app, release, "live"),
    d.store:event("app.changed", app.id, nil, { release = release.number }),
  }
  if old and old.id ~= release.id then
    statements[#statements + 1] = { "UPDATE release SET state = 'draining' WHERE id = ? AND state = 'live'", old.id }
    statements[#statements + 1] = d.releases:changed(app, old, "draining")
  end
  statements[#statements + 1] = happened and happened(result)
  d.store:post(statements)
  d.guard:watch(app, release)
  d.schedule:look(app, config)
  return result
end

-- `happened(result)`: a statement that goes with it.
function Traffic:switch(app, release, happened) return deciding(self, app, switch, release, happened) end

local function put_back(self, app)
  local live = self.d.releases:live(app)
  self.d.apps:set_routes(app, live and release_config.of(live).routes or {})
  local stopped = self.d.apps:by_id(app.id).stopped == 1
  self.d.network:switch_all(wanted(self, app, not stopped and live or nil, self.d.shift:of(app)))
end

-- After a switch that failed or was interrupted: traffic and host names are those of what is live.
function Traffic:put_back(app) return deciding(self, app, put_back) end

local function reroute(self, app, routes)
  local d, live = self.d, self.d.releases:live(app)
  local config, before = release_config.of(live), live.config
  config.routes = routes
  live.config = json.encode(config)
  local ok, e = pcall(function()
    d.network:switch_all(wanted(self, app, app.stopped == 0 and live or nil)) -- the address, then the name
    d.apps:set_routes(app, routes)
    d.store:try {
      { "UPDATE release SET config = ? WHERE id = ? AND config = ?", live.config, live.id, before, expect = 1 },
      { "UPDATE app SET updated_at = ? WHERE id = ?", clock.now(), app.id },
      d.store:event("app.changed", app.id, nil, { routes = #routes }),
    }
  end)
  if ok then return end
  pcall(put_back, self, app)
  error(e, 0)
end

-- The live release gets other host names, or the same otherwise served: all of them, or none.
function Traffic:reroute(app, routes) return deciding(self, app, reroute, routes) end

local function silence(self, app) self.d.network:switch_all(wanted(self, app, nil)) end

-- Nothing of the app gets new connections any more.
function Traffic:silence(app) return deciding(self, app, silence) end

local function differs(self, list)
  for _, w in ipairs(list) do
    local targets, weights = self.d.network:targets(w.key)
    if table.concat(w.targets, " ") ~= table.concat(targets, " ") then return true end
    for _, target in ipairs(targets) do
      if (weights and weights[target]) ~= (w.weights and w.weights[target]) then return true end
    end
  end
end

local function retarget(self, app)
  self.d.store:commit {} -- a switch may just have been recorded
  app = self.d.apps:by_id(app.id)
  local live = app and app.live and self.d.releases:by_id(app.live)
  if not live or app.stopped == 1 then return end
  local list = wanted(self, app, live, self.d.shift:of(app))
  if differs(self, list) then self.d.network:switch_all(list) end
end

-- Sends the services' traffic to those instances that are to have it and run.
function Traffic:retarget(app) return deciding(self, app, retarget) end

local function forget_canary(self, app)
  if not self.d.shift:canary(app) then self.d.network:remove(Apps.canary(app)) end
end

-- Where a canary's callers were sent, unless there is another one by now.
function Traffic:forget_canary(app) return deciding(self, app, forget_canary) end

-- At start, and once a minute: the database says what is live; the rules may be one switch behind or ahead.
-- Not where a run has stopped what is live, and it may still be draining.
function Traffic:retarget_all()
  for _, app in ipairs(self.d.store:all [[SELECT app.* FROM app JOIN release ON release.id = app.live
    WHERE stopped = 0 AND (release.state = 'live' OR NOT EXISTS (SELECT 1 FROM run
    WHERE run.app = app.id AND run.state IN ('running', 'sleeping', 'rolling_back')))]]) do
    local ok, e = pcall(function()
      if differs(self, wanted(self, app, self.d.releases:live(app), self.d.shift:of(app))) then
        self:retarget(app)
      end
    end)
    if not ok then log.warn(("can't send the traffic of %s to its release: %s"):format(app.name, tostring(e))) end
    task.yield() -- 0.2 ms each
  end
end

return Traffic
