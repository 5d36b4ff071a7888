-- The containers of a release: created, started, woken, stopped, removed. Each is a row, durable
-- before Docker hears of it, so that after a crash it is found by its name: Docker is asked by that, since
-- the id in a row may be of a container before. One at a time wakes, stops or removes it, and asks in its
-- turn whether that is still `wanted(row)`.

local clock = require "clock"
local fault = require "fault"
local log = require "log"
local container = require "nd.service.container"
local tasks = require "nd.tasks"
local Apps = require "nd.service.app"
local Process = require "nd.service.process"
local release_config = require "nd.service.release_config"

local GRACE_MS = 10 * 1000

local Instances = {}
Instances.__index = Instances

function Instances.new(d) return setmetatable({ d = d, turns = tasks.lock() }, Instances) end

-- The addresses on the app's network that are taken.
function Instances:addresses(app)
  local used = {}
  for _, row in ipairs(self.d.store:all([[SELECT address FROM instance JOIN release
    ON release.id = instance.release WHERE release.app = ?1 AND gone_at IS NULL
    UNION SELECT address FROM job WHERE app = ?1 AND gone_at IS NULL]], app.id)) do
    used[#used + 1] = row.address
  end
  return used
end

-- The settings with which a process's containers are made. In an app of several processes each is
-- told where the others answer.
function Instances:settings(app, config, name)
  local settings = Process.of(config, name)
  if not config.processes then return settings end
  for _, service in ipairs(Process.services(config)) do
    local variable = Process.address_name(service.process)
    settings.env[variable] = settings.env[variable]
      or self.d.network:service(Apps.service(app, service.process, service.port)).at
  end
  return settings
end

-- Side by side, since each asks somebody else: the image, the network, and an address for each
-- instance to come, at most so many of a process. -> image, net, {{name, address, process, position}}
function Instances:prepare(app, release, config, most)
  local d, key = self.d, Apps.net(app)
  local image, net, list
  tasks.all("prepare", {
    function() image = self.d.images:of(app, release) end,
    function() net = d.network:ensure_bridge(key) end,
    function()
      local used = self:addresses(app)
      list = {}
      for _, process in ipairs(Process.list(config, Process.LONG)) do
        for position = 1, math.min(process.replicas, most or process.replicas) do
          local address = d.network:container_address(key, used)
          used[#used + 1] = address
          list[#list + 1] = { name = container.name(d, app, release.number, process.name, position),
            address = address, process = process.name, position = position }
        end
      end
    end,
  })
  return image, net, list
end

-- Makes the instances durable together with `statements`, and then their secrets' directories: what a row
-- doesn't name, nobody would remove.
function Instances:record(app, release, list, statements)
  for _, i in ipairs(list) do
    statements[#statements + 1] = {
      [[INSERT INTO instance (release, process, position, name, address, state)
        VALUES ((SELECT id FROM release WHERE key = ?), ?, ?, ?, ?, 'starting')]],
      release.key, i.process, i.position, i.name, i.address }
  end
  self.d.store:commit(statements)
  local secrets = release_config.of(release).secrets
  for _, i in ipairs(list) do container.put_secrets(self.d, i.name, app, secrets) end
end

-- The name says whose it is: what has it already is a leftover of a crash.
function Instances:create(name, spec)
  local d = self.d
  local ok, result = pcall(d.docker.create, d.docker, name, spec)
  if ok then return result end
  if result.code ~= "docker_conflict" then error(result, 0) end
  d.docker:remove(name, { force = true })
  return d.docker:create(name, spec)
end

-- From here on this is the instance's container: Docker's events and its log are known by the id.
local function take(d, row, id)
  d.store:post { { "UPDATE instance SET container = ? WHERE id = ?", id, row.id } }
  d.logs:attach(row, id)
end

-- Creates and starts the containers of these instance rows of a release, side by side; then they are
-- `running`, or of another state that is said.
function Instances:start(app, release, rows, key, image, net, state)
  local d = self.d
  local config = release_config.of(release)
  tasks.each("start", rows, function(instance)
    local id = self:create(instance.name, container.spec(d, app, release, image,
      self:settings(app, config, instance.process), instance, net, key))
    fault.hit "container.created"
    take(d, instance, id)
    d.docker:start(id)
    fault.hit "container.started"
    d.store:post { {
      "UPDATE instance SET state = ?, started_at = ? WHERE id = ? AND state = 'starting'",
      state or "running", clock.now(), instance.id } }
  end)
end

-- After a crash: whether the containers of these rows were started, all of them, by the effect with this key;
-- then they are `running`, or of another state that is said.
function Instances:were_started(rows, key, state)
  local d, statements = self.d, {}
  for i, row in ipairs(rows) do
    local found = d.docker:inspect(row.name)
    if not container.was_started(found) or found.Config.Labels["nextdeploy.key"] ~= key then return false end
    statements[i] = { "UPDATE instance SET container = ?, state = ?, started_at = coalesce(started_at, ?) WHERE id = ?",
      found.Id, found.State.Running and (state or "running") or "exited", clock.now(), row.id }
  end
  if #rows > 0 then d.store:post(statements) end
  return #rows > 0
end

-- Removes what `grow` has started and nobody gave traffic to.
function Instances:shrink(release)
  local rows = self:growing(release)
  if #rows == 0 then return end
  self:remove(release, 0, rows)
  self.d.store:commit {} -- whoever looks now finds them gone
end

function Instances:growing(release)
  local rows = {}
  for _, row in ipairs(self.d.releases:instances(release)) do
    if row.state == "starting" or row.state == "waiting" then rows[#rows + 1] = row end
  end
  return rows
end

-- Starts what a release lacks to so many instances of its processes ({[name] = count}); they are
-- `waiting`, without traffic. Returns their rows.
function Instances:grow(app, release, counts, key)
  local d, net_key = self.d, Apps.net(app)
  self:shrink(release) -- what a crash has left
  local there, used, list = {}, self:addresses(app), {}
  for _, row in ipairs(d.releases:instances(release)) do there[row.name] = true end
  for process, count in pairs(counts) do
    for position = 1, count do
      local name = container.name(d, app, release.number, process, position)
      if not there[name] then
        local address = d.network:container_address(net_key, used)
        used[#used + 1] = address
        list[#list + 1] = { name = name, address = address, process = process, position = position }
      end
    end
  end
  if #list == 0 then return list end
  self:record(app, release, list, {})
  local rows = {}
  for _, row in ipairs(d.releases:instances(release)) do
    if row.state == "starting" then rows[#rows + 1] = row end
  end
  self:start(app, release, rows, key, self.d.images:of(app, release), d.network:ensure_bridge(net_key), "waiting")
  d.store:commit {}
  return rows
end

-- Docker restarts the live release's instances, and no others. While it is away nothing can be done; that
-- is made up for when it is back (watch.lua).
function Instances:set_restart(release, policy)
  for _, row in ipairs(self.d.releases:instances(release)) do
    local ok, e
    for _ = 1, 2 do -- a connection that broke says nothing of the next
      ok, e = pcall(self.d.docker.update, self.d.docker, row.name, { RestartPolicy = { Name = policy } })
      if ok or e.code == "docker_not_found" then break end
      if e.code == "cancelled" then error(e, 0) end
    end
    if not ok and e.code ~= "docker_not_found" then
      log.warn(("can't set the restart policy of %s: %s"):format(row.name, tostring(e)))
    end
  end
end

-- How long a process may take from SIGTERM to its end.
function Instances.grace(_, release, name)
  if release.damaged then return GRACE_MS end
  local process = Process.of(release_config.of(release), name)
  return process and process.grace or GRACE_MS
end

-- In its turn: the row as it is now; nil where the instance is gone.
function Instances:now(row)
  self.d.store:commit {}
  return self.d.store:get("SELECT * FROM instance WHERE id = ? AND gone_at IS NULL", row.id)
end

-- SIGTERM, grace, SIGKILL; the containers stay. `rows`: some of the release's instances, else all.
function Instances:stop(release, rows, wanted)
  tasks.each("stop", rows or self.d.releases:instances(release), function(row)
    local _ <close> = self.turns:hold(row.id)
    row = self:now(row)
    if not row or wanted and not wanted(row) then return end
    self.d.store:commit { { "UPDATE instance SET state = 'stopping' WHERE id = ? AND state = 'running'", row.id } }
    self.d.network:container_stops(row.address)
    local grace = self:grace(release, row.process)
    local ok, e = pcall(self.d.docker.stop, self.d.docker, row.name, math.ceil(grace / 1000))
    if not ok and e.code ~= "docker_not_found" then error(e, 0) end
    self.d.store:post { { "UPDATE instance SET state = 'exited' WHERE id = ?", row.id } }
  end)
end

local function remove_container(d, row)
  local doubtful = d.watch:was_away(row.started_at) -- it may have forgotten a process of it
  local found = doubtful and d.docker:inspect(row.name)
  local ok, e = pcall(d.docker.remove, d.docker, row.name, { force = true, volumes = true })
  if not ok and e.code ~= "docker_not_found" then error(e, 0) end
  local id = found and found.Id or row.container
  if not doubtful or not id then return end
  local strays = container.end_strays(id)
  if strays > 0 then log.warn(("%s: ended %d processes that Docker had forgotten"):format(row.name, strays)) end
end

-- Removes containers of a release with what belongs to them: all, or those of `rows`.
function Instances:remove(release, grace_ms, rows)
  local d = self.d
  d.store:commit {}
  tasks.each("remove", rows or d.releases:instances(release), function(row)
    if grace_ms > 0 and (row.state == "running" or row.state == "stopping") then
      pcall(d.docker.stop, d.docker, row.name, math.ceil(grace_ms / 1000))
    end
    local _ <close> = self.turns:hold(row.id) -- after that, which may end a longer stop's turn
    row = self:now(row)
    if not row then return end
    remove_container(d, row)
    container.drop_secrets(d, row.name)
    pcall(d.network.container_gone, d.network, row.address)
    d.store:post { { "UPDATE instance SET state = 'gone', gone_at = ? WHERE id = ?", clock.now(), row.id } }
  end)
end

-- Starts the stopped containers of a release (all, or those of `rows`); makes anew those that are gone
-- or broken. It counts as no restart of theirs.
function Instances:wake(app, release, wanted, rows)
  local d = self.d
  tasks.each("wake", rows or d.releases:instances(release), function(row)
    local _ <close> = self.turns:hold(row.id)
    row = self:now(row)
    if not row or wanted and not wanted(row) then return end
    d.network:ensure_bridge(Apps.net(app))
    container.put_secrets(d, row.name, app, release_config.of(release).secrets)
    local found = d.docker:inspect(row.name)
    local ok, e = false, nil
    if found and row.state == "stopping" then -- SIGTERM is on its way: it ends first
      pcall(d.docker.stop, d.docker, found.Id, math.ceil(self:grace(release, row.process) / 1000))
    end
    if found then
      take(d, row, found.Id)
      ok, e = pcall(d.docker.start, d.docker, found.Id)
    end
    if not ok and e and e.code == "cancelled" then error(e, 0) end
    if not ok then
      if e then log.warn(("%s can't be started again, making it anew: %s"):format(row.name, tostring(e))) end
      self:recreate(app, release, row)
    end
    d.store:post { { "UPDATE instance SET state = 'running', started_at = ?, restarts = ? WHERE id = ?",
      clock.now(), row.restarts, row.id } }
  end)
  d.store:commit {}
end

-- Writes what secrets its instances have that differ from what they should.
function Instances:refill(app, release)
  for _, row in ipairs(self.d.releases:instances(release)) do
    container.put_secrets(self.d, row.name, app, release_config.of(release).secrets)
  end
end

-- At the daemon's start, before any container: a reboot has emptied the tmpfs, a crash may have come while
-- secrets were exchanged.
function Instances:refill_all()
  local d = self.d
  for _, release in ipairs(d.store:all "SELECT * FROM release WHERE state NOT IN ('gone', 'kept')") do
    local config = release_config.problem(release) and {} or release_config.of(release)
    local ok, e = true, nil
    if config.secrets then ok, e = pcall(self.refill, self, d.apps:by_id(release.app), release) end
    if not ok then log.error(("release %d: its secrets are not in place: %s"):format(release.number, tostring(e))) end
  end
end

-- A container that Docker can't start any more is removed and created anew, never restarted.
function Instances:recreate(app, release, row)
  local d = self.d
  pcall(d.docker.remove, d.docker, row.name, { force = true })
  local image = self.d.images:of(app, release)
  local net = d.network:ensure_bridge(Apps.net(app))
  container.put_secrets(d, row.name, app, release_config.of(release).secrets)
  local id = d.docker:create(row.name, container.spec(d, app, release, image,
    self:settings(app, release_config.of(release), row.process), row, net, release.key))
  take(d, row, id)
  d.docker:start(id)
end

return Instances
