-- Endpoints for protocol tests, with --test-endpoints only. They need no token.
--
-- ANY /_test/echo answers a body with the same body (and its content type), and a request without
-- one with what was understood of it. WS /_test/echo sends every message back as it came.
-- ANY /_test/secrets?app=NAME makes the texts of its body, a JSON array, secrets of the app's log.
-- ANY /_test/clock?shift=MS moves the daemon's wall clock away from the host's.

local clock = require "clock"
local json = require "json"

local function echo(c)
  local request = c.request
  local headers = { ["x-echo-method"] = request.method, ["cache-control"] = "no-store" }
  if request.body ~= "" then
    headers["content-type"] = request.headers["content-type"] or "application/octet-stream"
    return { status = 200, headers = headers, body = request.body }
  end
  headers["content-type"] = "application/json"
  return { status = 200, headers = headers, body = json.encode { success = true, message = "ok", payload = {
    method = request.method, target = request.target, path = request.path, query = request.query,
    headers = request.headers } } }
end

local function move_clock(c)
  clock.shift(math.tointeger(tonumber(c.query.shift)) or 0)
  c.d.schedule.changed:notify()
  return { status = 200, headers = { ["content-type"] = "application/json" }, body = json.encode {
    success = true, message = "ok", payload = { time = clock.format(clock.now()) } } }
end

local function add_secrets(c)
  c.d.logs:add_secrets(c.d.apps:get { app = c.query.app }.id, json.decode(c.request.body))
  return { status = 204 }
end

local function echo_messages()
  return function(ws)
    while true do
      local data, kind = ws:recv()
      if not data then return end
      ws:send(data, kind == "binary")
    end
  end
end

-- Its query is whatever it is.
local anything = setmetatable({}, { __index = function() return {} end })

return {
  { method = "ANY", path = "/_test/echo", id = "echo", permission = "none", raw = true, query = anything,
    summary = "Answers what was sent.", handler = echo },
  { method = "ANY", path = "/_test/clock", id = "moveClock", permission = "none", raw = true, query = anything,
    summary = "Moves the wall clock.", handler = move_clock },
  { method = "ANY", path = "/_test/secrets", id = "addSecrets", permission = "none", raw = true, query = anything,
    summary = "Makes texts secrets of a log.", handler = add_secrets },
  { method = "WS", path = "/_test/echo", id = "echoMessages", permission = "none", query = anything,
    summary = "Sends every message back.", handler = echo_messages },
}
