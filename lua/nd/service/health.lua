-- Probes: is this instance able to serve?
--
-- A probe is {path, port, status, body} for HTTP (GET; 200-399 or `status`; the body contains
-- `body`), {tcp = true} (something accepts), {command = {...}} (run in the container through
-- nd-init, status 0), or {up = ms} (it has run so long, which is how workers are probed); its fields
-- are in lua/nd/recipe/health.lua. Times are ms here.
-- Probes go straight to the container's address.
--
-- While a release has never answered, refused connections are tried again after 20 ms, then ever
-- more slowly up to the interval, so that an app that is ready at once is seen at once.

local clock = require "clock"
local http = require "http"
local json = require "json"
local task = require "task"
local container = require "nd.service.container"
local duration = require "nd.duration"
local err = require "nd.error"
local tasks = require "nd.tasks"
local Process = require "nd.service.process"
local release_config = require "nd.service.release_config"

local LOG_LINES = 50
local PROBES_SHOWN = 20
local FIRST_WAIT_MS = 20

local Health = {}
Health.__index = Health

function Health.new(d) return setmetatable({ d = d }, Health) end

local defaults = { interval = 1000, timeout = 5000, deadline = 60000, grace = 0, successes = 1,
  failures = 3 }

-- How a process is probed that doesn't say it.
local function usual(process)
  if process.kind == "web" then return { path = "/" } end
  return process.port and { tcp = true } or { up = 2000 }
end

-- For one process of a release: what the caller asks for (of the process web), else what the
-- configuration says, else the defaults; field by field, but a way to probe that is named stands
-- alone.
function Health.probe_of(release, asked, name)
  local process = Process.of(release_config.of(release), name)
  local probe = { port = process.port }
  for _, source in ipairs { defaults, usual(process), process.health or {}, name == "web" and asked or {} } do
    if source.path or source.tcp or source.command or source.up then
      probe.path, probe.tcp, probe.command, probe.up = nil, nil, nil, nil
    end
    for key, value in pairs(source) do probe[key] = value end
  end
  return probe
end

-- One probe for each process of these instances.
local function probes_of(release, asked, instances)
  local probes = {}
  for _, instance in ipairs(instances) do
    probes[instance.process] = probes[instance.process] or Health.probe_of(release, asked, instance.process)
  end
  return probes
end

-- How people are told which instance: "instance 2" of web, else "worker 2".
local function shown(instance)
  return ("%s %d"):format(instance.process == "web" and "instance" or instance.process, instance.position)
end

local function probe_http(probe, address)
  local answer = http.request {
    url = ("http://%s:%d%s"):format(address, probe.port, probe.path),
    headers = { ["user-agent"] = "nextdeploy-probe", connection = "close" },
    timeout_ms = probe.timeout, connect_timeout_ms = math.min(probe.timeout, 2000),
    max_bytes = 1024 * 1024,
  }
  local good = answer.status == probe.status
    or not probe.status and answer.status >= 200 and answer.status < 400
  if not good then return false, ("answered %d"):format(answer.status) end
  if probe.body and not answer.body:find(probe.body, 1, true) then
    return false, ("answered %d, but its body has no %q"):format(answer.status, probe.body)
  end
  return true, ("answered %d"):format(answer.status)
end

-- Anything but a failed connection means that something accepted it. Nothing need be answered.
local function probe_tcp(probe, address)
  local connect = math.min(probe.timeout, 500)
  local ok, e = pcall(http.request, { url = ("http://%s:%d/"):format(address, probe.port),
    connect_timeout_ms = connect, timeout_ms = connect + 100 })
  if not ok and e.code == "cancelled" then error(e, 0) end
  if not ok and (e.code == "http_connect" or e.message:find "did not accept a connection") then
    return false, e.message
  end
  return true, "accepted a connection"
end

