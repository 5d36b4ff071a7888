-- Logs: what an app's containers print, searched and followed.

local err = require "nd.error"
local s = require "nd.api.schema"
local shapes = require "nd.api.shapes"
local Logs = require "nd.service.logs"

local TAIL = 100       -- lines, unless it is said
local LIST_TAIL = 5000 -- the most a plain GET gets

-- The app, and what of its log is asked for.
local function asked(c)
  local q = c.query
  local query = Logs.since(q.since)
  query["until"] = Logs.time(q["until"], "until")
  query.release, query.instance, query.grep = q.release, q.instance, q.grep
  query.tail = q.tail or not q.since and TAIL or nil
  if q.follow ~= false and q["until"] and c.request.websocket then
    err.raise("bad_request", "query.until: who follows has no end in view", "pass follow=false with it")
  end
  return c.d.apps:get { app = q.app, project = q.project, environment = q.environment }, query
end

local function list(c)
  local app, query = asked(c)
  query.tail = math.min(query.tail or LIST_TAIL, LIST_TAIL)
  local lines = c.d.logs:read(app, query)
  c.raw = true -- the payload comes as JSON text
  return { status = 200, body = '{"success":true,"message":"ok","payload":' .. lines .. "}",
    headers = { ["content-type"] = "application/json", server = "nextdeployd/" .. c.d.version } }
end

local function follow(c)
  local app, query = asked(c)
  query.follow = c.query.follow ~= false
  local lines = c.d.logs:of(app.id, app.name) -- what fails does so before the upgrade
  return function(ws) lines:follow(ws, query) end
end

local entry = s.one_of(s.ref "LogLine", s.ref "LogDropped")

return {
  { method = "WS", path = "/ws/logs", id = "followLogs", permission = "read", about = "query", needs = "app",
    query = {
      app = s.doc(s.text, "The app's name."), project = shapes.key.project,
      environment = shapes.key.environment,
      since = s.doc(s.text, "Where to begin. A number below 10^12 is a `seq`: the lines after it. Any other is a "
        .. "time, in UTC milliseconds or RFC 3339: the lines from then on."),
      ["until"] = s.doc(s.text, "Lines before that time, UTC milliseconds or RFC 3339; with follow=false."),
      release = { type = "integer", minimum = 1, description = "Lines of that release." },
      instance = s.doc(s.text, "Lines of that instance: its name, or the end of it: web-2-1, or 2-1."),
      grep = s.doc(s.text, "Lines that contain this text, as it is."),
      tail = { type = "integer", minimum = 0, description = "Begin with so many of the last lines: 100 without "
        .. "`since`, all with it." },
      follow = s.doc({ type = "boolean", default = true }, "A WebSocket goes on with what comes, also of releases "
        .. "yet to come; with false it is closed after what there is."),
    },
    summary = "Lines of the app's containers, as a WebSocket; asked without an upgrade, as a list.",
    doc = "A frame is one line or an array of lines, at most 64 KiB. Lines are numbered by `seq`, for each app and "
      .. "through restarts of the daemon; `since=SEQ` resumes after any of them. They are kept when the container "
      .. "is gone, up to a size for each app (`log_bytes`, 64M). A reader who follows and falls more than 100,000 "
      .. "lines behind is not sent these, but told how many they were: {\"dropped\": N}. Lines that came "
      .. "faster than the disk took them are told in the same way, with the seq of the last of them. A line of more "
      .. "than 8 KiB comes in pieces. A plain GET gets at most 5,000 lines, the last ones.",
    payload = s.list(entry), frames = s.one_of(s.ref "LogLine", s.ref "LogDropped", s.list(entry)),
    fails = { 404 }, handler = follow, list = list },
}
