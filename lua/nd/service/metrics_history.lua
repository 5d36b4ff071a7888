-- The history of metrics: a step of 1 s for 10 minutes and of 10 s for 6 hours in memory, of 5
-- minutes for 30 days in the database.
--
-- A *subject* is the host, or a process of an app, whose instances add up: a history outlives
-- releases. In memory each has a ring (engine/series.h), which is all that it costs; the seconds are
-- kept while somebody looks and ten minutes longer. Every 5 minutes one transaction takes the means
-- and the most of all subjects to the table `metric`, and removes what is over 30 days old.

local clock = require "clock"
local json = require "json"
local series = require "series"
local task = require "task"
local err = require "nd.error"

local FAST, SLOW, ROW = 1000, 10000, 5 * 60 * 1000
local SLOTS = { [FAST] = 600, [SLOW] = 2160 }
local FEW_SLOTS = 36           -- for subjects beyond MANY: what the next rows are made of
local MANY = 256
local FAST_KEEP_MS = 10 * 60 * 1000
local KEEP_MS = 30 * 24 * 3600 * 1000
local POINTS, POINTS_MOST = 360, 5000 -- of an answer: where no step is given, and the most

local M = {
  -- Metric -> its unit; of the host, and of an app.
  host = { cpu = "percent", memory = "percent", disk = "percent", load = "processes",
    received = "bytes/s", sent = "bytes/s", read = "bytes/s", written = "bytes/s",
    pressure_cpu = "percent", pressure_memory = "percent", pressure_io = "percent" },
  app = { cpu = "percent of a core", memory = "bytes", received = "bytes/s", sent = "bytes/s",
    read = "bytes/s", written = "bytes/s", pids = "processes", instances = "instances" },
}

local function columns(units)
  local names, index = {}, {}
  for name in pairs(units) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do index[name] = i end
  return { names = names, index = index }
end
local COLUMNS = { host = columns(M.host), app = columns(M.app) }

local History = {}
History.__index = History

function M.new(store)
  return setmetatable({ store = store, rings = { [FAST] = {}, [SLOW] = {} }, count = 0, saved = {} }, History)
end

local function columns_of(subject) return subject == "host" and COLUMNS.host or COLUMNS.app end

function M.subject(row)
  return table.concat({ row.project, row.environment, row.app, row.process }, "/")
end

-- ---- what comes in ----

local function host_values(h)
  local p = h.pressure or {}
  return { cpu = h.cpu, memory = h.memory, disk = h.disk, load = h.load[1], received = h.rates.received,
    sent = h.rates.sent, read = h.rates.read, written = h.rates.written, pressure_cpu = p.cpu,
    pressure_memory = p.memory, pressure_io = p.io }
end

local function add(sums, name, value)
  if value then sums[name] = (sums[name] or 0) + value end
end

-- subject -> values by name
local function values_of(host, containers)
  local out = { host = host_values(host) }
  for _, c in ipairs(containers) do
    local subject = M.subject(c.row)
    local sums = out[subject] or { instances = 0 }
    out[subject] = sums
    sums.instances = sums.instances + 1
    add(sums, "cpu", c.cpu)
    add(sums, "memory", c.usage.memory)
    add(sums, "pids", c.usage.pids)
    for name, value in pairs(c.rates) do add(sums, name, value) end
  end
  return out
end

