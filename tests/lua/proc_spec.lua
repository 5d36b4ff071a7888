-- The host's metrics as the API shows them, from a /proc made by hand.
local fs = require "fs"
local proc = require "proc"

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local spec = dofile(here .. "/lib/spec.lua")
local raised = spec.raised

describe("proc", function()
  local root

  before_each(function()
    root = os.tmpname()
    os.remove(root)
    fs.mkdir(root .. "/7/net")
    fs.write(root .. "/stat", "cpu  173 0 0 827 0 0 0 0 0 0\ncpu0 1 1 1 1\n")
    fs.write(root .. "/meminfo", "MemTotal: 1000 kB\nMemAvailable: 418 kB\n")
    fs.write(root .. "/loadavg", "0.50 1.25 2.00 1/100 4242\n")
    fs.write(root .. "/uptime", "6130.50 1000.00\n")
  end)

  after_each(function()
    fs.remove(root, { recursive = true })
  end)

  it("tells the host in percent and bytes", function()
    local m = proc.host { proc_root = root, sys_root = root, disk_path = root }
    assert.same({ 1.73, 8.27 }, { m.cpu_times.user, m.cpu_times.idle })
    assert.equal(58.2, m.memory)
    assert.equal("1h42m", m.uptime)
    assert.equal(6130, m.uptime_seconds)
    assert.equal(1, m.cores)
    assert.equal(1024000, m.memory_total)
    assert.same({ 0.5, 1.25, 2.0 }, m.load)
    assert.is_nil(m.pressure)
    assert.is_true(m.disk >= 0 and m.disk <= 100)
  end)

  it("reads the real ones", function()
    local m = proc.host()
    assert.is_true(m.cores >= 1 and m.memory_total > m.memory_available)
    local me = proc.process(tonumber(fs.read("/proc/self/stat"):match("^%d+")))
    assert.is_true(me.start > 0 and me.rss > 0)
    assert.is_nil(proc.process(99999999))
  end)

  it("names the file that is missing", function()
    fs.remove(root .. "/meminfo")
    local err = raised(proc.host, { proc_root = root })
    assert.equal("proc_unreadable", err.code)
    assert.equal("can't read " .. root .. "/meminfo: No such file or directory", err.message)
    assert.equal("check --proc-root", err.hint)
  end)

  it("lists who is connected, and who has stopped sending", function()
    fs.write(root .. "/7/net/tcp", [[
  sl  local_address rem_address   st
   0: 020011AC:1F90 010011AC:D431 01 0
   1: 020011AC:1F90 010011AC:D432 08 0
   2: 020011AC:1F91 010011AC:D433 01 0
]])
    local open, half = proc.connections(7, 8080, { proc_root = root })
    assert.same({ { peer = "172.17.0.1:54321", local_port = 8080, state = "established" } }, open)
    assert.same({ { peer = "172.17.0.1:54322", local_port = 8080, state = "close_wait" } }, half)
    assert.equal(2, #proc.connections(7, nil, { proc_root = root }))
    assert.equal("not_found", raised(proc.connections, 8, 8080, { proc_root = root }).code)
  end)

  it("writes durations as Go does", function()
    assert.equal("5m12s", proc.duration(312))
  end)
end)
