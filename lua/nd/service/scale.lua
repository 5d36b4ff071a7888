-- Changing how many instances of a process the live release has, without a new release.
--
-- Three steps, each of which may be done again after a crash: new instances are started without
-- traffic (`grow`), the number is recorded and traffic goes to that many (`set`), those beyond it
-- are drained and removed (`trim`).

local clock = require "clock"
local json = require "json"
local err = require "nd.error"
local tasks = require "nd.tasks"
local Process = require "nd.service.process"
local release_config = require "nd.service.release_config"

local DRAIN_MS = 30 * 1000

local Scale = {}
Scale.__index = Scale

function Scale.new(d) return setmetatable({ d = d }, Scale) end

-- The release's configuration with that many replicas; raises where there can't be.
function Scale:config(app, release, name, count)
  local config = release_config.of(release)
  local names = {}
  for _, process in ipairs(Process.list(config, Process.LONG)) do names[#names + 1] = process.name end
  local near = err.nearest(name, names)
  local process = Process.of(config, name)
  if not process or not Process.LONG[process.kind] then
    err.raise("process_not_found", ("'%s' has no process '%s' that could be scaled"):format(app.name, name),
      near and ("did you mean '%s'?"):format(near) or "its processes are " .. table.concat(names, ", "))
  end
  local least = name == "web" and 1 or 0
  if math.type(count) ~= "integer" or count < least or count > 20 then
    err.raise("bad_request", ("replicas: %s must be %d to 20, got %s"):format(name, least, tostring(count)),
      least == 1 and "`ndctl stop` takes an app down" or nil)
  end
  Process.set_replicas(config, name, count)
  if count > process.replicas then self.d.releases:check_writers(app, config, release) end
  return config, process.replicas
end

-- Only what is live is scaled.
function Scale:check_live(app, release)
  local live = self.d.releases:live(app)
  if live and live.id == release.id and app.stopped == 0 then return end
  err.raise("app_not_live", ("release %d of %s is not live"):format(release.number, app.name),
    "`ndctl status " .. app.name .. "`")
end

-- The release with its new instances, which have no traffic yet.
local function grown(self, ctx, release, rows)
  local handle = self.d.releases:handle(ctx.app, release)
  handle.instances, handle.grown = json.array {}, true
  for i, row in ipairs(rows) do
    handle.instances[i] = { name = row.name, address = row.address, process = row.process, index = row.position }
  end
  return handle
end

local function grow(self, ctx, release, counts)
  return grown(self, ctx, release, self.d.instances:grow(ctx.app, release, counts, ctx.key))
end

-- After a crash: what `grow` or `fill` would have returned, if all was started; else nil.
function Scale:grew(ctx, release, name)
  local rows = self.d.instances:growing(release)
  if not self.d.instances:were_started(rows, ctx.key, "waiting") then return nil end
  local handle = grown(self, ctx, release, rows)
  if name then handle.process, handle.before = name, Process.of(release_config.of(release), name).replicas end
  return handle
end

function Scale:grow(ctx, release, name, count)
  self:check_live(ctx.app, release)
  local _, before = self:config(ctx.app, release, name, count)
  local handle = grow(self, ctx, release, { [name] = count })
  handle.process, handle.before = name, before
  return handle
end

-- What a release that was started with a part of its instances lacks to so many of each process.
function Scale:fill(ctx, release, count)
  self.d.releases:check_not_live(ctx.app, release)
  local counts = {}
  for _, process in ipairs(Process.list(release_config.of(release), Process.LONG)) do
    counts[process.name] = math.min(count, process.replicas)
  end
  return grow(self, ctx, release, counts)
end

-- The rows of the instances that `grow` or `fill` has started, whatever has become of them.
function Scale:grown(release, handle)
  self.d.store:commit {} -- that they run may just have been found out
  local named, rows = {}, {}
  for _, instance in ipairs(handle.instances) do named[instance.name] = true end
  for _, row in ipairs(self.d.releases:instances(release)) do
    if named[row.name] then rows[#rows + 1] = row end
  end
  if #rows < #handle.instances then
    err.raise("unhealthy", ("of the %d new instances of release %d there are %d"):format(#handle.instances,
      release.number, #rows), "somebody removed one; `ndctl scale` starts it anew")
  end
  return rows
end

-- -> the release as it was, the result
local function record(self, app, id, name, count, happened)
  local d = self.d
  local _ <close> = d.traffic:hold(app)
  local release = d.releases:by_id(id)
  local config, before = self:config(app, release, name, count)
  local result = { release = release.number, process = name, before = before, replicas = count }
  d.store:commit {
    { "UPDATE release SET config = ? WHERE id = ?", json.encode(config), id },
    { "UPDATE instance SET state = 'running' WHERE release = ? AND process = ? AND state = 'waiting'", id, name },
    d.store:event("app.scaled", app.id, nil, { process = name, from = before, to = count }),
    happened and happened(result),
  }
  return release, result
end

local function set(self, app, release, name, count, happened)
  local d = self.d
  local was, result = record(self, app, release.id, name, count, happened)
  local ok, e = pcall(d.traffic.retarget, d.traffic, app)
  if not ok then -- the effect has left nothing behind; what was grown, its undo removes
    d.store:commit { { "UPDATE release SET config = ? WHERE id = ?", was.config, was.id }, happened and happened() }
    error(e, 0)
  end
  d.instances:set_restart(d.releases:by_id(release.id), "unless-stopped")
  return result
end

-- Number and traffic belong together: whoever cancels meanwhile comes too late. Its last argument may be
-- happened(result), which makes a statement that goes with it.
function Scale:set(...) return tasks.whole("scale", set, self, ...) end

-- Drains and removes what is beyond the recorded number.
function Scale:trim(release, name, drain_ms)
  local d = self.d
  local keep, rows = Process.of(release_config.of(release), name).replicas, {}
  for _, row in ipairs(d.releases:instances(release)) do
    if row.process == name and row.position > keep then rows[#rows + 1] = row end
  end
  if #rows == 0 then return { removed = 0 } end
  local cut = d.drain:wait_idle(release, clock.now() + (drain_ms or DRAIN_MS), rows)
  d.instances:stop(release, rows)
  d.instances:remove(release, 0, rows)
  return { removed = #rows, cut = cut }
end

-- What a run that has ended left too many of, because Docker was away when it should have trimmed.
function Scale:tidy(app)
  local live = self.d.releases:live(app)
  if not live then return end
  for _, process in ipairs(Process.list(release_config.of(live), Process.LONG)) do self:trim(live, process.name) end
end

return Scale
