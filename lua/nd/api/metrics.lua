-- Metrics over HTTP: as JSON, as text for Prometheus, as a WebSocket, and what they were.

local clock = require "clock"
local json = require "json"
local task = require "task"
local accept = require "nd.api.accept"
local duration = require "nd.duration"
local err = require "nd.error"
local instant = require "nd.instant"
local history = require "nd.service.metrics_history"
local text_of = require "nd.service.metrics_text"
local s = require "nd.api.schema"
local shapes = require "nd.api.shapes"

local JSON, TEXT = "application/json", "text/plain; version=0.0.4; charset=utf-8"
local INTERVAL_LEAST, INTERVAL_MOST = 1000, 3600 * 1000
local SECONDS_BELOW = 10000   -- a slower follower doesn't need a sample every second
local EARLY_MS = 500          -- samples are taken at full seconds, followers come in between
local HOUR_MS = 3600 * 1000

-- ---- now ----

local function app_of(c)
  local q = c.query
  return q.app and c.d.apps:get { app = q.app, project = q.project, environment = q.environment }
end

-- Which containers are shown: those of the app, all, or none.
local function wanted(c)
  local app = app_of(c)
  if not app then
    return c.query.containers and function(row)
      return c.sees { project = row.project, environment = row.environment, name = row.app }
    end
  end
  return function(row)
    return row.app == app.name and row.project == app.project and row.environment == app.environment
  end
end

local function as_json(c)
  local a, b = c.d.metrics:now()
  return c.d.metrics:shown(a, b, wanted(c)), "System metrics"
end

local function metrics(c)
  local form = c.query.format == "prometheus" and TEXT or c.query.format == "json" and JSON
    or accept.best(c.request.headers.accept, { JSON, TEXT })
  if not form then
    err.raise("not_acceptable", "metrics come as application/json or text/plain",
      "send an Accept header that allows one of them, or none")
  end
  c.headers = { vary = "Accept" }
  if form == JSON then return as_json(c) end
  if c.query.seen then
    err.raise("forbidden", "the exposition is of all apps, and you don't see them all", "ask for JSON: format=json")
  end
  c.raw = true
  return { status = 200, body = text_of(c.d), headers = { ["content-type"] = TEXT, vary = "Accept",
    server = "nextdeployd/" .. c.d.version } }
end

-- ---- as it goes ----

local function interval_of(c)
  local every = duration.ms("query.interval", c.query.interval or "1s")
  if every < INTERVAL_LEAST or every > INTERVAL_MOST then
    err.raise("bad_request", ("query.interval: %s is not from 1s to 1h"):format(c.query.interval))
  end
  return every
end

-- A frame at once, and then one each interval, about the time since the one before. A reader that
-- stalls misses frames, and costs one.
local function send_all(m, ws, every, with)
  local handle <close> = every < SECONDS_BELOW and m:look() or nil -- luacheck: ignore
  local before, last = m:now()
  ws:send(json.encode(m:shown(before, last, with)))
  while true do
    m.sampled:wait()
    if m.last.at - last.at >= every - EARLY_MS then
      local reading = m.last
      ws:send(json.encode(m:shown(last, reading, with)))
      last = reading
    end
  end
end

local function list(c)
  interval_of(c)
  return as_json(c)
end

local function follow(c)
  local m, every, with = c.d.metrics, interval_of(c), wanted(c)
  return function(ws)
    local follower = task.spawn("metrics", function() send_all(m, ws, every, with) end)
    while ws:recv() do end
    follower:cancel()
    follower:wait()
  end
end

-- ---- before ----

local function range(c)
  local q = c.query
  local to = q.to and instant.ms("query.to", q.to) or clock.now()
  return c.d.metrics.history:range(app_of(c), {
    metric = q.metric or "cpu", process = q.process, to = to,
    from = q.from and instant.ms("query.from", q.from) or to - HOUR_MS,
    step = q.step and duration.ms("query.step", q.step),
  })
end

local function metric_names()
  local seen, names = {}, json.array {}
  for _, kind in ipairs { "host", "app" } do
    for name in pairs(history[kind]) do
      if not seen[name] then names[#names + 1] = name end
      seen[name] = true
    end
  end
  table.sort(names)
  return names
end

local function scope(doc)
  return { app = s.doc(s.text, doc), project = shapes.key.project, environment = shapes.key.environment }
end

local function with(fields, more)
  for name, schema in pairs(more) do fields[name] = schema end
  return fields
end

local containers = { type = "boolean", default = false, description = "The containers as well." }
local instant_doc = "How long ago (1h), UTC milliseconds, or RFC 3339. "

return {
  { method = "GET", path = "/metrics", id = "metrics", permission = "read", about = "query",
    query = with(scope "Only this app's containers.", { containers = containers,
      format = { type = "string", enum = json.array { "json", "prometheus" },
        description = "Which form; without it the Accept header says so, and without that it is json." } }),
    summary = "CPU, memory and disk in per cent, and uptime; or all metrics as text for Prometheus.",
    doc = "JSON is about the host and, where asked for, containers, read at the moment of asking. As "
      .. "`text/plain; version=0.0.4` it is Prometheus's exposition of host, containers and daemon, "
      .. "whatever else the query says.",
    payload = s.ref "SystemMetrics", also = { ["text/plain"] = s.text }, fails = { 404, 406, 502, 504 },
    handler = metrics },
  { method = "GET", path = "/metrics/history", id = "metricsHistory", permission = "read", about = "query",
    query = with(scope "Of this app; without it, of the host.", {
      process = s.doc(s.text, "Of this process; without it, of all of the app's added up."),
      metric = { type = "string", enum = metric_names(), default = "cpu" },
      from = s.doc(s.text, instant_doc .. "An hour before `to`."), to = s.doc(s.text, instant_doc .. "Now."),
      step = s.doc(s.text, "A duration, at least 1s; without it, about 360 values.") }),
    summary = "What a metric was.",
    doc = "Steps of 10 s are known for 6 hours, of 5 minutes for 30 days, and of 1 s for 10 minutes while "
      .. "somebody follows /ws/metrics. What a step doesn't know is null.",
    payload = s.ref "MetricRange", fails = { 404 }, handler = range },
  { method = "WS", path = "/ws/metrics", id = "followMetrics", permission = "read", about = "query",
    query = with(scope "Only this app's containers.", { containers = containers,
      interval = { type = "string", default = "1s", description = "A duration from 1s to 1h." } }),
    summary = "Metrics as they go, as a WebSocket; asked without an upgrade, those of now.",
    doc = "A frame comes at once and then each interval; cpu and rates are of the time since the frame before.",
    payload = s.ref "SystemMetrics", frames = s.ref "SystemMetrics", fails = { 404, 502, 504 },
    handler = follow, list = list },
}
