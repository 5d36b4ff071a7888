-- WebSockets: events and logs, each resumable.

local clock = require "clock"
local json = require "json"
local task = require "task"
local err = require "nd.error"
local s = require "nd.api.schema"

local BATCH = 200
local IDLE_MS = 5000

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

local function event_frame(row)
  return json.encode {
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

local function events(c)
  local d, q = c.d, c.query
  local app = q.app and d.apps:get { app = q.app, project = q.project, environment = q.environment }
  local sql, args = event_query(q, app)
  local since = q.since or d.store:last_event()
  return function(ws)
    local follower = task.spawn("events", function()
      while true do
        local rows = d.store:all(sql, since, table.unpack(args))
        for _, row in ipairs(rows) do
          ws:send(event_frame(row))
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

-- Follows one container, handing each line to `put`.
local function follow_container(d, instance, q, put)
  local stream <close> = d.docker:logs(instance.container, {
    follow = q.follow ~= false, tail = q.tail or 100, since = q.since and q.since // 1000,
    stdout = true, stderr = true, timestamps = true,
  })
  while true do
    local line, name, time = stream:recv()
    if not line then return end
    put { time = time and clock.format(time), app = instance.app, release = instance.number,
      instance = instance.name, stream = name, line = line }
  end
end

local function live_instances(d, app)
  return d.store:all([[SELECT instance.*, release.number, app.name AS app FROM instance
    JOIN release ON release.id = instance.release JOIN app ON app.id = release.app
    WHERE app.id = ? AND instance.gone_at IS NULL AND instance.container IS NOT NULL
    AND release.state IN ('created', 'healthy', 'live', 'draining')]], app.id)
end

-- Follows every instance of the app, those of releases yet to come as well.
local function logs(c)
  local d, q = c.d, c.query
  if not q.app then err.raise("bad_request", "query: the parameter 'app' is missing") end
  local app = d.apps:get { app = q.app, project = q.project, environment = q.environment }
  return function(ws)
    local following, seq = {}, 0
    local function put(entry)
      seq = seq + 1
      entry.seq = seq
      ws:send(json.encode(entry))
    end
    local function look()
      local children = {}
      for _, instance in ipairs(live_instances(d, app)) do
        if not following[instance.container] then
          local child = task.spawn("logs", function()
            local ok = pcall(follow_container, d, instance, q, put)
            if not ok and q.follow ~= false then following[instance.container] = nil end
          end)
          following[instance.container] = child
          children[#children + 1] = child
        end
      end
      return children
    end
    local follower = task.spawn("logs", function()
      for _, child in ipairs(look()) do
        if q.follow == false then child:wait() end
      end
      if q.follow == false then return ws:close(1000, "that was all") end
      while true do
        d.store.changed:wait(IDLE_MS)
        look()
      end
    end)
    until_closed(ws, follower)
    for _, child in pairs(following) do child:cancel() end
  end
end

local key = { app = s.text, project = s.text, environment = s.text, follow = s.boolean }

local function with(more)
  for name, schema in pairs(key) do more[name] = schema end
  return more
end

return {
  { method = "WS", path = "/ws/events", id = "followEvents", permission = "read",
    query = with { since = s.integer, run = s.text },
    summary = "Events in order, from after `since`; {seq, time, kind, app, run, data} a frame.",
    handler = events },
  { method = "WS", path = "/ws/logs", id = "followLogs", permission = "read",
    query = with { since = s.integer, tail = s.integer },
    summary = "Lines of the app's containers; {seq, time, app, release, instance, stream, line} a frame.",
    handler = logs },
}