function Health:probe_command(probe, instance)
  local argv = json.array { container.init, "exec", "--" }
  table.move(probe.command, 1, #probe.command, #argv + 1, argv)
  local result = self.d.docker:exec(instance.name, argv, { timeout_ms = probe.timeout, max_output = 4096 })
  if result.code == 0 then return true, "exit status 0" end
  return false, ("exit status %d: %s"):format(result.code, result.output:match "^[^\n]*")
end

function Health:probe_up(instance)
  local found = self.d.docker:inspect(instance.name)
  return found ~= nil and found.State.Running, found and found.State.Running and "runs" or "doesn't run"
end

-- One probe of one instance: ok, what it saw.
function Health:probe(instance, probe)
  local ok, good, text = pcall(function()
    if probe.up then return self:probe_up(instance) end
    if probe.command then return self:probe_command(probe, instance) end
    if probe.tcp then return probe_tcp(probe, instance.address) end
    return probe_http(probe, instance.address)
  end)
  if ok then return good, text end
  if good.code == "cancelled" then error(good, 0) end
  return false, good.message or tostring(good)
end

-- All instances once: ok, the first complaint, and how many such in a row its process may have.
-- `most_ms`: no probe takes longer.
function Health:check(release, asked, most_ms)
  local instances = self.d.releases:instances(release)
  local probes = probes_of(release, asked, instances)
  for _, instance in ipairs(instances) do
    local probe = probes[instance.process]
    probe.timeout = math.min(probe.timeout, most_ms or probe.timeout)
    local ok, text = self:probe(instance, probe)
    if not ok then return false, ("%s %s"):format(shown(instance), text), probe.failures end
  end
  return true, nil, 1
end

-- ---- waiting for a release ----

function Health:unhealthy(code, instance, release, why, probes, hint)
  error(err.new(code, ("release %d is not healthy: %s %s"):format(release.number, shown(instance), why),
    hint or "its probes and last log lines say why; the old version was not touched",
    { probes = probes, logs = self.d.logs:last_lines(instance, LOG_LINES), instance = instance.name }), 0)
end

-- Raises when the container has ended; says how. While Docker is away nobody knows.
function Health:check_alive(instance, release, probes)
  local ok, found = pcall(self.d.docker.inspect, self.d.docker, instance.name)
  if not ok and found.code == "docker_unreachable" then return end
  if not ok then error(found, 0) end
  if found and found.State.Running then return end
  local why, hint = "is gone", nil
  if found and found.State.OOMKilled then
    why, hint = "was killed: it used more memory than its limit", "raise `memory`, or look for a leak"
  elseif found and found.State.Error ~= "" then
    why = ("could not start: %s"):format(found.State.Error)
  elseif found then
    why = ("ended with exit status %d"):format(found.State.ExitCode)
  end
  self:unhealthy("unhealthy", instance, release, why, probes, hint)
end

local function note(probes, text)
  local last = probes[#probes]
  if last and last.result == text then
    last.count = (last.count or 1) + 1
    return
  end
  if #probes >= PROBES_SHOWN then table.remove(probes, 1) end
  probes[#probes + 1] = { time = clock.format(clock.now()), result = text }
end

-- Waits until one instance had its successes in a row, and held for `settle` ms after that. `healthy`: it
-- was so already, and only has to hold.
function Health:wait_instance(ctx, release, instance, probe, settle, healthy)
  local begun, probes = ctx.asked_at, json.array {}
  settle = math.max(settle, not healthy and probe.up or 0)
  local in_row, failed, settled_from, wait = 0, 0, healthy and clock.now() or nil, FIRST_WAIT_MS
  while true do
    local ok, text = self:probe(instance, probe)
    note(probes, text)
    if ok then
      in_row, failed = in_row + 1, 0
      if in_row >= probe.successes then
        settled_from = settled_from or clock.now()
        if clock.now() - settled_from >= settle then return end
      end
      wait = probe.interval
    else
      self:check_alive(instance, release, probes)
      failed = failed + 1
      if settled_from and failed >= probe.failures then
        self:unhealthy("unhealthy", instance, release,
          ("was healthy, but then: %s"):format(text), probes)
      end
      in_row = 0
      wait = math.min(wait * 3 // 2, probe.interval)
    end
    if not settled_from and clock.now() - begun > probe.deadline + probe.grace then
      self:unhealthy("deadline", instance, release, ("did not become healthy within %s; the last probe: %s")
        :format(duration.text(probe.deadline), text), probes,
        "raise health.deadline if it needs longer; check the port and path it is probed at")
    end
    if in_row == 1 then ctx.progress(("%s %s"):format(shown(instance), text)) end
    task.sleep(settled_from and math.min(probe.interval, math.max(1, settle)) or wait)
    if settled_from and settle > 0 then self:check_alive(instance, release, probes) end
  end
end

-- `rows`: only these instances of it.
function Health:wait(ctx, release, asked, settle, rows)
  local instances = rows or self.d.releases:instances(release)
  local probes = probes_of(release, asked, instances)
  tasks.each("probe", instances, function(instance)
    self:wait_instance(ctx, release, instance, probes[instance.process], settle)
  end)
  if not rows then self.d.releases:mark_healthy(release) end
  return { release = release.number, healthy = true }
end

-- A release that is healthy has to stay so for that long.
function Health:hold(ctx, release, asked, ms)
  local instances = self.d.releases:instances(release)
  local probes = probes_of(release, asked, instances)
  tasks.each("probe", instances, function(instance)
    self:wait_instance(ctx, release, instance, probes[instance.process], ms, true)
  end)
end

return Health
