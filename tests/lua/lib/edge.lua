-- edge.lua - what the specs of the proxies share.
--
--   edge.bin                          directory of the built programs
--   edge.ports(n) -> port...          that nobody listens on, apart for each test process
--   edge.wait_for(what, fn) -> value  until fn returns one, for 20 s
--   edge.background(name, argv, env)  a task that runs a program
--   edge.code_of(fn, ...) -> code, error     of what it raises
--   edge.app(port, version)           nd-sample in the background, once it answers

local fs = require "fs"
local http = require "http"
local process = require "process"
local task = require "task"

local edge = {}

local pid = fs.read("/proc/self/stat"):match("^%d+")
edge.bin = process.run { argv = { "readlink", "/proc/" .. pid .. "/exe" } }.stdout:match("^(.*)/")

function edge.ports(count)
  local taken = {}
  for _, path in ipairs { "/proc/net/tcp", "/proc/net/tcp6" } do
    for line in (fs.exists(path) and fs.read(path) or ""):gmatch("[^\n]+") do
      taken[tonumber(line:match(":(%x%x%x%x) ") or "", 16) or 0] = true
    end
  end
  local out, at = {}, 20000 + tonumber(pid) * 20 % 10000
  while #out < count do
    at = at + 1
    if not taken[at] then out[#out + 1] = at end
  end
  return table.unpack(out)
end

function edge.wait_for(what, fn)
  for _ = 1, 2000 do
    local ok, value = pcall(fn)
    if ok and value then return value end
    task.sleep(10)
  end
  error("gave up waiting for " .. what)
end

function edge.background(name, argv, env)
  return task.spawn(name, function()
    return process.run { argv = argv, env = env, max_output = 1 << 20 }
  end)
end

function edge.code_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "it raised nothing")
  return err.code, err
end

function edge.app(port, version)
  local app = edge.background("app " .. version, { edge.bin .. "/nd-sample" },
    { PORT = tostring(port), VERSION = version })
  edge.wait_for("the app", function()
    return http.request { url = "http://127.0.0.1:" .. port .. "/", timeout_ms = 1000 }
  end)
  return app
end

return edge