function History:ring(step, subject)
  local rings = self.rings[step]
  if not rings[subject] then
    local slots = self.count < MANY and SLOTS[step] or FEW_SLOTS
    if step == SLOW then self.count = self.count + 1 end
    rings[subject] = series.new(#columns_of(subject).names, step, slots)
  end
  return rings[subject]
end

-- What lay in the `step` before `time`.
function History:put(step, time, host, containers)
  local at = (time + step // 2) // step * step - step -- a timer may be a little early or late
  for subject, values in pairs(values_of(host, containers)) do
    local row = {}
    for i, name in ipairs(columns_of(subject).names) do row[i] = values[name] or false end
    self:ring(step, subject):put(at, row)
  end
  if step == FAST then self.looked = time end
end

-- Nobody has looked for ten minutes: the seconds go.
function History:forget_fast(time)
  if self.looked and time - self.looked > FAST_KEEP_MS then self.looked, self.rings[FAST] = nil, {} end
end

-- ---- what is kept ----

-- Two decimals, and none where they are zeros; what more there is in a float isn't true.
local function rounded(value)
  if not value then return json.null end
  value = math.floor(value * 100 + 0.5) / 100
  return math.tointeger(value) or value
end

-- {metric: [mean, most]} of a subject in the 5 minutes from `from`, and of how many samples.
local function summary(subject, ring, from)
  local out, samples = {}, 0
  for i, name in ipairs(columns_of(subject).names) do
    local means, mosts = ring:range(i, from, from + ROW, ROW)
    if means[1] then out[name] = json.array { rounded(means[1]), rounded(mosts[1]) } end
  end
  if not next(out) then return nil end
  for _, known in ipairs((ring:range(1, from, from + ROW, SLOW))) do
    if known then samples = samples + 1 end
  end
  return json.encode(out), samples
end

-- Writes the 5 minutes that have ended, or with `all` those that haven't too; once each. After a
-- restart in between, the row with more samples stays.
function History:keep(time, all)
  local last = time // ROW * ROW
  if not self.kept or self.kept > last then self.kept = last end -- or the clock was set back
  if last <= self.kept and not all then return end
  local statements = {}
  for from = math.max(self.kept, last - 6 * ROW), all and last or last - ROW, ROW do
    for subject, ring in pairs(self.rings[SLOW]) do
      task.yield()
      local data, samples = summary(subject, ring, from)
      if data then
        statements[#statements + 1] = { [[INSERT INTO metric (subject, time, samples, data) VALUES (?, ?, ?, ?)
          ON CONFLICT (subject, time) DO UPDATE SET samples = excluded.samples, data = excluded.data
          WHERE excluded.samples >= metric.samples]], subject, from, samples, data }
      end
    end
  end
  statements[#statements + 1] = { "DELETE FROM metric WHERE time < ?", time - KEEP_MS }
  self.store:commit(statements)
  self.kept = last
  self:drop_old(time)
end

-- Rings of what hasn't been there for 6 hours.
function History:drop_old(time)
  for subject, ring in pairs(self.rings[SLOW]) do
    local _, ended = ring:span()
    if not ended or time - ended > SLOTS[SLOW] * SLOW then
      self.rings[SLOW][subject], self.rings[FAST][subject] = nil, nil
      self.count = self.count - 1
    end
  end
end

function History:bytes()
  local sum = 0
  for _, rings in pairs(self.rings) do
    for _, ring in pairs(rings) do sum = sum + ring:bytes() end
  end
  return sum
end

-- ---- what is asked ----

local function prefix_of(app, process)
  local prefix = table.concat({ app.project, app.environment, app.name }, "/") .. "/"
  return process and prefix .. process or prefix
end

local function add_points(into, values)
  for i, value in ipairs(values) do
    if value then into[i] = (into[i] or 0) + value end
  end
end

-- From the rings of the subjects for which `is_wanted`.
function History:from_memory(ring_step, is_wanted, metric, q)
  local means, mosts = {}, {}
  for subject, ring in pairs(self.rings[ring_step]) do
    if is_wanted(subject) then
      local m, x = ring:range(columns_of(subject).index[metric], q.from, q.to, q.step)
      add_points(means, m)
      add_points(mosts, x)
    end
  end
  return means, mosts
end

-- Fills the points that memory doesn't have. A row stands for all points within its 5 minutes.
function History:from_database(low, high, metric, q, means, mosts)
  local group = math.max(q.step, ROW)
  local first = q.from // ROW * ROW
  for _, row in ipairs(self.store:all([[SELECT slot, sum(mean) AS mean, sum(most) AS most FROM (
      SELECT (time - ?1) / ?2 AS slot, avg(json_extract(data, ?3)) AS mean, max(json_extract(data, ?4)) AS most
      FROM metric WHERE subject >= ?5 AND subject < ?6 AND time >= ?1 AND time < ?7 GROUP BY subject, slot)
      GROUP BY slot]], first, group, ("$.%s[0]"):format(metric), ("$.%s[1]"):format(metric), low, high, q.to)) do
    local from = first + row.slot * group
    local i = math.max(1, (from - q.from) // q.step + 1)
    for at = i, math.min(q.points, (from + group - q.from - 1) // q.step + 1) do
      if not means[at] and row.mean then means[at], mosts[at] = row.mean, row.most end
    end
  end
end

local function choose_step(span, oldest_asked, now)
  local step = math.max(span // POINTS, 1)
  if now - oldest_asked > SLOTS[SLOW] * SLOW then return math.max(ROW, (step + ROW - 1) // ROW * ROW) end
  return math.max(SLOW, (step + SLOW - 1) // SLOW * SLOW)
end

local function checked(q, now)
  if q.to <= q.from then
    err.raise("bad_request", "query: `to` must be after `from`", "without them it is the last hour")
  end
  if q.step and q.step < FAST then err.raise("bad_request", "query.step: the least is 1s") end
  q.step = q.step or choose_step(q.to - q.from, q.from, now)
  if q.step > ROW or now - q.from > SLOTS[SLOW] * SLOW + ROW then q.step = math.max(ROW, q.step // ROW * ROW) end
  if (q.to - q.from) // q.step > POINTS_MOST then
    err.raise("bad_request", ("query: that is more than %d points"):format(POINTS_MOST), "give a longer step")
  end
  q.from = q.from // q.step * q.step
  q.to = (q.to + q.step - 1) // q.step * q.step
  q.points = (q.to - q.from) // q.step
  return q
end

-- app: a row, or nil for the host. q: {metric, process, from, to, step (ms)} -> MetricRange
function History:range(app, q)
  local kind = app and "app" or "host"
  local unit = M[kind][q.metric]
  if not unit then
    err.raise("bad_request", ("query.metric: there is no %s of %s"):format(q.metric, app and "an app" or "the host"),
      "there are " .. table.concat(COLUMNS[kind].names, ", "))
  end
  local now = clock.now()
  q = checked({ metric = q.metric, process = q.process, from = q.from, to = q.to, step = q.step }, now)
  local low, high = "host", "host\0"
  if app then
    low = prefix_of(app, q.process)
    high = q.process and low .. "\0" or low:sub(1, -2) .. "0" -- "0" follows "/"
  end
  local function is_wanted(subject) return subject >= low and subject < high end
  local means, mosts = self:from_memory(q.step < SLOW and FAST or SLOW, is_wanted, q.metric, q)
  if q.step >= SLOW then self:from_database(low, high, q.metric, q, means, mosts) end
  local values, most = json.array {}, json.array {}
  for i = 1, q.points do values[i], most[i] = rounded(means[i]), rounded(mosts[i]) end
  return { metric = q.metric, unit = unit, app = app and app.name, process = app and q.process,
    project = app and app.project, environment = app and app.environment,
    from = clock.format(q.from), to = clock.format(q.to), step = q.step / 1000, values = values, most = most }
end

return M
