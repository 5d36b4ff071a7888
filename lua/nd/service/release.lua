-- Releases: made, started, switched to, drained, kept, removed.
--
--   created -> healthy -> live -> draining -> kept -> gone
--
-- A recipe asks for the steps up to `live` and ends by retiring the predecessor, which only
-- records. From there the daemon drives (drain.lua). Each function here may be called again after
-- a crash: what exists is found by its key. The containers are those of instances.lua, the traffic
-- is that of traffic.lua.

local clock = require "clock"
local db = require "db"
local fault = require "fault"
local json = require "json"
local log = require "log"
local err = require "nd.error"
local Images = require "nd.service.images"
local policy = require "nd.service.policy"
local Process = require "nd.service.process"
local release_config = require "nd.service.release_config"

local KEEP_MS = 5 * 60 * 1000
local DRAIN_MS = 30 * 1000

local Releases = {}
Releases.__index = Releases

function Releases.new(d)
  return setmetatable({ d = d, stopping = {} --[[ app.id -> how many are at it ]] }, Releases)
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

-- Is it what is live, and is the app not stopped?
function Releases:serves(app, release)
  app = self.d.apps:by_id(app.id)
  return app ~= nil and app.live == release.id and app.stopped == 0
end

-- The good one that served last, other than what is live: the one that was just left, too.
function Releases:other(app)
  local live = self:live(app)
  return self.d.store:get([[SELECT * FROM release WHERE app = ? AND was_healthy = 1 AND id <> ?
    AND live_at IS NOT NULL ORDER BY live_at DESC, id DESC LIMIT 1]], app.id, live and live.id or 0)
end

-- The last good one before what is live: what that replaced when it came. So each way back goes
-- further back, and never to one that was left by going back.
function Releases:previous(app)
  local release = self:live(app)
  while release and not release.damaged do
    release = release.replaced and self:find(app, release.replaced)
    if not release or release.was_healthy == 1 and not release.damaged then return release or nil end
  end
  return self:other(app)
end

-- Raises secret_gone where a release has a secret that was removed since.
function Releases:check_secrets(app, release)
  local secrets = not release.damaged and release_config.of(release).secrets
  if secrets then self.d.secrets:check(app, secrets) end
end

-- What to go back to: the release `n`, or the last good one. Raises where that would be none.
function Releases:to_go_back(app, n)
  local release = n and self:get(app, n) or not n and self:previous(app)
  if not release then
    local other = self:other(app)
    err.raise("nothing_to_roll_back", ("'%s' has no earlier healthy release"):format(app.name), other
      and ("release %d was left by going back: `ndctl rollback %s --to %d` goes there"):format(other.number, app.name,
        other.number) or "`ndctl status " .. app.name .. "` lists its releases")
  elseif release.was_healthy == 0 and not release.live_at then
    err.raise("release_unhealthy", ("release %d of %s was never healthy"):format(release.number, app.name),
      ("`ndctl deploy %s --app %s` tries its image again"):format(release.image, app.name))
  end
  self:check_secrets(app, release)
  return release
end

-- Web first, then the other processes by name.
function Releases:instances(release)
  return self.d.store:all([[SELECT * FROM instance WHERE release = ? AND gone_at IS NULL
    ORDER BY process <> 'web', process, position]], release.id)
end

function Releases:next_number(app)
  return (self.d.store:get("SELECT max(number) AS n FROM release WHERE app = ?", app.id).n or 0) + 1
end

-- Does a volume of it allow no second release beside it?
local function exclusive(config)
  for _, volume in ipairs(Process.one_writer(config)) do
    if volume.long then return true end
  end
end

-- The most instances that a process of it has, once it has all.
local function replicas_of(config)
  local most = 0
  for _, process in ipairs(Process.list(config, Process.LONG)) do most = math.max(most, process.replicas) end
  return most
end
Releases.replicas_of = replicas_of

