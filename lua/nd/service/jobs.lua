-- Jobs: containers that run one command and end. Release commands, firings of a schedule, and what
-- a person asks for.
--
-- A job is a row, keyed by what asked for it ("run/n", "cron/app/process/due"): durable before
-- Docker hears of it, so that it is started once; found by its container's name after a crash, so
-- that its exit status isn't lost. `drive` takes a job to its end from wherever it is.
--
--   starting -> running -> done (exit status 0) | failed;   skipped: the one before still ran

local clock = require "clock"
local db = require "db"
local fault = require "fault"
local json = require "json"
local log = require "log"
local task = require "task"
local container = require "nd.service.container"
local err = require "nd.error"
local policy = require "nd.service.policy"
local tasks = require "nd.tasks"
local Apps = require "nd.service.app"
local Process = require "nd.service.process"
local release_config = require "nd.service.release_config"

local TIMEOUT_MS = 60 * 60 * 1000
local GRACE_MS = 10 * 1000
local OUTPUT_LINES = 100
local OUTPUT_BYTES = 32 * 1024
local RETRY_MS = 500
local KEEP = 200            -- ended jobs of an app, and the last firing of each schedule

local Jobs = {}
Jobs.__index = Jobs

function Jobs.new(d) return setmetatable({ d = d, driven = {}, ended = task.signal() }, Jobs) end

-- ---- rows ----

function Jobs:by_key(key) return self.d.store:get("SELECT * FROM job WHERE key = ?", key) end

function Jobs:get(id)
  local row = self.d.store:get("SELECT * FROM job WHERE id = ?", id)
  if not row then
    err.raise("job_not_found", ("there is no job %s"):format(tostring(id)), "`ndctl job list APP` shows them")
  end
  return row
end

-- Is this container's name one of ours that isn't gone?
function Jobs:owns(name)
  return self.d.store:get("SELECT 1 AS one FROM job WHERE name = ? AND gone_at IS NULL", name) ~= nil
end

function Jobs:event(job, kind, data)
  data.id, data.process, data.trigger = job.id, job.process, job.trigger
  return self.d.store:event(kind, job.app, job.run, data)
end

