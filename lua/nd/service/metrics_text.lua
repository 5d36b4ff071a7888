-- The metrics as text for Prometheus: the host's, the containers', the daemon's own, and what other
-- services gave (`d.metrics:gauge`).
--
-- A family is a row: name, type, help, and where its value is. Units are the base ones: seconds,
-- bytes, ratios from 0 to 1. What a container's groups don't have is left out.

local clock = require "clock"
local exposition = require "exposition"
local log = require "log"
local proc = require "proc"
local task = require "task"
local password = require "nd.service.password"

-- ---- the host ----

local host_families = {
  { "nextdeploy_host_boot_time_seconds", "gauge", "When the host started, in seconds since 1970.", "boot_time" },
  { "nextdeploy_host_cpus", "gauge", "Processors of the host.", "cores" },
  { "nextdeploy_host_memory_total_bytes", "gauge", "Memory of the host.", "memory_total" },
  { "nextdeploy_host_memory_available_bytes", "gauge", "Memory that new programs could have.", "memory_available" },
  { "nextdeploy_host_memory_free_bytes", "gauge", "Memory that nothing uses.", "memory_free" },
  { "nextdeploy_host_swap_total_bytes", "gauge", "Swap space of the host.", "swap_total" },
  { "nextdeploy_host_swap_free_bytes", "gauge", "Swap space that nothing uses.", "swap_free" },
  { "nextdeploy_host_disk_size_bytes", "gauge", "Size of the file system of the state directory.", "disk_total" },
  { "nextdeploy_host_disk_free_bytes", "gauge", "Of it, what is free to root.", "disk_unused" },
  { "nextdeploy_host_disk_available_bytes", "gauge", "Of it, what is free to everybody.", "disk_free" },
  { "nextdeploy_host_disk_read_bytes_total", "counter", "Bytes read from all disks.", "disk_read" },
  { "nextdeploy_host_disk_written_bytes_total", "counter", "Bytes written to all disks.", "disk_written" },
  { "nextdeploy_host_network_receive_bytes_total", "counter",
    "Bytes that the host's own interfaces received; bridges and containers aside.", "network_received" },
  { "nextdeploy_host_network_transmit_bytes_total", "counter", "Bytes that they sent.", "network_sent" },
}

-- A sample for each member of a table, in the order of its names.
local function each(x, label, values)
  local names = {}
  for name in pairs(values) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do x:add(values[name], exposition.labels { { label, name } }) end
end

local function add_host(x, h)
  for _, f in ipairs(host_families) do
    x:family(f[1], f[2], f[3])
    x:add(h[f[4]])
  end
  x:family("nextdeploy_host_cpu_seconds_total", "counter", "Seconds that the processors spent, by what they did.")
  each(x, "mode", h.cpu_times)
  for i, minutes in ipairs { 1, 5, 15 } do
    x:family("nextdeploy_host_load" .. minutes, "gauge",
      ("Processes that ran or wanted to, on average over %d min."):format(minutes))
    x:add(h.load[i])
  end
  if not h.waited then return end
  x:family("nextdeploy_host_pressure_waiting_seconds_total", "counter",
    "Seconds in which some process waited for the resource (PSI).")
  each(x, "resource", h.waited)
end

-- ---- the containers ----

local container_families = {
  { "cpu_seconds_total", "counter", "Seconds of processor that the container used.", "cpu" },
  { "cpu_throttled_seconds_total", "counter", "Seconds that it had to wait for its share.", "throttled" },
  { "memory_usage_bytes", "gauge", "Its memory, the page cache included.", "memory" },
  { "memory_working_set_bytes", "gauge", "Its memory without cache that could be dropped.", "memory_working" },
  { "memory_limit_bytes", "gauge", "What it may have; absent without a limit.", "memory_limit" },
  { "oom_kills_total", "counter", "Processes that the kernel ended for want of memory.", "oom_kills" },
  { "network_receive_bytes_total", "counter", "Bytes it received.", "received" },
  { "network_transmit_bytes_total", "counter", "Bytes it sent.", "sent" },
  { "network_dropped_packets_total", "counter", "Packets dropped, both ways.", "dropped" },
  { "network_errored_packets_total", "counter", "Packets with errors, both ways.", "errored" },
  { "disk_read_bytes_total", "counter", "Bytes it read from block devices.", "read" },
  { "disk_written_bytes_total", "counter", "Bytes it wrote to block devices.", "written" },
  { "disk_reads_total", "counter", "Read operations on block devices.", "reads" },
  { "disk_writes_total", "counter", "Write operations on block devices.", "writes" },
  { "processes", "gauge", "Processes and threads.", "pids" },
  { "processes_limit", "gauge", "How many it may have; absent without a limit.", "pids_limit" },
}

local function labels_of(row)
  return exposition.labels {
    { "project", row.project }, { "env", row.environment }, { "app", row.app }, { "process", row.process },
    { "release", tostring(row.number) }, { "instance", row.name },
  }
end

local function add_containers(x, containers)
  local labels = {}
  for i, c in ipairs(containers) do labels[i] = labels_of(c.row) end
  for _, f in ipairs(container_families) do
    task.yield() -- with a thousand containers others want to run in between
    x:family("nextdeploy_container_" .. f[1], f[2], f[3])
    for i, c in ipairs(containers) do
      local value = c.usage[f[4]]
      if value then x:add(value, labels[i]) end
    end
  end
  x:family("nextdeploy_container_restarts_total", "counter", "Times that it was started again.")
  for i, c in ipairs(containers) do x:add(c.row.restarts, labels[i]) end
  x:family("nextdeploy_container_start_time_seconds", "gauge", "When it was started, in seconds since 1970.")
  for i, c in ipairs(containers) do
    if c.row.started_at then x:add(c.row.started_at / 1000, labels[i]) end
  end