-- What a recipe gets to see of a release.
function Releases:handle(app, release)
  local list = json.array {}
  for i, row in ipairs(self:instances(release)) do
    list[i] = { name = row.name, address = row.address, process = row.process, index = row.position }
  end
  local unknown = release_config.problem(release) ~= nil
  local config = unknown and {} or release_config.of(release)
  return { app = app.name, release = release.number, state = release.state, image = release.image,
    id = release.image_id, instances = list, replicas = replicas_of(config),
    one_writer = unknown or exclusive(config) }
end

function Releases:changed(app, release, state)
  return self.d.store:event("release.changed", app.id, nil, { number = release.number, state = state })
end

-- ---- starting ----

-- Raises volume_in_use where the containers of this configuration would be several writers.
local function check_own_writers(list)
  for _, volume in ipairs(list) do
    if volume.containers > 1 then
      local who = #volume.processes > 1 and table.concat(volume.processes, " and ")
        or ("%d replicas"):format(volume.containers)
      err.raise("volume_in_use", ("%s would write the volume '%s', which has one writer"):format(who, volume.name),
        #volume.processes > 1 and "mark it `shared = true`, or give a process `volumes` of its own"
        or "set replicas = 1, or mark the volume `shared = true` if the app can share it")
    end
  end
end

-- Raises volume_in_use where a container with this configuration would be a second writer.
-- `release`: the one that is to run, where it exists already.
function Releases:check_writers(app, config, release)
  local list, names = Process.one_writer(config), {}
  check_own_writers(list)
  if not exclusive(config) then return end
  for _, volume in ipairs(list) do names[volume.name] = true end
  self.d.store:commit {} -- another may just have been stopped
  for _, other in ipairs(self.d.store:all([[SELECT release.*, app.name AS app_name FROM release
    JOIN app ON app.id = release.app WHERE release.id <> ? AND EXISTS (SELECT 1 FROM instance
    WHERE release = release.id AND gone_at IS NULL AND state IN ('starting', 'running', 'stopping'))]],
    release and release.id or 0)) do
    for _, volume in ipairs(Process.one_writer(release_config.of(other))) do
      if names[volume.name] then
        local own = other.app == app.id
        err.raise("volume_in_use", ("the volume '%s' has one writer, and %s"):format(volume.name, own
          and ("release %d runs with it"):format(other.number)
          or ("belongs to release %d of %s, which runs"):format(other.number, other.app_name)), own
          and "use the recipe recreate, which stops it first; or mark the volume `shared = true`"
          or "stop that app first, or give this one a volume of its own")
      end
    end
  end
end

-- Names what the container could not do; Docker's own words are kept.
local function explain_start(e, release)
  if e.code == "docker_refused" or e.code == "docker_error" or e.code == "docker_not_found" then
    return err.new("start_failed", ("release %d can't start: %s"):format(release.number, e.message),
      "check the image's entrypoint and the command in nextdeploy.lua", e.data)
  end
  return e
end

-- What app.start starts: the configuration that the run is to deploy, or the live one, with what the
-- recipe says on top.
function Releases:spec(ctx, options)
  local spec = ctx.spec or self.d.apps:spec(ctx.app, {})
  if options.replicas then
    local web = spec.processes and spec.processes.web or spec
    web.replicas = options.replicas
  end
  for name, value in pairs(options.env or {}) do spec.env[name] = value end
  spec.prepared = nil
  return spec
end

