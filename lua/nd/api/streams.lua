-- Events, resumable: a WebSocket follows them, a plain GET takes what there is. (Logs: logs.lua.)

local clock = require "clock"
local json = require "json"
local task = require "task"
local permission = require "nd.permission"
local s = require "nd.api.schema"
local shapes = require "nd.api.shapes"

local BATCH = 200  -- of a list
local FRAMES = 50  -- that a follower is sent before others have their turn
local IDLE_MS = 5000

-- ---- events ----

-- Of the app that the query names, or all that who asks may see.
local function event_query(c, most)
  local q = c.query
  local app = q.app and c.d.apps:get { app = q.app, project = q.project, environment = q.environment }
  local where, args = { "seq > ?" }, {}
  local function add(sql, values)
    where[#where + 1] = sql
    table.move(values, 1, #values, #args + 1, args)
  end
  if app then add("event.app = ?", { app.id }) end
  for _, field in ipairs { "project", "environment" } do -- without an app: all of one's
    if not app and q[field] then add(("app.%s = ?"):format(field), { q[field] }) end
  end
  if q.seen then add(q.seen.sql, q.seen.args) end
  local secrets = permission.where(c.user.rights, "secrets:read")
  if secrets then
    add(("(kind NOT IN ('secret.set', 'secret.removed') OR %s)"):format(secrets.sql), secrets.args)
  end
  if q.run then add("event.run = ?", { q.run }) end
  return ([[SELECT seq, time, kind, event.app, event.run, data, app.name, app.project, app.environment
    FROM event LEFT JOIN app ON app.id = event.app WHERE %s ORDER BY seq LIMIT %d]]):format(
    table.concat(where, " AND "), most), args
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

local function list_events(c)
  local d, q = c.d, c.query
  local sql, args = event_query(c, BATCH)
  local list = json.array {}
  for i, row in ipairs(d.store:all(sql, q.since or math.max(0, d.store:last_event() - BATCH),
    table.unpack(args))) do
    list[i] = event_of(row)
  end
  return list
end

local function events(c)
  local d, q = c.d, c.query
  local sql, args = event_query(c, FRAMES)
  local since = q.since or d.store:last_event()
  return function(ws)
    local follower = task.spawn("events", function()
      while true do
        local rows = d.store:all(sql, since, table.unpack(args))
        for _, row in ipairs(rows) do
          ws:send(json.encode(event_of(row)))
          since = row.seq
        end
        if #rows == FRAMES then
          task.yield()
        else
          if q.follow == false then return ws:close(1000, "that was all") end
          d.store.changed:wait(IDLE_MS)
        end
      end
    end)
    until_closed(ws, follower)
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
  { method = "WS", path = "/ws/events", id = "followEvents", permission = "read", about = "query",
    query = with { since = { type = "integer", minimum = 0, description = "Events after this `seq`; without it, "
      .. "those to come, or of a plain GET the last 200." },
      run = s.doc(s.text, "Only this run's.") },
    summary = "What happens, as a WebSocket; asked without an upgrade, as a list.",
    doc = "A frame is one event. An event is shown when it is durable, and `since` resumes after any of them, "
      .. "through restarts of the daemon too; the last 50,000 are kept. A plain GET gets at most 200. Which secrets "
      .. "were set or removed is for who has `secrets:read`.",
    payload = s.list(s.ref "Event"), frames = s.ref "Event", fails = { 404 },
    handler = events, list = list_events },
}
