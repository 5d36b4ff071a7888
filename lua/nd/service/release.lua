-- Releases: made, started, switched to, drained, kept, removed.
--
--   created -> healthy -> live -> draining -> kept -> gone
--
-- A recipe asks for the steps up to `live` and ends by retiring the predecessor, which only
-- records. From there the daemon drives (drain.lua). Each function here may be called again after
-- a crash: what exists is found by its key.

local clock = require "clock"
local fault = require "fault"
local json = require "json"
local log = require "log"
local task = require "task"
local container = require "nd.service.container"
local err = require "nd.error"
local tasks = require "nd.tasks"
local Apps = require "nd.service.app"

local KEEP_MS = 5 * 60 * 1000
local DRAIN_MS = 30 * 1000
local GRACE_MS = 10 * 1000

local Releases = {}
Releases.__index = Releases

function Releases.new(d)
  return setmetatable({ d = d, deciding = {}, decided = task.signal() }, Releases)
end

-- ---- looking up ----

function Releases:find(app, n)
  return self.d.store:get("SELECT * FROM release WHERE app = ? AND number = ?", app.id, n)
end

function Releases:get(app, n)
  local release = self:find(app, n)
  if not release then
    err.raise("release_not_found", ("'%s' has no release %s"):format(app.name, tostring(n)),
      "`ndctl status " .. app.name .. "` lists its releases")
  end
  return release
end

function Releases:by_id(id) return self.d.store:get("SELECT * FROM release WHERE id = ?", id) end

function Releases:live(app)
  app = self.d.apps:by_id(app.id)
  return app and app.live and self:by_id(app.live)
end

-- The last good one before what is live.
function Releases:previous(app)
  local live = self:live(app)
  return self.d.store:get([[SELECT * FROM release WHERE app = ? AND was_healthy = 1 AND id <> ?
    AND live_at IS NOT NULL ORDER BY live_at DESC LIMIT 1]], app.id, live and live.id or 0)
end

function Releases:instances(release)
  return self.d.store:all(
    "SELECT * FROM instance WHERE release = ? AND gone_at IS NULL ORDER BY position", release.id)
end

function Releases:next_number(app)
  return (self.d.store:get("SELECT max(number) AS n FROM release WHERE app = ?", app.id).n or 0) + 1
end

-- The names of a configuration's volumes that have one writer, or nil.
local function one_writer(config)
  local names
  for _, volume in ipairs(config.volumes or {}) do
    if not volume.shared then
      names = names or {}
      names[volume.name] = true
    end
  end
  return names
end

-- What a recipe gets to see of a release.
function Releases:handle(app, release)
  local list = json.array {}
  for i, row in ipairs(self:instances(release)) do
    list[i] = { name = row.name, address = row.address, process = row.process, index = row.position }
  end
  return { app = app.name, release = release.number, state = release.state, image = release.image,
    id = release.image_id, instances = list,
    one_writer = one_writer(json.decode(release.config)) and true or nil }
end

function Releases:changed(app, release, state)
  return self.d.store:event("release.changed", app.id, nil, { number = release.number, state = state })
end

-- ---- starting ----

-- Raises volume_in_use where a container with this configuration would be a second writer.
-- `release`: the one that is to run, where it exists already.
function Releases:check_writers(app, config, release)
  local names = one_writer(config)
  if not names then return end
  if config.replicas > 1 then
    err.raise("volume_in_use", ("%d replicas would write the volume '%s', which has one writer"):format(
      config.replicas, next(names)), "set replicas = 1, or mark the volume `shared = true` if the app can share it")
  end
  self.d.store:commit {} -- another may just have been stopped
  for _, other in ipairs(self.d.store:all([[SELECT release.*, app.name AS app_name FROM release
    JOIN app ON app.id = release.app WHERE release.id <> ? AND EXISTS (SELECT 1 FROM instance
    WHERE release = release.id AND gone_at IS NULL AND state IN ('starting', 'running', 'stopping'))]],
    release and release.id or 0)) do
    for _, volume in ipairs(json.decode(other.config).volumes or {}) do
      if names[volume.name] then
        err.raise("volume_in_use", ("the volume '%s' has one writer, and release %d of %s runs with it"):format(
          volume.name, other.number, other.app_name), other.app == app.id
          and "use the recipe recreate, which stops it first; or mark the volume `shared = true`"
          or "stop that app first, or give this one a volume of its own")
      end
    end
  end