-- request: {app, key, trigger = "release" | "cron" | "person", process = settings, release = row of
-- the release it belongs to or nil, image, image_id, number (of that release, or the one to be),
-- suffix (of the container's name), owner, due_at, run}. Returns the row; where the key is known,
-- that one, and false.
function Jobs:record(request)
  local d, app, process = self.d, request.app, request.process
  local address = d.network:container_address(Apps.net(app), d.instances:addresses(app))
  local ok, e = pcall(d.store.try, d.store, {
    { [[INSERT INTO job (app, release, process, trigger, key, due_at, run, owner, name, address, command, image,
        image_id, number, timeout, state, created_at)
      VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'starting', ?)]], app.id,
      request.release and request.release.id or db.null, process.name, request.trigger, request.key,
      request.due_at or db.null, request.run or db.null, request.owner or db.null,
      container.name(d, app, request.number, process.name, request.suffix), address,
      json.encode(process.command or json.array {}), request.image, request.image_id, request.number,
      process.timeout or TIMEOUT_MS, clock.now() },
  })
  if not ok and e.code ~= "constraint" then error(e, 0) end
  return self:by_key(request.key), ok
end

-- A firing that comes to nothing, kept in the list.
function Jobs:skip(app, release, process, key, due_at, reason)
  pcall(self.d.store.try, self.d.store, { {
    [[INSERT INTO job (app, release, process, trigger, key, due_at, name, address, command, image, image_id,
      number, timeout, state, error, created_at, ended_at, gone_at)
      VALUES (?, ?, ?, 'cron', ?, ?, '', '', '[]', ?, ?, ?, 0, 'skipped', ?, ?, ?, ?)]],
    app.id, release.id, process.name, key, due_at, release.image, release.image_id, release.number,
    json.encode(reason), clock.now(), clock.now(), clock.now() } })
end

-- ---- its container ----

function Jobs:start(job, settings)
  local d = self.d
  local app = d.apps:by_id(job.app)
  local found = d.docker:inspect(job.name)
  if found then
    d.docker:remove(job.name, { force = true })
    container.end_strays(found.Id)
  end
  local image = d.docker:image(job.image_id)
  if not image then
    err.raise("image_not_found", ("the image %s is no longer on this host"):format(job.image),
      ("deploy it again: `ndctl deploy %s --app %s`"):format(job.image, app.name))
  end
  local net = d.network:ensure_bridge(Apps.net(app))
  container.put_secrets(d, job.name, app, settings.secrets)
  settings.command = json.decode(job.command)
  local id = d.docker:create(job.name, container.spec(d, app,
    { image_id = job.image_id, number = job.number, run = job.run }, image, settings,
    { name = job.name, address = job.address, process = job.process, position = job.id }, net, job.key))
  fault.hit "job.created"
  d.logs:attach({ name = job.name, app = app.id, app_name = app.name, number = job.number }, id)
  d.docker:start(id)
  d.store:post {
    { "UPDATE job SET state = 'running', container = ?, started_at = ? WHERE id = ?", id, clock.now(), job.id },
    self:event(job, "job.started", {}),
  }
  fault.hit "job.started"
end

-- Its last lines.
function Jobs:last_lines(job)
  local lines, bytes = json.array {}, 0
  pcall(function()
    local stream <close> = self.d.docker:logs(job.name, { tail = OUTPUT_LINES, timestamps = false })
    for line in function() return (stream:recv(2000)) end do
      lines[#lines + 1] = self.d.redaction:text(job.app, line)
    end
  end)
  for i = #lines, 1, -1 do
    bytes = bytes + #lines[i]
    if bytes > OUTPUT_BYTES then return json.array(table.move(lines, i + 1, #lines, 1, {})) end
  end
  return lines
end

-- Waits for the container's end, through restarts of Docker; -> exit status, or raises job_timeout.
function Jobs:wait_container(job)
  local d = self.d
  local until_ms = (job.started_at or clock.now()) + job.timeout
  while true do
    local left = until_ms - clock.now()
    if left <= 0 then
      err.raise("job_timeout", ("it did not end within %s"):format(require "nd.duration".text(job.timeout)),
        "give it a longer `timeout`")
    end
    local ok, code = pcall(tasks.timeout, left, err.new("timeout", job.name), function()
      return d.docker:wait(job.name)
    end)
    if ok then return code end
    if code.code == "cancelled" then error(code, 0) end
    if code.code == "docker_not_found" then
      err.raise("job_lost", "its container was removed by somebody else; nobody knows how it ended")
    end
    if code.code ~= "timeout" then task.sleep(RETRY_MS) end
  end
end

-- Removes what belongs to a job that has ended.
function Jobs:remove(job)
  local d = self.d
  local ok, e = pcall(d.docker.remove, d.docker, job.name, { force = true, volumes = true })
  -- docker_conflict: it is being removed already, by the sweep at a start
  if not ok and e.code ~= "docker_not_found" and e.code ~= "docker_conflict" then error(e, 0) end
  container.drop_secrets(d, job.name)
  pcall(d.network.container_gone, d.network, job.address)
  d.store:post { { "UPDATE job SET gone_at = ? WHERE id = ?", clock.now(), job.id } }
end

-- Records how it ended, before its container goes.
function Jobs:finish(job, code, problem)
  local d = self.d
  local lines = self:last_lines(job)
  d.store:commit {
    { [[UPDATE job SET state = ?, exit_code = ?, error = ?, output = ?, ended_at = ?
      WHERE id = ? AND ended_at IS NULL]], code == 0 and not problem and "done" or "failed", code or db.null,
      problem and json.encode(problem) or db.null, json.encode(lines), clock.now(), job.id },
    { [[DELETE FROM job WHERE app = ?1 AND gone_at IS NOT NULL
      AND id NOT IN (SELECT id FROM job WHERE app = ?1 ORDER BY id DESC LIMIT ?2)
      AND id NOT IN (SELECT max(id) FROM job WHERE app = ?1 AND trigger = 'cron' GROUP BY process)]], job.app, KEEP },
    self:event(job, "job.ended", { exit_code = code, error = problem and problem.message }),
  }
  fault.hit "job.recorded"
  self:remove(job)
  self.ended:notify()
end

-- ---- from here to its end ----

-- Takes the job to its end and returns its row. `settings()`: what its container is made with.
-- on_line(text, stream, number): each line as it is printed.
function Jobs:drive(job, settings, on_line)
  if job.ended_at then
    if not job.gone_at then self:remove(job) end
    return self:get(job.id)
  end
  local listener
  local ok, code = pcall(function()
    local started = job.state == "running" or container.was_started(self.d.docker:inspect(job.name))
    if not started then self:start(job, settings()) end
    if on_line then listener = task.spawn("job output", function() self:listen(job, on_line) end) end
    return self:wait_container(self:get(job.id))
  end)
  if not ok and (code.code == "cancelled" or self.d.stopping) then
    if listener then listener:cancel() end
    error(code, 0)
  end
  if listener and not listener:wait(RETRY_MS) then listener:cancel() end
  local problem = not ok and err.from(code) or nil
  if problem then
    log.info(("job %d (%s of %s): %s"):format(job.id, job.process, job.name, problem.message))
    pcall(self.d.docker.stop, self.d.docker, job.name, GRACE_MS // 1000)
  end
  self:finish(job, ok and code or nil, problem)
  return self:get(job.id)
end

function Jobs:listen(job, on_line)
  local number = 0
  pcall(function()
    local stream <close> = self.d.docker:logs(job.name, { follow = true, tail = 10000 })
    for line, name in function() return stream:recv() end do
      number = number + 1
      on_line(self.d.redaction:text(job.app, line), name, number)
    end
  end)
end

-- Ends a job that is under way, and leaves nothing of it: SIGTERM, grace, SIGKILL.
function Jobs:abort(job, why)
  if job.ended_at then return job.gone_at or self:remove(job) end
  pcall(self.d.docker.stop, self.d.docker, job.name, GRACE_MS // 1000)
  local found = self.d.docker:inspect(job.name)
  local code = container.was_started(found) and found.State.ExitCode or nil
  self:finish(job, code, { code = "cancelled", message = why })
end

-- Drives it in a task of its own.
function Jobs:go(job, settings)
  self.driven[job.id] = task.spawn("job " .. job.id, function()
    local ok, e = pcall(self.drive, self, job, settings)
    self.driven[job.id] = nil
    if not ok and e.code ~= "cancelled" then log.error(("job %d: %s"):format(job.id, tostring(e))) end
  end)
end

-- The settings of a job that belongs to a release, as `drive` takes them.
function Jobs:settings_of(job)
  return function()
    local d = self.d
    local release = d.releases:by_id(job.release)
    return d.instances:settings(d.apps:by_id(job.app), release_config.of(release), job.process)
  end
end

-- Starts a process of the app's live release, as `record` takes it; returns the job's row.
function Jobs:launch(app, release, process, request)
  request.app, request.release, request.process = app, release, process
  request.image, request.image_id, request.number = release.image, release.image_id, release.number
  local job, fresh = self:record(request)
  if fresh then self:go(job, self:settings_of(job)) end
  return job
end

function Jobs:cancel(id, who)
  local job = self:get(id)
  if job.ended_at then
    err.raise("job_ended", ("the job %d has ended: %s"):format(id, job.state), "`ndctl job show " .. id .. "`")
  end
  if job.trigger == "release" then
    err.raise("job_of_run", ("the job %d is a step of the run %s"):format(id, job.run),
      "`ndctl runs cancel " .. job.run .. "`")
  end
  self:halt(job, "cancelled by " .. who)
  return self:get(id)
end

function Jobs:halt(job, why)
  local driver = self.driven[job.id]
  if driver then
    driver:cancel()
    driver:wait()
  end
  self:abort(self:get(job.id), why)
end

local UNDER_WAY = "SELECT * FROM job WHERE ended_at IS NULL AND trigger <> 'release'"

-- The app is stopped or destroyed: so are its jobs.
function Jobs:halt_all(app, why)
  tasks.each("halt", self.d.store:all(UNDER_WAY .. " AND app = ?", app.id), function(job)
    self:halt(job, why)
  end)
end

-- Waits until a job has ended; returns its row.
function Jobs:wait(job)
  while not job.ended_at do
    self.ended:wait(1000)
    job = self:get(job.id)
  end
  return job
end

-- At start: what was under way goes on. A release command is its run's.
function Jobs:resume()
  for _, job in ipairs(self.d.store:all(UNDER_WAY)) do self:go(job, self:settings_of(job)) end
end

-- What has ended and isn't gone, since Docker was away.
function Jobs:sweep()
  for _, job in ipairs(self.d.store:all "SELECT * FROM job WHERE ended_at IS NOT NULL AND gone_at IS NULL") do
    if not self.driven[job.id] then self:go(job) end
  end
  for _, job in ipairs(self.d.store:all [[SELECT job.* FROM job JOIN run ON run.id = job.run
    WHERE job.ended_at IS NULL AND run.ended_at IS NOT NULL]]) do
    self:abort(job, "its run has ended")
  end
end

-- ---- the release command ----

local function release_result(job)
  local lines = json.decode(job.output or "[]")
  if job.state == "done" then return { exit_code = 0, job = job.id, ms = job.ended_at - job.created_at } end
  local problem = job.error and json.decode(job.error)
  if problem and problem.code == "cancelled" then error(err.new("cancelled", problem.message), 0) end
  err.raise("release_failed", problem and "the release command failed: " .. problem.message
    or ("the release command ended with exit status %d"):format(job.exit_code),
    problem and problem.hint or "its last lines say why; nothing was switched",
    { logs = lines, exit_code = job.exit_code, job = job.id, command = json.decode(job.command) })
end

-- Runs a configuration's release command in a container of the new image, once for this effect, and
-- raises release_failed unless it ends well. What it prints becomes part of the run's story.
function Jobs:release_command(ctx, image, config)
  local d, app = self.d, ctx.app
  local job = self:by_key(ctx.key)
  policy.enforce(d, ctx.run.row.owner, app.name, config)
  job = job or self:record { app = app, key = ctx.key, trigger = "release",
    process = Process.of(config, "release"), image = image.image or image.id, image_id = image.id,
    number = d.releases:next_number(app),
    suffix = ctx.key:gsub("/", "-"), run = ctx.run.row.id }
  local told = d.store:get("SELECT count(*) AS n FROM event WHERE run = ? AND kind = 'run.output'",
    ctx.run.row.id).n
  job = self:drive(job, function() return d.instances:settings(app, config, "release") end,
    function(line, stream, number)
      if number <= told then return end
      d.store:post { ctx.run:event("run.output", { n = ctx.n, text = line, stream = stream }) }
    end)
  return release_result(job)
end

-- Leaves nothing of the release command of an effect.
function Jobs:release_clean(ctx)
  local job = self:by_key(ctx.key)
  if job then self:abort(job, "the run was cancelled") end
end

-- ---- for people ----

function Jobs:describe(job, whole)
  local app = self.d.apps:by_id(job.app)
  local function time(ms) return ms and clock.format(ms) or nil end
  return {
    id = job.id, app = app.name, project = app.project, environment = app.environment,
    process = job.process, trigger = job.trigger, state = job.state, release = job.number,
    image = job.image, exit_code = job.exit_code, owner = job.owner, run_id = job.run,
    error = job.error and json.decode(job.error) or nil, command = json.decode(job.command),
    due_at = time(job.due_at), created_at = time(job.created_at), started_at = time(job.started_at),
    ended_at = time(job.ended_at), output = whole and job.output and json.decode(job.output) or nil,
  }
end

function Jobs:list(filter)
  local where, args = { "1 = 1" }, {}
  for column, value in pairs { ["job.app"] = filter.app_id or false, ["job.process"] = filter.process or false,
    ["job.state"] = filter.state or false, ["app.project"] = filter.project or false,
    ["app.environment"] = filter.environment or false } do
    if value then
      where[#where + 1] = column .. " = ?"
      args[#args + 1] = value
    end
  end
  if filter.seen then
    where[#where + 1] = filter.seen.sql
    table.move(filter.seen.args, 1, #filter.seen.args, #args + 1, args)
  end
  args[#args + 1] = filter.limit or 20
  local list = json.array {}
  for i, row in ipairs(self.d.store:all(([[SELECT job.* FROM job JOIN app ON app.id = job.app
    WHERE %s ORDER BY job.id DESC LIMIT ?]]):format(table.concat(where, " AND ")), table.unpack(args))) do
    list[i] = self:describe(row)
  end
  return list
end

return Jobs
