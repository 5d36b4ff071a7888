-- Metrics: what the host, the containers and the daemon itself use.
--
-- A *reading* is raw: the host's counters and each container's, as the kernel has them. Whoever
-- wants percent or rates takes two readings and asks `between`; so nobody's look disturbs another's.
-- The sampler takes one every 10 s, and every second while somebody looks (`look`), and hands what
-- lies between to the history. Nothing is asked of Docker but, once for each container, its pid.
--
--   d.metrics:read() -> reading                     waits some ms
--   d.metrics:between(a, b) -> host, containers     a: an earlier reading, or nil
--   d.metrics:look() -> a handle; close it          one sample a second meanwhile; `sampled` notifies
--   d.metrics:gauge(name, help, fn)                 for other services; fn() -> a number, or a list of
--                                                   {value, labels = {{name, value}, ...}}; it may wait
--   d.metrics:counter(name, help, labels) -> c; c:add(n, value of each label, ...)
-- Names are Prometheus's: nextdeploy_thing_unit, counters end in _total.

local cgroup = require "cgroup"
local clock = require "clock"
local exposition = require "exposition"
local log = require "log"
local proc = require "proc"
local task = require "task"
local err = require "nd.error"
local History = require "nd.service.metrics_history"
local tasks = require "nd.tasks"

local SLOW_MS, FAST_MS = 10000, 1000
local AGAIN_MS = 10000       -- between two questions for the pid of one container; doubled each time,
local AGAIN_MOST_MS = 10 * 60 * 1000 -- up to this
local QUESTIONS = 100        -- to Docker for pids, of one reading
local LATE_MS = 2            -- a timer may fire a little early
local APART_MS = 500         -- readings closer together say too little of a rate
local AT_ONCE = 8            -- questions to Docker

local Metrics = {}
Metrics.__index = Metrics

function Metrics.new(d)
  local self = setmetatable({
    d = d, gauges = {}, counters = {}, names = {}, pids = {}, lookers = 0,
    woken = task.signal(), sampled = task.signal(), history = History.new(d.store),
  }, Metrics)
  self.requests = self:counter("nextdeploy_http_requests_total",
    "Requests that the API answered, by the operation's name in /openapi.json and the status.",
    { "operation", "status" })
  self.effects = self:counter("nextdeploy_effects_total", "Effects of runs that were answered.",
    { "effect", "result" })
  self.runs_ended = self:counter("nextdeploy_runs_ended_total",
    "Runs that ended, by their recipe (\"sent\": with its files) and how.",
    { "recipe", "state" })
  self.cuts = self:counter("nextdeploy_connections_cut_total",
    "Connections that were still open when their release's drain ended.", { "project", "env", "app" })
  return self
end

-- ---- metrics of other services ----

local function register(self, name, help)
  if type(name) ~= "string" or not name:find "^nextdeploy_[a-z0-9_]+$" then
    err.raise("bad_metric", ("%s can't name a metric"):format(tostring(name)), "as in nextdeploy_thing_bytes")
  elseif self.names[name] then
    err.raise("bad_metric", ("there is a metric %s already"):format(name))
  elseif type(help) ~= "string" or help == "" then
    err.raise("bad_metric", ("the metric %s needs a text that explains it"):format(name))
  end
  self.names[name] = true
end

