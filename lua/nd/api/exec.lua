-- Running a command inside a live instance, over a WebSocket.

local crypto = require "crypto"
local json = require "json"
local task = require "task"
local err = require "nd.error"
local s = require "nd.api.schema"
local shapes = require "nd.api.shapes"
local policy = require "nd.service.policy"
local release_config = require "nd.service.release_config"

local OPEN_MS = 10000   -- for the first frame
local CHUNK = 24 * 1024 -- bytes a frame: base64 keeps it below 64 KiB

local function read_frame(data)
  local ok, frame = pcall(json.decode, data)
  if not ok or type(frame) ~= "table" then err.raise("bad_json", "a frame is a JSON object") end
  return frame
end

local request = s.closed({ command = s.list(s.text), stdin = s.boolean, user = s.text }, { "command" })

local answer = s.object {
  stream = { type = "string", enum = json.array { "stdout", "stderr" } },
  data = s.doc(s.text, "What was printed, in base64."), taken = s.doc(s.boolean, "A frame of input was."),
  exit_code = s.doc(s.integer, "The command has ended."), error = s.ref "RunError",
}

-- The first frame says what to run.
local function read_request(ws)
  local data = ws:recv(OPEN_MS)
  if not data then return nil end
  local frame = read_frame(data)
  s.check(request, frame)
  if #frame.command == 0 then err.raise("bad_request", "$.command: is empty", "name a program: [\"ls\", \"/\"]") end
  return frame
end

local function tell(ws, frame) ws:send(json.encode(frame)) end

-- Further frames are its input; each is acknowledged, so that the sender can keep the way free: that
-- it has left is seen only while we read.
local function feed(ws, session)
  for data in function() return (ws:recv()) end do
    local frame = read_frame(data)
    if frame.data then
      session:send(crypto.unbase64(frame.data))
      tell(ws, { taken = true })
    end
    if frame["end"] then session:finish() end
  end
end

local function converse(d, ws, instance)
  local asked = read_request(ws)
  if not asked then return end
  local session = d.exec:open(instance, asked.command, asked)
  local teller = task.spawn("exec output", function()
    for data, stream in function() return session:recv() end do
      for at = 1, #data, CHUNK do
        tell(ws, { stream = stream, data = crypto.base64(data:sub(at, at + CHUNK - 1)) })
      end
    end
    tell(ws, { exit_code = session:exit_code() })
    ws:close(1000, "the command has ended")
  end)
  local ok, e = pcall(feed, ws, session)
  if teller:alive() then -- the other side has left before the end
    teller:cancel()
    teller:wait()
    session:abort()
  end
  if not ok then error(e, 0) end
end

local function instance_of(c)
  local q = c.query
  local app = c.d.apps:get { app = q.app, project = q.project, environment = q.environment }
  local live = c.d.releases:live(app)
  if live then policy.enforce(c.d, c.user.name, app.name, release_config.of(live)) end
  return c.d.exec:instance(app, q.process, q.index)
end

local function show(c)
  local row = instance_of(c)
  return { name = row.name, process = row.process, index = row.position }
end

local function exec(c)
  local d, instance = c.d, instance_of(c)
  return function(ws)
    local ok, e = pcall(converse, d, ws, instance)
    if ok then return end
    if e.code == "cancelled" then error(e, 0) end
    local problem = err.from(e)
    pcall(tell, ws, { error = { code = problem.code, message = problem.message, hint = problem.hint } })
    pcall(ws.close, ws, 1011, "the command could not be run")
  end
end

return {
  { method = "WS", path = "/ws/exec", id = "exec", permission = "deploy", about = "query", needs = "app", audit = true,
    query = { app = s.doc(s.text, "The app's name."), project = shapes.key.project,
      environment = shapes.key.environment, process = s.doc(s.text, "Which of its processes; any, unless it is said."),
      index = { type = "integer", minimum = 1, description = "Which of its instances; the first that runs." } },
    summary = "Runs a command inside a live instance, with the environment and secrets that the app has.",
    doc = "The first frame is {command: [...], stdin?, user?}; with `stdin` further ones bring input, "
      .. "{data: base64}, and last {end: true}. Each is `taken` when the command has it; with less than 256 KiB on "
      .. "the way the daemon always sees the other side leave. What comes back is output as it is printed, and last "
      .. "the exit status. When the WebSocket closes before, the command is ended. Asked without an upgrade, it "
      .. "names the instance.",
    payload = s.object({ name = s.text, process = s.text, index = s.integer }, { "name", "process", "index" }),
    frames = answer,
    fails = { 404, 409, 502, 504 }, handler = exec, list = show },
}
