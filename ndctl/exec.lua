-- exec.lua - `ndctl exec`: a command inside a live instance; its exit status is ndctl's.

local clientlib = require "ndctl.lib.client"
local crypto = require "crypto"
local fail = require "ndctl.lib.fail"
local json = require "json"
local out = require "ndctl.lib.out"
local task = require "task"
local term = require "term"

local WINDOW = 8 -- frames on the way: less than what makes the daemon stop reading

-- What isn't yet taken stays here, so that the way is free for an interrupt.
local function send_stdin(ws, way)
  for data in term.read do
    ws:send(json.encode { data = crypto.base64(data) })
    way.frames = way.frames + 1
    while way.frames >= WINDOW do way.taken:wait() end
  end
  ws:send(json.encode { ["end"] = true })
end

local function raise_error(e)
  fail.raise(e.code, e.message, e.hint)
end

-- Writes what it prints; returns its exit status.
local function take(ws, way, write)
  while true do
    local frames = clientlib.receive(ws, 1000)
    if not frames then
      fail.raise("lost", "the daemon broke off the connection; the command was ended", "ndctl status")
    end
    for _, frame in ipairs(frames) do
      if frame.data then write(frame.stream, crypto.unbase64(frame.data)) end
      if frame.taken then
        way.frames = way.frames - 1
        way.taken:notify()
      end
      if frame.error then raise_error(frame.error) end
      if frame.exit_code then return frame.exit_code end
    end
  end
end

local function run(ctx)
  local c, o = ctx.client(), ctx.options
  local ws <close> = c:websocket("/ws/exec", c:scoped { app = ctx.args.app, process = o.process, index = o.instance })
  ws:send(json.encode { command = ctx.args.command, stdin = o.stdin or nil, user = o.user })
  -- Beside the reading: the command may answer before it has read all.
  local way = { frames = 0, taken = task.signal() }
  local feeder = o.stdin and task.spawn("stdin", function() pcall(send_stdin, ws, way) end)
  local parts = { stdout = {}, stderr = {} }
  local code = take(ws, way, function(stream, data)
    if o.json then
      table.insert(parts[stream], data)
    else
      io[stream]:write(data)
      io[stream]:flush()
    end
  end)
  if feeder then feeder:cancel() end
  if o.json then
    out.json { exit_code = code, stdout = table.concat(parts.stdout), stderr = table.concat(parts.stderr) }
  end
  return code
end

return {
  name = "exec",
  summary = "Run a command inside a live instance; exits with the command's status.",
  permission = "deploy", json = { type = "object", required = { "exit_code", "stdout", "stderr" } },
  usage = { "exec APP [options] [--] COMMAND [ARGUMENT...]" },
  args = { { "app" }, { "command", many = true } },
  options = {
    { "process", value = "NAME", doc = "an instance of this process; otherwise the first that runs" },
    { "instance", short = "i", type = "int", least = 1, value = "N", doc = "the N-th instance of it" },
    { "user", short = "u", value = "USER", doc = "run it as this user" },
    { "stdin", type = "flag", doc = "give it what comes on stdin, as it comes" },
  },
  notes = {
    "The command sees the environment and the secrets that the app has. There is no terminal: "
      .. "what is run must not need one. Interrupted, the command is ended.",
  },
  examples = {
    { "ndctl exec web bin/app version" },
    { "ndctl exec web --process worker -i 2 -- bin/app status", skip = "it has no such process here" },
    { "ndctl exec db --stdin -- psql -f - <schema.sql", skip = "it is a line for a shell" },
  },
  run = run,
}