function Releases:start(ctx, image, options)
  local d, app = self.d, ctx.app
  local spec = self:spec(ctx, options)
  policy.enforce(d, ctx.run.row.owner, app.name, spec)
  self:remove_by_key(app, ctx.key)
  self:check_writers(app, spec)
  local known = d.store:get("SELECT number FROM release WHERE key = ?", ctx.key)
  local release = { key = ctx.key, number = known and known.number or self:next_number(app),
    image = image.image or image.id, image_id = image.id, config = json.encode(spec),
    run = ctx.run.row.id }
  local found, net, list = d.instances:prepare(app, release, spec, options.instances)
  d.instances:record(app, release, list, { {
    [[INSERT INTO release (app, number, state, image, image_id, digest, config, run, key, created_at)
      VALUES (?, ?, 'created', ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET state = 'created']],
    app.id, release.number, release.image, release.image_id, Images.digest(found, release.image) or db.null,
    release.config, release.run, ctx.key, clock.now() } })
  release = d.store:get("SELECT * FROM release WHERE key = ?", ctx.key)
  self:check_writers(app, spec, release) -- again: another app may have begun to start one as well
  local ok, e = pcall(d.instances.start, d.instances, app, release, self:instances(release), ctx.key, found, net)
  if not ok then error(explain_start(e, release), 0) end
  d.store:post { self:changed(app, release, "created") }
  return self:handle(app, release)
end

-- After a crash: the handle, if every container of this effect was started; else nil.
function Releases:started(ctx)
  local d = self.d
  local release = d.store:get("SELECT * FROM release WHERE key = ? AND state <> 'gone'", ctx.key)
  if not release then return nil end
  local rows = self:instances(release_config.check(release))
  return d.instances:were_started(rows, ctx.key) and self:handle(ctx.app, release) or nil
end

function Releases:mark_healthy(release)
  self.d.store:post {
    { [[UPDATE release SET was_healthy = 1,
      state = CASE state WHEN 'created' THEN 'healthy' ELSE state END WHERE id = ?]], release.id },
    self.d.store:event("release.changed", release.app, nil,
      { number = release.number, state = "healthy" }),
  }
end

-- ---- retiring ----

-- Nothing of the app is live any more; what was serves nobody.
function Releases:offline(app)
  local d, live = self.d, self:live(app)
  d.guard:leave(app)
  if live then
    d.store:commit {
      { "UPDATE app SET live = NULL, updated_at = ? WHERE id = ?", clock.now(), app.id },
      { "UPDATE release SET state = 'draining' WHERE id = ? AND state = 'live'", live.id },
      d.store:event("app.changed", app.id, nil, {}),
    }
  end
  d.apps:set_routes(app, {})
  d.traffic:silence(app)
  d.schedule:look(app)
end

-- Has it all its instances? Not if its removal was interrupted.
local function whole(self, release)
  local count = 0
  for _, process in ipairs(Process.list(release_config.of(release), Process.LONG)) do
    count = count + process.replicas
  end
  return #self:instances(release) >= count
end

-- Raises unhealthy where an instance has ended since it was healthy: nobody is to be sent there. Docker is
-- asked, since one may have died while the daemon was away; while Docker is, what was last known counts. Those
-- that waited for traffic may have it from now on.
function Releases:check_instances(app, release)
  for _, row in ipairs(self:instances(release)) do
    local answered, found = pcall(self.d.docker.inspect, self.d.docker, row.name)
    local running = row.state == "running"
    if answered then running = found and found.State.Running end
    if not running then
      err.raise("unhealthy", ("release %d is not healthy: its instance %s has ended"):format(release.number, row.name),
        ("see its last lines: `ndctl logs %s`; the old version was not touched"):format(app.name))
    elseif row.state ~= "running" then -- or a late word of its last death
      self.d.store:commit { {
        "UPDATE instance SET state = 'running' WHERE id = ? AND state IN ('waiting', 'exited')", row.id } }
    end
  end
end

-- The same, and it has all it is to have.
function Releases:check_runs(app, release)
  if self:live(app) and self:live(app).id == release.id then return end
  self:check_instances(app, release)
  if not whole(self, release) then
    err.raise("unhealthy", ("release %d doesn't have all its instances"):format(release.number), "start it first")
  end
end

function Releases:check_not_live(app, release)
  local live = self:live(app)
  if live and live.id == release.id then
    err.raise("release_live", ("release %d of %s is live and stays"):format(release.number, app.name),
      "switch to another release first")
  end
end

function Releases:retire(app, release, options)
  local d = self.d
  if release_config.check(release).state == "gone" then return json.null end
  self:check_not_live(app, release)
  local drain, keep = options.drain or DRAIN_MS, options.keep or KEEP_MS
  d.store:commit {
    { [[UPDATE release SET state = CASE state WHEN 'kept' THEN 'kept' ELSE 'draining' END,
      drain_until = ?, keep_ms = ?, keep_until = CASE state WHEN 'kept' THEN ? ELSE NULL END
      WHERE id = ?]], clock.now() + drain, keep, clock.now() + keep, release.id } }
  d.drain:take(app, self:by_id(release.id))
  return { release = release.number, drain = drain, keep = keep }
end

-- At the end of a run: retires what it replaced without saying how, removes what it started and did
-- not switch to, and has driven what was retired by somebody who was interrupted. What another run
-- is at is left to that. `run`: its id, or nil.
function Releases:tidy(app, run)
  local ok, e = pcall(function()
    self.d.store:commit {} -- a switch may have been the last thing, and is posted
    if not self.d.store:get([[SELECT 1 AS one FROM run WHERE app = ? AND id IS NOT ?
      AND state IN ('running', 'sleeping', 'rolling_back')]], app.id, run or db.null) then
      self.d.shift:back(app)
      self.d.scale:tidy(app)
    end
    for _, release in ipairs(self.d.store:all([[SELECT release.* FROM release JOIN app ON app.id = release.app
      WHERE app.id = ? AND release.id IS NOT app.live AND release.state IN ('created', 'healthy', 'draining', 'kept')
      AND NOT EXISTS (SELECT 1 FROM run WHERE run.app = app.id AND run.id IS NOT ?
      AND run.state IN ('running', 'sleeping', 'rolling_back'))]], app.id, run or db.null)) do
      local problem = release_config.problem(release)
      if problem then
        log.error(("%s: %s"):format(app.name, problem.message))
      elseif release.state == "draining" and release.drain_until or release.state == "kept" and release.keep_until then
        if not self.d.drain.active[release.id] then self.d.drain:take(app, release) end
      elseif release.state == "draining" or release.state == "kept" then
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

-- Removes a release's containers, with what belongs to them. The row stays, as history.
function Releases:remove(app, release, grace_ms)
  local d = self.d
  d.drain:leave(release_config.check(release))
  d.instances:remove(release, grace_ms)
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
  d.store:commit {}
  release = self:by_id(release.id) -- its time may just have been up
  if release.state == "live" then return self:handle(app, release) end
  self:check_writers(app, release_config.of(release), release)
  if release.state == "gone" or not whole(self, release) then
    self:remove_by_key(app, release.key)
    local image, net, list = d.instances:prepare(app, release, release_config.of(release))
    d.instances:record(app, release, list,
      { { "UPDATE release SET state = 'created' WHERE id = ?", release.id } })
    d.instances:start(app, release, self:instances(release), ctx.key, image, net)
  else
    d.instances:wake(app, release)
  end
  d.store:commit { {
    "UPDATE release SET state = 'healthy', drain_until = NULL, keep_until = NULL WHERE id = ? AND state <> 'live'",
    release.id } }
  return self:handle(app, self:by_id(release.id))
end

-- Stops a release that was brought back in vain, and keeps it.
function Releases:deactivate(app, release)
  if release_config.check(release).state == "live" or release.state == "gone" then return end
  self.d.instances:stop(release)
  self.d.store:commit {
    { "UPDATE release SET state = 'kept', keep_until = ? WHERE id = ?", clock.now() + KEEP_MS, release.id } }
  self.d.drain:take(app, self:by_id(release.id))
end

-- For `recreate`: from here on until the switch nothing serves. The release is still the app's live
-- one, but kept, so that nobody starts it again. One that a person had stopped isn't `was_live`.
function Releases:stop_for_recreate(ctx, release, drain_ms)
  local d, app = self.d, ctx.app
  release_config.check(release)
  local was_live = self:serves(app, release)
  if was_live then
    d.store:commit { { "UPDATE release SET state = 'kept', keep_until = NULL WHERE id = ?", release.id } }
    d.guard:leave(app)
    d.traffic:silence(app)
  end
  d.drain:leave(release)
  d.drain:wait_idle(release, clock.now() + drain_ms)
  d.instances:set_restart(release, "no")
  d.instances:stop(release)
  local handle = self:handle(app, self:by_id(release.id))
  handle.was_live = was_live
  return handle
end

-- Makes a release serve that did so before: it is started where it was stopped, and gets the traffic
-- once it is healthy, or at the latest at its deadline, since nothing better is there.
function Releases:resume(ctx, release)
  local app = ctx.app
  self.d.drain:leave(release_config.check(release))
  self.d.instances:wake(app, release)
  local quiet = { app = app, asked_at = clock.now(), progress = function() end }
  local ok, e = pcall(self.d.health.wait, self.d.health, quiet, release, nil, 0)
  if not ok and e.code == "cancelled" then error(e, 0) end
  self.d.traffic:switch(app, release)
end

-- ---- stop and restart, as a person asks ----

-- Until it is closed, whoever asked for the app's stop sees to it.
function Releases:stops(app)
  self.stopping[app.id] = (self.stopping[app.id] or 0) + 1
  return setmetatable({}, { __close = function()
    local others = self.stopping[app.id] - 1
    self.stopping[app.id] = others > 0 and others or nil
  end })
end

-- Is it as it was before a long wait? Else somebody has decided otherwise, who sees to it.
local function unchanged(self, app, release, stopped)
  app = self.d.apps:by_id(app.id)
  return app and app.live == release.id and app.stopped == stopped
end

function Releases:user_stop(app)
  local d = self.d
  local release = self:live(app)
  if not release then
    err.raise("app_not_live", ("'%s' has no live release to stop"):format(app.name),
      "`ndctl status " .. app.name .. "`")
  end
  release_config.check(release)
  local _ <close> = self:stops(app)
  d.store:commit { { "UPDATE app SET stopped = 1, updated_at = ? WHERE id = ?", clock.now(), app.id } }
  d.guard:leave(app)
  d.traffic:silence(app)
  d.schedule:look(app)
  d.jobs:halt_all(app, "the app was stopped")
  d.drain:wait_idle(release, clock.now() + DRAIN_MS)
  local function wanted() return unchanged(self, app, release, 1) end
  d.instances:stop(release, nil, wanted)
  if not wanted() then return end
  d.store:commit { d.store:event("app.changed", app.id, nil, { status = "stopped" }) }
end

function Releases:user_start(app)
  local d = self.d
  local release = self:live(app)
  if not release then
    err.raise("app_not_live", ("'%s' has no release to start"):format(app.name),
      "`ndctl deploy IMAGE --app " .. app.name .. "`")
  end
  release_config.check(release)
  d.guard:leave(app)
  d.store:commit { { "UPDATE app SET stopped = 0, updated_at = ? WHERE id = ?", clock.now(), app.id } }
  local function wanted() return unchanged(self, app, release, 0) end
  d.instances:wake(app, release, wanted)
  if not wanted() then return end
  local quiet = { app = app, progress = function() end, asked_at = clock.now() }
  local ok, e = pcall(d.health.wait, d.health, quiet, release, nil, 0)
  if not wanted() then return end
  d.traffic:retarget(app)
  d.guard:watch(app, release)
  d.schedule:look(app)
  if not ok then error(e, 0) end
  d.store:commit { d.store:event("app.changed", app.id, nil, { status = "running" }) }
end

return Releases
