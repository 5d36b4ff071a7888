-- Events and logs, each resumable: a WebSocket follows them, a plain GET takes what there is.

local clock = require "clock"
local json = require "json"
local task = require "task"
local err = require "nd.error"
local tasks = require "nd.tasks"
local s = require "nd.api.schema"
local shapes = require "nd.api.shapes"

local BATCH = 200
local IDLE_MS = 5000
local TAIL = 100          -- lines of an instance, unless it is said
local LIST_TAIL = 5000    -- the most a plain GET gets of an instance

-- ---- events ----

local function event_query(q, app)
  local where, args = { "seq > ?" }, {}
  if app then
    where[#where + 1] = "event.app = ?"
    args[#args + 1] = app.id
  end
  if q.run then
    where[#where + 1] = "event.run = ?"
    args[#args + 1] = q.run
  end
  return ([[SELECT seq, time, kind, event.app, event.run, data, app.name, app.project, app.environment
    FROM event LEFT JOIN app ON app.id = event.app WHERE %s ORDER BY seq LIMIT %d]]):format(
    table.concat(where, " AND "), BATCH), args
end

local function event_of(row)
  return {
    seq = row.seq, time = clock.format(row.time), kind = row.kind, app = row.name,
    project = row.project, environment = row.environment, run = row.run,
    data = json.decode(row.data),
  }
end

-- Reads until the other side closes; the WebSocket's own end ends the follower.
local function until_closed(ws, follower)
  while ws:recv() do end
  follower:cancel()
  follower:wait()
end

local function app_of(c)
  local q = c.query
  return c.d.apps:get { app = q.app, project = q.project, environment = q.environment }
end

local function list_events(c)
  local d, q = c.d, c.query
  local sql, args = event_query(q, q.app and app_of(c))
  local list = json.array {}
  for i, row in ipairs(d.store:all(sql, q.since or math.max(0, d.store:last_event() - BATCH),
    table.unpack(args))) do
    list[i] = event_of(row)
  end
  return list
end

local function events(c)
  local d, q = c.d, c.query
  local sql, args = event_query(q, q.app and app_of(c))
  local since = q.since or d.store:last_event()
  return function(ws)
    local follower = task.spawn("events", function()
      while true do
        local rows = d.store:all(sql, since, table.unpack(args))
        for _, row in ipairs(rows) do
          ws:send(json.encode(event_of(row)))
          since = row.seq
        end
        if #rows < BATCH then
          if q.follow == false then return ws:close(1000, "that was all") end
          d.store.changed:wait(IDLE_MS)
        end
      end
    end)
    until_closed(ws, follower)
  end
end

-- ---- logs ----

-- RFC 3339 (in UTC) or milliseconds -> milliseconds.
local function since_of(text)
  if not text then return nil end
  local ms = text:match "^%d+$" and math.tointeger(tonumber(text))
  if ms then return ms end
  local y, mo, d, h, mi, sec, rest = text:match "^(%d%d%d%d)%-(%d%d)%-(%d%d)T(%d%d):(%d%d):(%d%d)(%.?%d*)Z$"
  if not y then
    err.raise("bad_request", ("query.since: %q is not a time"):format(text),
      "write UTC milliseconds, or 2026-01-31T12:00:00Z")
  end
  y, mo = math.tointeger(y), math.tointeger(mo)
  if mo <= 2 then y, mo = y - 1, mo + 12 end -- a year that begins in March ends with its leap day
  local days = 365 * y + y // 4 - y // 100 + y // 400 + (153 * (mo - 3) + 2) // 5 + d - 719469
  local seconds = ((days * 24 + h) * 60 + mi) * 60 + sec
  return math.floor(seconds * 1000 + (tonumber("0" .. rest) or 0) * 1000)
end

-- Reads one container's lines, handing each to `put`.
local function read_container(d, instance, q, put)
  local stream <close> = d.docker:logs(instance.container, {
    follow = q.follow ~= false, tail = q.tail or TAIL, since = q.since and q.since // 1000,
    stdout = true, stderr = true, timestamps = true,
  })
  while true do
    local line, name, time = stream:recv()
    if not line then return end
    if not (q.since and time and time < q.since) then -- Docker's `since` has whole seconds
      put { time = time and clock.format(time), app = instance.app, release = instance.number,
        instance = instance.name, stream = name, line = line }
    end
  end
end

local function live_instances(d, app)
  return d.store:all([[SELECT instance.*, release.number, app.name AS app FROM instance
    JOIN release ON release.id = instance.release JOIN app ON app.id = release.app
    WHERE app.id = ? AND instance.gone_at IS NULL AND instance.container IS NOT NULL
    AND release.state IN ('created', 'healthy', 'live', 'draining')]], app.id)
end

-- What is asked for, as `read_container` takes it.
local function logs_query(c, follow)
  local q = c.query
  return { follow = follow, tail = q.tail, since = since_of(q.since) }
end

-- Everything there is now, in the order of its times.
local function list_logs(c)
  local d, q, list = c.d, logs_query(c, false), json.array {}
  q.tail = math.min(q.tail or TAIL, LIST_TAIL)
  tasks.each("logs", live_instances(d, app_of(c)), function(instance)
    read_container(d, instance, q, function(line)
      line.order = #list
      list[#list + 1] = line
    end)
  end)
  table.sort(list, function(a, b)
    if a.time ~= b.time then return (a.time or "") < (b.time or "") end
    return a.order < b.order
  end)
  for i, line in ipairs(list) do line.order, line.seq = nil, i end
  return list
end

-- Sends what there is, and closes: normally, or with what went wrong.
local function send_all(d, ws, app, q, put)
  local ok, e = pcall(tasks.each, "logs", live_instances(d, app), function(instance)
    read_container(d, instance, q, put)
  end)
  if ok then return ws:close(1000, "that was all") end
  if e.code == "cancelled" then error(e, 0) end
  ws:close(1011, tostring(e.message or e):sub(1, 120))
end

-- Follows every instance of the app, those of releases yet to come as well.
local function follow_all(d, app, q, put, following)
  while true do
    for _, instance in ipairs(live_instances(d, app)) do
      local id = instance.container
      following[id] = following[id] or task.spawn("logs", function()
        local ok = pcall(read_container, d, instance, q, put)
        if not ok then following[id] = nil end
      end)
    end
    d.store.changed:wait(IDLE_MS)
  end
end

local function logs(c)
  local d, app = c.d, app_of(c)
  local q = logs_query(c, c.query.follow)
  return function(ws)
    local following, seq = {}, 0
    local function put(entry)
      seq = seq + 1
      entry.seq = seq
      ws:send(json.encode(entry))
    end
    local follower = task.spawn("logs", function()
      if q.follow == false then return send_all(d, ws, app, q, put) end
      follow_all(d, app, q, put, following)
    end)
    until_closed(ws, follower)
    for _, child in pairs(following) do child:cancel() end
  end
end

local key = {
  app = s.doc(s.text, "The app's name."), project = shapes.key.project,
  environment = shapes.key.environment,
  follow = s.doc({ type = "boolean", default = true }, "A WebSocket goes on with what comes; with false it "
    .. "is closed after what there is."),
}

local function with(more)
  for name, schema in pairs(key) do more[name] = schema end
  return more
end

return {
  { method = "WS", path = "/ws/events", id = "followEvents", permission = "read",
    query = with { since = { type = "integer", minimum = 0, description = "Events after this `seq`; without it, "
      .. "those to come, or of a plain GET the last 200." },
      run = s.doc(s.text, "Only this run's.") },
    summary = "What happens, as a WebSocket; asked without an upgrade, as a list.",
    doc = "A frame is one event. An event is shown when it is durable, and `since` resumes after any of them, "
      .. "through restarts of the daemon too; the last 50,000 are kept. A plain GET gets at most 200.",
    payload = s.list(s.ref "Event"), frames = s.ref "Event", fails = { 404 },
    handler = events, list = list_events },
  { method = "WS", path = "/ws/logs", id = "followLogs", permission = "read", needs = "app",
    query = with { since = s.doc(s.text, "UTC milliseconds or RFC 3339: lines from then on."),
      tail = { type = "integer", minimum = 0, description = "Begin with so many lines of each instance; 100." } },
    summary = "Lines of the app's containers, as a WebSocket; asked without an upgrade, as a list.",
    doc = "A frame is one line. Instances that start later join in. To resume, pass the last line's time as "
      .. "`since`. A plain GET gets at most 5,000 lines of an instance.",
    payload = s.list(s.ref "LogLine"), frames = s.ref "LogLine", fails = { 404, 502, 504 },
    handler = logs, list = list_logs },
}
