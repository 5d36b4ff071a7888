-- cli_support.lua - a scripted daemon, and ndctl run against it.
--
-- `support.daemon{ ["GET /status"] = answer, ... }` listens on a socket of its own. An answer is
-- {status =, payload =, ...rest of the envelope} or function(request) returning one; for the
-- WebSockets ("WS /ws/events") it is function(ws, request). What was asked is in d.requests.

local fs = require "fs"
local json = require "json"
local process = require "process"
local server = require "server"

local support = {}

local bin = os.getenv("ND_BIN_DIR")

local function envelope(answer)
  local body = { success = (answer.status or 200) < 400, message = answer.message or "ok" }
  for _, key in ipairs { "code", "hint", "payload" } do body[key] = answer[key] end
  return {
    status = answer.status or 200,
    headers = { ["content-type"] = "application/json" },
    body = json.encode(body),
  }
end

local Daemon = {}
Daemon.__index = Daemon

function Daemon:handle(request)
  local name = ("%s %s"):format(request.websocket and "WS" or request.method, request.path)
  local seen = { name = name, query = request.query, headers = request.headers }
  if request.body and request.body ~= "" then seen.body = json.decode(request.body) end
  self.requests[#self.requests + 1] = seen
  local route = self.routes[name]
  if not route then
    return envelope { status = 404, code = "not_found", message = "no such thing: " .. name }
  end
  if request.websocket and type(route) == "function" then
    return { upgrade = function(ws) route(ws, request) end }
  end
  if type(route) == "function" then route = route(request, seen) end
  local answer = envelope(route)
  if self.version then answer.headers.server = "nextdeployd/" .. self.version end
  return answer
end

function Daemon:close()
  if not self.server then return end
  self.server:close(0)
  self.server = nil
  fs.remove(self.dir, { recursive = true })
end

-- The first request of a name, or nil.
function Daemon:asked(name)
  for _, request in ipairs(self.requests) do
    if request.name == name then return request end
  end
end

function support.dir()
  local dir = os.tmpname()
  os.remove(dir)
  fs.mkdir(dir, 448)
  return dir
end

function support.daemon(routes)
  local d = setmetatable({ routes = routes, requests = {}, dir = support.dir() }, Daemon)
  d.socket = d.dir .. "/daemon.sock"
  d.host = "unix://" .. d.socket
  d.server = server.listen({ unix = d.socket, mode = 384 }, function(request)
    return d:handle(request)
  end)
  return d
end

-- Runs ndctl; words is a list. options: host, env, cwd, stdin, argv (before ndctl's own), and
-- terminal = true for one of its own, whose output is all in stdout.
function support.ndctl(words, options)
  options = options or {}
  local argv = table.move(options.argv or {}, 1, #(options.argv or {}), 1, {})
  if options.terminal then
    argv = { "script", "-qec", bin .. "/ndctl " .. table.concat(words, " "), "/dev/null" }
  else
    argv[#argv + 1] = bin .. "/ndctl"
    table.move(words, 1, #words, #argv + 1, argv)
  end
  local env = { PATH = os.getenv("PATH"), NDCTL_HOST = options.host, LANG = "C",
    ND_LUA_DIR = os.getenv("ND_LUA_DIR") }
  for name, value in pairs(options.env or {}) do env[name] = value end
  return process.run { argv = argv, env = env, cwd = options.cwd, stdin = options.stdin,
    timeout_ms = options.timeout_ms or 20000 }
end

return support
