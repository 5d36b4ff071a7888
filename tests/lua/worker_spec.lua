-- The daemon's end of nd-worker processes: frames, limits, and what is left after a kill.

local fs = require "fs"
local worker = require "worker"
local engine = require "tests.lua.lib.engine"
local json = require "json"
local task = require "task"

local function start_frame(source, more)
  local frame = {
    type = "start", run = "r1", files = { ["recipe.lua"] = source }, entry = "recipe.lua",
    params = {}, seed = 1, mode = "run",
  }
  for name, value in pairs(more or {}) do
    frame[name] = value
  end
  return frame
end

local function is_alive(pid)
  local file <close> = io.open("/proc/" .. pid .. "/stat")
  local state = file and file:read("a"):match("%) (%a)")
  return state ~= nil and state ~= "Z"
end

local function within_2_s(condition)
  for _ = 1, 200 do
    if condition() then
      return
    end
    task.sleep(10)
  end
  error("it did not come true within 2 s", 2)
end

describe("a worker", function()
  it("tells what its recipe is and ends", function()
    local w <close> = engine.spawn()
    w:send(start_frame('return recipe { summary = "hi", run = print }', { mode = "header" }))
    local frame = w:recv(5000)
    assert.equal("header", frame.type)
    assert.equal("hi", frame.recipe.summary)
    assert.is_nil(w:recv(5000))
    assert.same({ status = 0, signal = 0 }, w:wait())
  end)

  it("asks for effects and goes on with their answers", function()
    local w <close> = engine.spawn()
    w:send(start_frame('return recipe { run = function() return docker.pull("a:1") .. "!" end }'))
    assert.equal("header", w:recv(5000).type)
    local parked = w:recv(5000)
    assert.equal("docker.pull", parked.effects[1].name)
    assert.same(json.array { "a:1" }, parked.effects[1].args)
    w:send { type = "answer", n = 1, ok = true, value = "sha256:1" }
    local done = w:recv(5000)
    assert.equal("done", done.type)
    assert.equal("sha256:1!", done.value)
  end)

  it("can be waited for with a time-out, and killed", function()
    local w <close> = engine.spawn()
    local ok, err = pcall(w.recv, w, 20)
    assert.is_false(ok)
    assert.equal("timeout", err.code)
    w:kill()
    assert.equal(9, w:wait().signal)
    assert.is_nil(w:recv(5000))
    assert.equal("worker_gone", select(2, pcall(w.send, w, {})).code)
  end)

  it("is killed when nobody refers to it any more", function()
    local pid
    do
      local w = engine.spawn()
      pid = w:pid()
    end
    collectgarbage()
    within_2_s(function() return not is_alive(pid) end)
  end)

  it("is an error to start where there is no such program", function()
    local ok, err = pcall(worker.spawn, { path = "/nonexistent/nd-worker" })
    assert.is_false(ok)
    assert.equal("worker_start", err.code)
  end)

  it("that says garbage is killed, with worker_protocol", function()
    local path = os.tmpname()
    local function says(script, signal)
      local file = assert(io.open(path, "w"))
      file:write("#!/bin/sh\n", script, "\nexec sleep 60\n")
      file:close()
      assert(os.execute("chmod +x " .. path))
      local w <close> = worker.spawn { path = path }
      local ok, err = pcall(w.recv, w, 5000)
      assert.is_false(ok)
      assert.equal("worker_protocol", err.code)
      assert.equal(signal, w:wait().signal)
    end
    says([[printf '\377\377\377\377abc' >&3]], 9)
    says([[printf '\0\0\0\3abc' >&3]], 9)
    says([[printf '\0\0\0\1001' >&3; exit 0]], 0)
    os.remove(path)
  end)

  -- A worker that waits for an answer, so that it has locked itself in; of its /proc, the file `name`.
  local function waiting()
    local w = engine.spawn()
    w:send(start_frame("return recipe { run = function() uuid() end }"))
    assert.equal("header", w:recv(5000).type)
    return w, function(name)
      local file <close> = assert(io.open(("/proc/%d/%s"):format(w:pid(), name)))
      return file:read("a")
    end
  end

  local root = io.open("/proc/self/status"):read("a"):match("Uid:%s+(%d+)") == "0"
  local plain = false -- not built with sanitizers, which need more than a worker may do

  setup(function()
    local w <close>, read = waiting() -- luacheck: ignore w
    plain = read("limits"):find("Max address space%s+%d") ~= nil
  end)

  it("is a user of its own, without privileges and without a way to any", function()
    local w <close>, read = waiting()
    local other <close>, read_other = waiting() -- luacheck: ignore other
    local status = read "status"
    local uid = status:match("Uid:%s+(%d+)")
    for _, kind in ipairs { "Uid", "Gid" } do
      local own = status:match(kind .. ":%s+(%d+)")
      assert.truthy(status:find(("%s:\t%s\t%s\t%s\t%s\n"):format(kind, own, own, own, own), 1, true))
      assert.is_true(not root or tonumber(own) > 65536)
    end
    assert.is_true(not root or uid ~= read_other("status"):match("Uid:%s+(%d+)"))
    assert.equal("", status:match("Groups:[ \t]*(.-)[ \t]*\n"))
    for _, set in ipairs { "Inh", "Prm", "Eff", "Amb" } do
      assert.equal("0000000000000000", status:match("Cap" .. set .. ":%s+(%x+)"))
    end
    assert.equal("1", status:match("NoNewPrivs:%s+(%d)"))
    assert.equal(plain and "2" or "0", status:match("Seccomp:%s+(%d)"))
    if plain and root then -- not dumpable: its files in /proc are root's
      assert.equal("0", tostring(fs.stat(("/proc/%d/fd"):format(w:pid())).uid))
    end
  end)

  it("has namespaces of its own, and an empty root without a mount of the host's", function()
    if not plain then return end
    local w <close>, read = waiting()
    for _, kind in ipairs { "net", "mnt", "ipc", root and "pid" or "user" } do
      local path = "/proc/%s/ns/" .. kind
      assert.not_equal(fs.readlink(path:format "self"), fs.readlink(path:format(w:pid())), kind)
    end
    assert.equal(1, select(2, read("mountinfo"):gsub("\n", "")))
    assert.truthy(read("mountinfo"):find(" / / ro,nosuid,nodev,noexec", 1, true))
    assert.same({}, fs.list(("/proc/%d/root"):format(w:pid())))
    assert.equal(1, select(2, read("net/dev"):gsub("%f[^\n]%s*%w+:", ""))) -- lo, which is down
    assert.is_nil(read("net/route"):match("\n."))
    if root then assert.truthy(read("status"):find("NSpid:%s+%d+%s+1\n")) end
  end)

  it("has no file but its socket, and room for no other", function()
    local w <close>, read = waiting()
    local limits = read "limits"
    local function limit(name) return limits:match(name .. "%s+(%d+)") end
    assert.equal("0", limit "Max core file size")
    assert.equal("0", limit "Max file size")
    assert.equal("60", limit "Max cpu time")
    if plain then
      assert.equal("0", limit "Max open files")
      assert.equal("0", limit "Max processes")
      assert.is_true(tonumber(limit "Max data size") < (64 << 20) * 1.05)
      assert.same({ "3" }, fs.list(("/proc/%d/fd"):format(w:pid())))
      assert.truthy(fs.readlink(("/proc/%d/fd/3"):format(w:pid())):find("^socket:"))
    end
    assert.equal("", read "environ")
  end)

  it("dies with its parent", function()
    local dir = os.tmpname()
    os.remove(dir)
    -- A shell starts a worker on a pipe that never says anything, and becomes a sleep.
    assert(os.execute(([[mkdir %s && cd %s && mkfifo pipe && { sh -c '
      exec 7<>pipe
      %s/nd-worker --fd 7 --memory 1000000 --cpu 5 & echo $! >child
      exec sleep 60' >out 2>&1 & echo $! >parent; }]]):format(dir, dir, os.getenv("ND_BIN_DIR"))))
    local function read(path)
      local file <close> = io.open(path)
      return file and file:read("n") or nil
    end
    local child
    within_2_s(function()
      child = read(dir .. "/child")
      if not child or not is_alive(child) then return false end
      return fs.read(("/proc/%d/status"):format(child)):find "NoNewPrivs:%s+1" ~= nil -- it has locked itself in
    end)
    os.execute("kill -9 " .. read(dir .. "/parent"))
    within_2_s(function() return not is_alive(child) end)
    os.execute("rm -r " .. dir)
  end)

  it("ends by itself when the daemon closes its socket", function()
    local w <close> = engine.spawn()
    w:send(start_frame('return recipe { run = function() uuid() end }'))
    w:recv(5000)
    w:recv(5000)
    w:close()
  end)
end)