end

local function image_of(d, app, release)
  local image = d.docker:image(release.image_id)
  if image then return image end
  err.raise("image_not_found", ("the image %s of release %d is no longer on this host"):format(
    release.image, release.number),
    ("deploy it again: `ndctl deploy %s --app %s`"):format(release.image, app.name))
end

-- Side by side, since each asks somebody else: the image, the network, and an address for each
-- instance to come. -> image, net, {{name, address, process, position}}
local function prepare(self, app, release, config)
  local d, key = self.d, Apps.net(app)
  local image, net, list
  tasks.all("prepare", {
    function() image = image_of(d, app, release) end,
    function() net = d.network:ensure_bridge(key) end,
    function()
      local used = {}
      for _, row in ipairs(d.store:all([[SELECT address FROM instance JOIN release
        ON release.id = instance.release WHERE release.app = ? AND gone_at IS NULL]], app.id)) do
        used[#used + 1] = row.address
      end
      list = {}
      for position = 1, config.replicas do
        local address = d.network:container_address(key, used)
        used[#used + 1] = address
        list[position] = { name = container.name(d, app, release.number, "web", position),
          address = address, process = "web", position = position }
      end
    end,
  })
  return image, net, list
end

-- Makes the instances durable together with `statements`, and their secrets' directories.
local function record_instances(self, release, list, statements)
  for _, i in ipairs(list) do
    statements[#statements + 1] = {
      [[INSERT INTO instance (release, process, position, name, address, state)
        VALUES ((SELECT id FROM release WHERE key = ?), ?, ?, ?, ?, 'starting')]],
      release.key, i.process, i.position, i.name, i.address }
  end
  tasks.all("record", {
    function() self.d.store:commit(statements) end,
    function() for _, i in ipairs(list) do container.put_secrets(self.d, i.name) end end,
  })
end

-- The name says whose it is: what has it already is a leftover of a crash.
local function create(d, name, spec)
  local ok, result = pcall(d.docker.create, d.docker, name, spec)
  if ok then return result end
  if result.code ~= "docker_conflict" then error(result, 0) end
  d.docker:remove(name, { force = true })
  return d.docker:create(name, spec)
end

-- Creates and starts the containers of a release's instance rows, side by side.
local function start_instances(self, app, release, key, image, net)
  local d = self.d
  local config = json.decode(release.config)
  tasks.each("start", self:instances(release), function(instance)
    local id = create(d, instance.name, container.spec(d, app, release, image, config, instance, net, key))
    d.store:post { { "UPDATE instance SET container = ? WHERE id = ?", id, instance.id } }
    fault.hit "container.created"
    d.docker:start(id)
    fault.hit "container.started"
    d.store:post { {
      "UPDATE instance SET state = 'running', started_at = ? WHERE id = ? AND state = 'starting'",
      clock.now(), instance.id } }
  end)
end

-- Names what the container could not do; Docker's own words are kept.
local function explain_start(e, release)
  if e.code == "docker_refused" or e.code == "docker_error" or e.code == "docker_not_found" then
    return err.new("start_failed", ("release %d can't start: %s"):format(release.number, e.message),
      "check the image's entrypoint and the command in nextdeploy.lua", e.data)
  end
  return e
end

function Releases:start(ctx, image, options)
  local d, app = self.d, ctx.app
  local spec = ctx.spec or d.apps:spec(app, {})
  if options.replicas then spec.replicas = options.replicas end
  for name, value in pairs(options.env or {}) do spec.env[name] = value end
  self:remove_by_key(app, ctx.key)
  self:check_writers(app, spec)
  local known = d.store:get("SELECT number FROM release WHERE key = ?", ctx.key)
  local release = { key = ctx.key, number = known and known.number or self:next_number(app),
    image = image.image or image.id, image_id = image.id, config = json.encode(spec),
    run = ctx.run.row.id }
  local found, net, list = prepare(self, app, release, spec)
  record_instances(self, release, list, { {
    [[INSERT INTO release (app, number, state, image, image_id, config, run, key, created_at)
      VALUES (?, ?, 'created', ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET state = 'created']],
    app.id, release.number, release.image, release.image_id, release.config, release.run, ctx.key,
    clock.now() } })
  release = d.store:get("SELECT * FROM release WHERE key = ?", ctx.key)
  local ok, e = pcall(start_instances, self, app, release, ctx.key, found, net)
  if not ok then error(explain_start(e, release), 0) end
  d.store:post { self:changed(app, release, "created") }
  return self:handle(app, release)
end

-- A container that has run was started, whatever became of it since; one that Docker began to start
-- and didn't bring up was not.
local function was_started(found)
  local state = found and found.State
  return state and (state.Running or state.StartedAt:sub(1, 4) ~= "0001" and state.Error == "")
end

-- After a crash: the handle, if every container of this effect was started; else nil.
function Releases:started(ctx)
  local d = self.d
  local release = d.store:get("SELECT * FROM release WHERE key = ? AND state <> 'gone'", ctx.key)
  if not release then return nil end
  local rows = self:instances(release)
  if #rows == 0 then return nil end
  for _, row in ipairs(rows) do
    local found = d.docker:inspect(row.name)
    if not was_started(found) then return nil end
    d.store:post { {
      "UPDATE instance SET container = ?, state = ?, started_at = coalesce(started_at, ?) WHERE id = ?",
      found.Id, found.State.Running and "running" or "exited", clock.now(), row.id } }
  end
  return self:handle(ctx.app, release)
end

function Releases:mark_healthy(release)
  self.d.store:post {
    { [[UPDATE release SET was_healthy = 1,
      state = CASE state WHEN 'created' THEN 'healthy' ELSE state END WHERE id = ?]], release.id },
    self.d.store:event("release.changed", release.app, nil,
      { number = release.number, state = "healthy" }),
  }
end

-- ---- switching ----

local function targets_of(release, rows)
  local port = json.decode(release.config).port
  local targets = {}
  for _, row in ipairs(rows) do
    if row.state == "running" then targets[#targets + 1] = row.address .. ":" .. port end
  end
  return targets
end

-- Docker restarts the live release's instances, and no others.
function Releases:set_restart(release, policy)
  for _, row in ipairs(self:instances(release)) do
    local ok, e = pcall(self.d.docker.update, self.d.docker, row.container or row.name,
      { RestartPolicy = { Name = policy } })
    if not ok and e.code == "cancelled" then error(e, 0) end
    if not ok and e.code ~= "docker_not_found" then
      log.warn(("can't set the restart policy of %s: %s"):format(row.name, tostring(e)))
    end
  end
end

-- One at a time decides where an app's traffic goes, from reading what is live to recording it.
local function deciding(self, app, fn, ...)
  while self.deciding[app.id] do self.decided:wait() end
  self.deciding[app.id] = true
  local ok, result = pcall(fn, self, app, ...)
  self.deciding[app.id] = nil
  self.decided:notify()
  if not ok then error(result, 0) end
  return result
end

local function switch(self, app, release)
  local d = self.d
  local old = self:live(app)
  local config = json.decode(release.config)
  d.apps:check_routes(app, config)
  local before = d.store:all("SELECT domain, tls, proxy_type FROM route WHERE app = ?", app.id)
  d.network:service(Apps.service(app)) -- an app without a host name has an address too
  d.apps:set_routes(app, config.routes)
  local ok, e = pcall(d.network.switch, d.network, Apps.service(app),
    targets_of(release, self:instances(release)))
  if not ok then
    d.apps:set_routes(app, before)
    error(e, 0)
  end
  local now = clock.now()
  local statements = {
    { "UPDATE app SET live = ?, stopped = 0, updated_at = ? WHERE id = ?", release.id, now, app.id },
    { "UPDATE release SET state = 'live', live_at = ?, drain_until = NULL, keep_until = NULL WHERE id = ?",
      now, release.id },
    self:changed(app, release, "live"),
    d.store:event("app.changed", app.id, nil, { release = release.number }),
  }
  if old and old.id ~= release.id then
    statements[#statements + 1] = { "UPDATE release SET state = 'draining' WHERE id = ? AND state = 'live'", old.id }
    statements[#statements + 1] = self:changed(app, old, "draining")
  end
  d.store:post(statements)
  d.guard:watch(app, release)
  return { release = release.number, before = old and old.number }
end

function Releases:switch(app, release) return deciding(self, app, switch, release) end

local function put_traffic_back(self, app)
  local live = self:live(app)
  self.d.apps:set_routes(app, live and json.decode(live.config).routes or {})
  local stopped = self.d.apps:by_id(app.id).stopped == 1
  self.d.network:switch(Apps.service(app),
    live and not stopped and targets_of(live, self:instances(live)) or {})
end

-- After a switch that failed or was interrupted: traffic and host names are those of what is live.
function Releases:put_traffic_back(app) return deciding(self, app, put_traffic_back) end

-- Nothing of the app is live any more; what was serves nobody.
function Releases:offline(app)
  local d, live = self.d, self:live(app)
  d.guard:leave(app)
  d.apps:set_routes(app, {})
  d.network:switch(Apps.service(app), {})
  if not live then return end
  d.store:commit {
    { "UPDATE app SET live = NULL, updated_at = ? WHERE id = ?", clock.now(), app.id },
    { "UPDATE release SET state = 'draining' WHERE id = ? AND state = 'live'", live.id },
    d.store:event("app.changed", app.id, nil, {}),
  }
end

local function retarget(self, app)
  self.d.store:commit {} -- a switch may just have been recorded
  app = self.d.apps:by_id(app.id)
  local live = app and app.live and self:by_id(app.live)
  if not live or app.stopped == 1 then return end
  self.d.network:switch(Apps.service(app), targets_of(live, self:instances(live)))
end

-- Sends the service's traffic to those instances of the live release that run.
function Releases:retarget(app) return deciding(self, app, retarget) end

-- At start: the database says what is live; the rules may be one switch behind or ahead.
function Releases:retarget_all()
  for _, app in ipairs(self.d.store:all("SELECT * FROM app WHERE live IS NOT NULL AND stopped = 0")) do
    local wanted = targets_of(self:live(app), self:instances(self:live(app)))
    table.sort(wanted)
    if table.concat(wanted, " ") ~= table.concat(self.d.network:targets(Apps.service(app)), " ") then
      local ok, e = pcall(self.retarget, self, app)
      if not ok then log.warn(("can't send the traffic of %s to its release: %s"):format(app.name, tostring(e))) end
    end
  end
end

-- ---- retiring ----

function Releases:check_not_live(app, release)
  local live = self:live(app)
  if live and live.id == release.id then
    err.raise("release_live", ("release %d of %s is live and stays"):format(release.number, app.name),
      "switch to another release first")
  end
end

function Releases:retire(app, release, options)
  local d = self.d
  if release.state == "gone" then return json.null end
  self:check_not_live(app, release)
  local drain, keep = options.drain or DRAIN_MS, options.keep or KEEP_MS
  d.store:commit {
    { [[UPDATE release SET state = CASE state WHEN 'kept' THEN 'kept' ELSE 'draining' END,
      drain_until = ?, keep_ms = ?, keep_until = CASE state WHEN 'kept' THEN ? ELSE NULL END
      WHERE id = ?]], clock.now() + drain, keep, clock.now() + keep, release.id } }
  d.drain:take(app, self:by_id(release.id))
  return { release = release.number, drain = drain, keep = keep }
end

-- At the end of a run: retires what it replaced without saying how, and removes what it started and
-- did not switch to.
function Releases:tidy(app)
  local ok, e = pcall(function()
    self.d.store:commit {} -- a switch may have been the last thing, and is posted
    for _, release in ipairs(self.d.store:all([[SELECT release.* FROM release JOIN app ON app.id = release.app
      WHERE app.id = ? AND release.id IS NOT app.live AND (release.state IN ('created', 'healthy')
      OR release.state = 'draining' AND drain_until IS NULL OR release.state = 'kept' AND keep_until IS NULL)]],
      app.id)) do
      if release.state == "draining" or release.state == "kept" then
        self:retire(app, release, {})
      elseif release.live_at then
        self:deactivate(app, release)
      else
        self:remove(app, release, 0)
      end
    end
  end)
  if ok then return end
  if e.code == "cancelled" then error(e, 0) end
  log.error(("can't tidy up after a run of %s: %s"):format(app.name, tostring(e)))
end

function Releases.grace(_, release) return json.decode(release.config).grace or GRACE_MS end

-- SIGTERM, grace, SIGKILL; the containers stay.
function Releases:stop_containers(release, grace_ms)
  self.d.store:commit { {
    "UPDATE instance SET state = 'stopping' WHERE release = ? AND state = 'running'", release.id } }
  tasks.each("stop", self:instances(release), function(row)
    self.d.network:container_stops(row.address)
    local ok, e = pcall(self.d.docker.stop, self.d.docker, row.container or row.name,
      math.ceil(grace_ms / 1000))
    if not ok and e.code ~= "docker_not_found" then error(e, 0) end
    self.d.store:post { { "UPDATE instance SET state = 'exited' WHERE id = ?", row.id } }
  end)
end

local function remove_container(d, row)
  local found = row.state == "starting" and d.docker:inspect(row.name)
  local ok, e = pcall(d.docker.remove, d.docker, row.container or row.name, { force = true, volumes = true })
  if not ok and e.code ~= "docker_not_found" then error(e, 0) end
  local id = found and found.Id or row.container
  if row.state ~= "starting" or not id then return end
  local strays = container.end_strays(id)
  if strays > 0 then log.warn(("%s: ended %d processes that Docker had forgotten"):format(row.name, strays)) end
end

-- Removes a release's containers, with what belongs to them. The row stays, as history.
function Releases:remove(app, release, grace_ms)
  local d = self.d
  d.drain:leave(release)
  d.store:commit {}
  tasks.each("remove", self:instances(release), function(row)
    if grace_ms > 0 and (row.state == "running" or row.state == "stopping") then
      pcall(d.docker.stop, d.docker, row.container or row.name, math.ceil(grace_ms / 1000))
    end
    remove_container(d, row)
    container.drop_secrets(d, row.name)
    pcall(d.network.container_gone, d.network, row.address)
    d.store:post { { "UPDATE instance SET state = 'gone', gone_at = ? WHERE id = ?", clock.now(), row.id } }
  end)
  fault.hit "release.removed"
  d.store:post {
    { "UPDATE release SET state = 'gone', keep_until = NULL, drain_until = NULL WHERE id = ?", release.id },
    self:changed(app, release, "gone"),
  }
end

function Releases:remove_by_key(app, key)
  local release = self.d.store:get("SELECT * FROM release WHERE key = ?", key)
  if release then self:remove(app, release, 0) end
end

-- ---- going back ----

-- Makes a release run: as it does already (draining), its stopped containers (kept), or new ones
-- from its image (gone).
function Releases:activate(ctx, release)
  local d, app = self.d, ctx.app
  d.drain:leave(release)
  release = self:by_id(release.id) -- its time may just have been up
  if release.state == "live" then return self:handle(app, release) end
  self:check_writers(app, json.decode(release.config), release)
  if release.state == "gone" then
    self:remove_by_key(app, release.key)
    local image, net, list = prepare(self, app, release, json.decode(release.config))
    record_instances(self, release, list,
      { { "UPDATE release SET state = 'created' WHERE id = ?", release.id } })
    start_instances(self, app, release, ctx.key, image, net)
  else
    self:wake(app, release)
  end
  d.store:commit { {
    "UPDATE release SET state = 'healthy', drain_until = NULL, keep_until = NULL WHERE id = ? AND state <> 'live'",
    release.id } }
  return self:handle(app, self:by_id(release.id))
end

-- Starts the stopped containers of a release; makes anew those that are gone or broken.
function Releases:wake(app, release)
  local d = self.d
  d.network:ensure_bridge(Apps.net(app))
  tasks.each("wake", self:instances(release), function(row)
    container.put_secrets(d, row.name)
    local found = d.docker:inspect(row.name)
    local ok, e = false, nil
    if found and row.state == "stopping" then -- SIGTERM is on its way: it ends first
      pcall(d.docker.stop, d.docker, found.Id, math.ceil(self:grace(release) / 1000))
    end
    if found then ok, e = pcall(d.docker.start, d.docker, found.Id) end
    if not ok and e and e.code == "cancelled" then error(e, 0) end
    if not ok then
      if e then log.warn(("%s can't be started again, making it anew: %s"):format(row.name, tostring(e))) end
      self:recreate(app, release, row)
    end
    d.store:post { { "UPDATE instance SET state = 'running', started_at = ? WHERE id = ?", clock.now(), row.id } }
  end)
  d.store:commit {}
end

-- A container that Docker can't start any more is removed and created anew, never restarted.
function Releases:recreate(app, release, row)
  local d = self.d
  pcall(d.docker.remove, d.docker, row.name, { force = true })
  local image = image_of(d, app, release)
  local net = d.network:ensure_bridge(Apps.net(app))
  container.put_secrets(d, row.name)
  local id = d.docker:create(row.name, container.spec(d, app, release, image,
    json.decode(release.config), row, net, release.key))
  d.store:post { { "UPDATE instance SET container = ? WHERE id = ?", id, row.id } }
  d.docker:start(id)
end

-- Stops a release that was brought back in vain, and keeps it.
function Releases:deactivate(app, release)
  if release.state == "live" or release.state == "gone" then return end
  self:stop_containers(release, self:grace(release))
  self.d.store:commit {
    { "UPDATE release SET state = 'kept', keep_until = ? WHERE id = ?", clock.now() + KEEP_MS, release.id } }
  self.d.drain:take(app, self:by_id(release.id))
end

-- For `recreate`: from here on until the switch nothing serves. The release is still the app's live
-- one, but kept, so that nobody starts it again.
function Releases:stop_for_recreate(ctx, release, drain_ms)
  local d, app = self.d, ctx.app
  local live = self:live(app)
  local was_live = live ~= nil and live.id == release.id
  if was_live then
    d.store:commit { { "UPDATE release SET state = 'kept', keep_until = NULL WHERE id = ?", release.id } }
    d.guard:leave(app)
    d.network:switch(Apps.service(app), {})
  end
  d.drain:leave(release)
  d.drain:wait_idle(release, clock.now() + drain_ms)
  self:set_restart(release, "no")
  self:stop_containers(release, self:grace(release))
  local handle = self:handle(app, self:by_id(release.id))
  handle.was_live = was_live
  return handle
end

-- Makes a release serve that did so before: it is started where it was stopped, and gets the traffic
-- once it is healthy, or at the latest at its deadline, since nothing better is there.
function Releases:resume(ctx, release)
  local app = ctx.app
  self.d.drain:leave(release)
  self:wake(app, release)
  local quiet = { app = app, asked_at = clock.now(), progress = function() end }
  local ok, e = pcall(self.d.health.wait, self.d.health, quiet, release, nil, 0)
  if not ok and e.code == "cancelled" then error(e, 0) end
  self:switch(app, release)
end

-- ---- stop and restart, as a person asks ----

function Releases:user_stop(app)
  local d = self.d
  local release = self:live(app)
  if not release then
    err.raise("app_not_live", ("'%s' has no live release to stop"):format(app.name),
      "`ndctl status " .. app.name .. "`")
  end
  d.store:commit { { "UPDATE app SET stopped = 1, updated_at = ? WHERE id = ?", clock.now(), app.id } }
  d.guard:leave(app)
  d.network:switch(Apps.service(app), {})
  d.drain:wait_idle(release, clock.now() + DRAIN_MS)
  self:stop_containers(release, self:grace(release))
  d.store:commit { d.store:event("app.changed", app.id, nil, { status = "stopped" }) }
end

function Releases:user_start(app)
  local d = self.d
  local release = self:live(app)
  if not release then
    err.raise("app_not_live", ("'%s' has no release to start"):format(app.name),
      "`ndctl deploy IMAGE --app " .. app.name .. "`")
  end
  d.guard:leave(app)
  d.store:commit { { "UPDATE app SET stopped = 0, updated_at = ? WHERE id = ?", clock.now(), app.id } }
  self:wake(app, release)
  d.health:wait({ app = app, progress = function() end, asked_at = clock.now() }, release,
    json.decode(release.config).health, 0)
  self:retarget(app)
  d.guard:watch(app, release)
  d.store:commit { d.store:event("app.changed", app.id, nil, { status = "running" }) }
end

return Releases