end

-- ---- the daemon ----

-- Beside what every program shows under the names that Prometheus's own libraries give it.
local function add_process(x)
  local self = proc.self()
  for _, f in ipairs {
    { "process_cpu_seconds_total", "counter", "Seconds of processor that the daemon used.", self.cpu },
    { "process_resident_memory_bytes", "gauge", "Memory of the daemon.", self.rss },
    { "process_virtual_memory_bytes", "gauge", "Address space of the daemon.", self.virtual },
    { "process_open_fds", "gauge", "File descriptors that the daemon has open.", self.fds },
    { "process_max_fds", "gauge", "File descriptors that it may have.", self.fds_most },
    { "process_start_time_seconds", "gauge", "When the daemon started, in seconds since 1970.", self.start },
    { "nextdeploy_lua_memory_bytes", "gauge", "Memory of the daemon's Lua state.", collectgarbage "count" * 1024 },
  } do
    x:family(f[1], f[2], f[3])
    x:add(f[4])
  end
end

local function add_lag(x)
  local lag, sum = clock.lag(), 0
  x:family("nextdeploy_loop_lag_seconds", "histogram",
    "How late the daemon's event loop was, measured five times a second.")
  for i, count in ipairs(lag.counts) do
    sum = sum + count
    local bound = lag.bounds[i] and ("%g"):format(lag.bounds[i]) or "+Inf"
    x:add(sum, exposition.labels { { "le", bound } }, "_bucket")
  end
  x:add(lag.sum, nil, "_sum")
  x:add(lag.count, nil, "_count")
end

local function add_counts(x, d, name, help, label, known, sql)
  local counts = {}
  for _, state in ipairs(known) do counts[state] = 0 end
  for _, row in ipairs(d.store:all(sql)) do counts[row.state] = row.n end
  x:family(name, "gauge", help)
  each(x, label, counts)
end

local function add_daemon(x, d)
  x:family("nextdeploy_build_info", "gauge", "Always 1; the label says which version runs.")
  x:add(1, exposition.labels { { "version", d.version }, { "lua", _VERSION }, { "instance_id", d.store.instance } })
  add_process(x)
  add_lag(x)
  add_counts(x, d, "nextdeploy_runs", "Runs that haven't ended, by state.", "state",
    { "running", "sleeping", "rolling_back", "cleaning" }, [[SELECT state, count(*) AS n FROM run
    WHERE state NOT IN ('done', 'failed', 'cancelled') GROUP BY state]])
  add_counts(x, d, "nextdeploy_releases", "Releases that aren't gone, by state.", "state",
    { "created", "healthy", "live", "draining", "kept" }, [[SELECT state, count(*) AS n FROM release
    WHERE state <> 'gone' GROUP BY state]])
  x:family("nextdeploy_apps", "gauge", "Apps that the daemon knows.")
  x:add(d.store:get("SELECT count(*) AS n FROM app").n)
  for _, f in ipairs {
    { "nextdeploy_store_commits_total", "counter", "Transactions of the database that were committed.", "commits" },
    { "nextdeploy_store_failures_total", "counter", "Transactions that were refused or failed.", "failures" },
    { "nextdeploy_store_seconds_total", "counter", "Seconds that commits waited to be durable.", "seconds" },
  } do
    x:family(f[1], f[2], f[3])
    x:add(d.store.counts[f[4]])
  end
  x:family("nextdeploy_store_syncs_total", "counter", "Times that the disk was waited for: one for a group of them.")
  x:add(d.store.db:stats().commits)
  x:family("nextdeploy_store_size_bytes", "gauge", "The database with its log.")
  x:add(d.store:size())
  x:family("nextdeploy_password_hashes_total", "counter", "Passwords that were hashed, to be set or looked at.")
  x:add(password.hashes)
  x:family("nextdeploy_metrics_history_bytes", "gauge", "Memory of the history of metrics.")
  x:add(d.metrics.history:bytes())
end

-- ---- of other services ----

local function add_counter(x, counter)
  local keys = {}
  for key in pairs(counter.values) do keys[#keys + 1] = key end
  table.sort(keys)
  x:family(counter.name, "counter", counter.help)
  for _, key in ipairs(keys) do x:add(counter.values[key], counter.texts[key]) end
end

local function add_gauge(x, gauge)
  local values = gauge.fn()
  if type(values) ~= "table" then values = { { values } } end
  x:family(gauge.name, "gauge", gauge.help)
  for _, v in ipairs(values) do
    if type(v[1]) == "number" then x:add(v[1], v.labels and exposition.labels(v.labels)) end
  end
end

-- The whole text. One gauge that fails doesn't take the others with it.
return function(d)
  local reading = d.metrics:read()
  local x = exposition.new()
  add_host(x, reading.host)
  add_containers(x, reading.containers)
  add_daemon(x, d)
  for _, counter in ipairs(d.metrics.counters) do add_counter(x, counter) end
  for _, gauge in ipairs(d.metrics.gauges) do
    local ok, e = pcall(add_gauge, x, gauge)
    if not ok and e.code == "cancelled" then error(e, 0) end
    if not ok then log.warn(("the metric %s: %s"):format(gauge.name, tostring(e))) end
  end
  return x:text()
end