function Metrics:gauge(name, help, fn)
  register(self, name, help)
  self.gauges[#self.gauges + 1] = { name = name, help = help, fn = fn }
end

local Counter = {}
Counter.__index = Counter

local function key_of(first, second, ...)
  if not second then return first or "" end
  if not ... then return first .. "\0" .. second end
  return table.concat({ first, second, ... }, "\0")
end

function Counter:add(n, ...)
  local key = key_of(...)
  self.values[key] = (self.values[key] or 0) + n
  if self.texts[key] then return end
  local labels, values = {}, { ... }
  for i, name in ipairs(self.labels) do labels[i] = { name, tostring(values[i]) } end
  self.texts[key] = exposition.labels(labels)
end

function Metrics:counter(name, help, labels)
  register(self, name, help)
  local counter = setmetatable({ name = name, help = help, labels = labels or {}, values = {}, texts = {} }, Counter)
  self.counters[#self.counters + 1] = counter
  return counter
end

-- ---- a reading ----

-- What has a container that may run: instances, and jobs while they do.
local INSTANCES = [[SELECT instance.name, instance.container, instance.process, instance.position,
    instance.restarts, instance.started_at, release.number, app.name AS app, app.project, app.environment
  FROM instance JOIN release ON release.id = instance.release JOIN app ON app.id = release.app
  WHERE instance.gone_at IS NULL AND instance.container IS NOT NULL AND instance.state <> 'exited'
  UNION ALL
  SELECT job.name, container, process, 1, 0, started_at, number, app.name, project, environment
  FROM job JOIN app ON app.id = job.app
  WHERE gone_at IS NULL AND container IS NOT NULL AND state = 'running'
  ORDER BY project, environment, app, process, number, position]]

-- -> container -> {pid}. Asks Docker for those that aren't known; where it is away, or the container
-- isn't running, they stay unknown.
function Metrics:find_pids(rows)
  local known, unknown, now = {}, {}, clock.monotonic()
  for _, row in ipairs(rows) do
    local entry = self.pids[row.container]
    if not entry or entry.started_at ~= row.started_at then
      entry = { due = now, wait = AGAIN_MS, pid = entry and entry.pid, started_at = row.started_at }
    end
    if not entry.pid and now >= entry.due and #unknown < QUESTIONS then
      entry.due, entry.wait = now + entry.wait, math.min(entry.wait * 2, AGAIN_MOST_MS)
      unknown[#unknown + 1] = { id = row.container, entry = entry }
    end
    known[row.container] = entry
  end
  self.pids = known
  tasks.each("metrics", unknown, function(one)
    local ok, found = pcall(self.d.docker.inspect, self.d.docker, one.id)
    if not ok and found.code == "cancelled" then error(found, 0) end
    local pid = ok and found and found.State and found.State.Pid or 0
    if pid > 0 then one.entry.pid = pid end
  end, AT_ONCE)
  return known
end

-- {time (UTC ms), at (ms, monotonic), host, containers = list of {row, usage}}
function Metrics:read()
  local o = self.d.options
  local roots = { proc_root = o.proc_root, sys_root = o.sys_root, disk_path = o.state_dir }
  local rows = self.d.store:all(INSTANCES)
  local pids, asked, whose = self:find_pids(rows), {}, {}
  for _, row in ipairs(rows) do
    local pid = pids[row.container].pid
    if pid then
      asked[#asked + 1] = { pid = pid, id = row.container }
      whose[#asked] = row
    end
  end
  local reading = { host = proc.host(roots), time = clock.now(), at = clock.monotonic(), containers = {} }
  local usages = #asked > 0 and cgroup.read(asked, roots) or {}
  for i, usage in ipairs(usages) do
    if usage then
      reading.containers[#reading.containers + 1] = { row = whose[i], usage = usage }
    else
      pids[whose[i].container].pid = nil -- it ended, or Docker has restarted it
    end
  end
  return reading
end

-- ---- between two readings ----

local function one_decimal(x) return math.floor(x * 10 + 0.5) / 10 end

-- Percent of all cores.
local function host_cpu(a, b)
  local total, idle = 0, 0
  for mode, seconds in pairs(b.host.cpu_times) do
    local spent = seconds - (a and a.host.cpu_times[mode] or 0)
    total = total + spent
    if mode == "idle" or mode == "iowait" then idle = idle + spent end
  end
  if total <= 0 then return 0 end
  return math.max(0, math.min(100, 100 * (1 - idle / total)))
end

local FLOWS = { "received", "sent", "read", "written" }

-- A second's share of a counter that began anew with its container.
local function rate(was, is, seconds)
  if not is or not was or seconds <= 0 then return nil end
  return math.max(0, (is >= was and is - was or is) / seconds)
end

local function host_between(a, b, seconds)
  local h = b.host
  local out = { cpu = host_cpu(a, b), rates = {} }
  for name, value in pairs(h) do
    if name ~= "cpu_times" and name ~= "waited" then out[name] = value end
  end
  local names = { received = "network_received", sent = "network_sent", read = "disk_read", written = "disk_written" }
  for flow, name in pairs(names) do out.rates[flow] = rate(a and a.host[name], h[name], seconds) end
  return out
end

local function container_between(was, c, a, seconds)
  local before = was and was.usage
  -- One that began between the two counts from zero.
  if not was and a and (c.row.started_at or 0) > a.time then before = {} end
  local function of(name) return rate(before and (before[name] or 0), c.usage[name], seconds) end
  local out = { row = c.row, usage = c.usage, rates = {} }
  local cores = of "cpu"
  out.cpu = cores and 100 * cores
  for _, flow in ipairs(FLOWS) do out.rates[flow] = of(flow) end
  return out
end

-- -> the host: what `proc.host` brings, cpu and `rates` (bytes a second) being of the time between;
--    the containers: a list of {row, usage, cpu (percent of one core), rates}
function Metrics.between(_, a, b)
  local seconds = a and (b.at - a.at) / 1000 or 0
  local before, containers = {}, {}
  for _, c in ipairs(a and a.containers or {}) do before[c.row.container] = c end
  for i, c in ipairs(b.containers) do
    containers[i] = container_between(before[c.row.container], c, a, seconds)
  end
  return host_between(a, b, seconds), containers
end

-- A reading of now, and one from before it that is far enough away to make rates.
function Metrics:now()
  local fresh = self:read()
  local base = self.last
  if base and fresh.at - base.at < APART_MS then base = self.before or base end
  return base, fresh
end

-- ---- as the API shows it ----

local function fraction(x) return x and math.floor(x + 0.5) end

local function shown_rates(rates)
  local out = {}
  for name, value in pairs(rates) do out[name] = fraction(value) end
  return next(out) and out or nil
end

local function shown_container(c)
  local row, u = c.row, c.usage
  return {
    app = row.app, project = row.project, environment = row.environment, process = row.process,
    release = row.number, instance = row.name, index = row.position, restarts = row.restarts,
    started_at = row.started_at and clock.format(row.started_at), container_id = row.container,
    cpu = c.cpu and one_decimal(c.cpu), cpu_seconds = u.cpu, throttled_seconds = u.throttled,
    memory = u.memory, memory_working = u.memory_working, memory_limit = u.memory_limit,
    oom_kills = u.oom_kills, pids = u.pids, pids_limit = u.pids_limit, received = u.received,
    sent = u.sent, read = u.read, written = u.written, rates = shown_rates(c.rates),
  }
end

-- SystemMetrics of the time between two readings; `with`: which containers (a function of their row).
function Metrics:shown(a, b, with)
  local h, containers = self:between(a, b)
  h.time, h.cpu, h.rates = clock.format(b.time), one_decimal(h.cpu), shown_rates(h.rates)
  h.memory_free, h.disk_unused, h.boot_time = nil, nil, nil
  if with then
    local list = require "json".array {}
    for _, c in ipairs(containers) do
      if with(c.row) then list[#list + 1] = shown_container(c) end
    end
    h.containers = list
  end
  return h
end

-- ---- the sampler ----

-- While the handle is open, there is a sample every second.
function Metrics:look()
  self.lookers = self.lookers + 1
  self.woken:notify()
  local open = true
  local function close()
    if not open then return end
    open = false
    self.lookers = self.lookers - 1
  end
  return setmetatable({ close = close }, { __close = close })
end

local function slot(time, step) return time // step end

function Metrics:sample()
  local reading = self:read()
  if self.lookers > 0 then
    if self.last then self.history:put(FAST_MS, reading.time, self:between(self.last, reading)) end
  else
    self.history:forget_fast(reading.time)
  end
  if not self.slow or slot(self.slow.time, SLOW_MS) ~= slot(reading.time, SLOW_MS) then
    if self.slow then self.history:put(SLOW_MS, reading.time, self:between(self.slow, reading)) end
    self.slow = reading
  end
  self.before, self.last = self.last, reading
  self.sampled:notify()
  self.history:keep(reading.time)
end

-- One sample at each full second, or each full ten.
function Metrics:start()
  self.sampler = task.spawn("metrics", function()
    local failed
    while true do
      local ok, e = pcall(self.sample, self)
      if not ok and e.code == "cancelled" then return end
      if not ok and not failed then log.warn("metrics can't be read: " .. tostring(e)) end
      failed = not ok
      local due
      repeat
        local step = self.lookers > 0 and FAST_MS or SLOW_MS
        due = step - clock.now() % step + LATE_MS
      until not self.woken:wait(due)
    end
  end)
end

-- What the last minutes were is kept over a restart.
function Metrics:stop()
  if not self.sampler then return end
  self.sampler:cancel()
  self.sampler:wait()
  pcall(self.history.keep, self.history, clock.now(), true)
end

return Metrics
