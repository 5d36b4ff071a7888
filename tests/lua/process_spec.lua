-- Child processes from Lua.
local process = require "process"
local task = require "task"

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local spec = dofile(here .. "/lib/spec.lua")
local raised = spec.raised

describe("process.run", function()
  it("gives back what a program wrote and how it ended", function()
    local out = process.run { argv = { "sh", "-c", "cat; echo $$ >&2; exit 3" }, stdin = "in\0put" }
    assert.equal("in\0put", out.stdout)
    assert.equal(out.pid .. "\n", out.stderr)
    assert.equal(3, out.status)
    assert.is_nil(out.signal)
    assert.is_false(out.truncated)
    assert.equal(9, process.run { argv = { "sh", "-c", "kill -9 $$" } }.signal)
  end)

  it("is no shell", function()
    assert.equal("$HOME;*", process.run { argv = { "printf", "%s", "$HOME;*" } }.stdout)
    assert.equal("42", process.run { argv = { "printf", "%s", 42 } }.stdout)
  end)

  it("passes the environment that it was given, and no other", function()
    assert.equal("A=1\nB=x y\n", process.run {
      argv = { "sh", "-c", "env | grep -E '^[AB]=' | sort" }, env = { A = 1, B = "x y" } }.stdout)
    assert.equal("", process.run { argv = { "/usr/bin/env" }, env = {} }.stdout)
    assert.matches("^PATH=[^\n]*\n$", process.run { argv = { "/usr/bin/env" } }.stdout)
    assert.equal("/\n", process.run { argv = { "pwd" }, cwd = "/" }.stdout)
  end)

  it("ends a program that takes too long, and quotes it", function()
    local err = raised(process.run, {
      argv = { "sh", "-c", "echo still busy >&2; exec sleep 60" }, timeout_ms = 100 })
    assert.equal("process_timeout", err.code)
    assert.equal("sh didn't end in time; it last said: still busy\n", err.message)
  end)

  it("ends with the task that waits for it", function()
    local t = task.spawn("waits", process.run, { argv = { "sleep", "60" } })
    task.sleep(20)
    t:cancel()
    assert.equal("cancelled", raised(t.join, t).code)
  end)

  it("names a program that is not there", function()
    local err = raised(process.run, { argv = { "no-such-program" } })
    assert.equal("process_start", err.code)
    assert.equal("can't start no-such-program: no such file or directory", err.message)
    assert.equal("process_start", raised(process.run, { argv = { "true" }, cwd = "/no" }).code)
  end)

  it("refuses arguments that C can't hold", function()
    for _, bad in ipairs {
      {}, { argv = {} }, { argv = { {} } }, { argv = { "a\0b" } }, { argv = { "true" }, env = 1 },
      { argv = { "true" }, env = { ["A=B"] = "x" } }, { argv = { "true" }, env = { A = "x\0" } },
      { argv = { "true" }, env = { "x" } }, { argv = { "true" }, timeout_ms = "soon" },
      { argv = { "true" }, uid = 1 },
    } do
      assert.equal("process_argument", raised(process.run, bad).code)
    end
  end)

  it("caps what it keeps", function()
    local out = process.run { argv = { "head", "-c", "5000", "/dev/zero" }, max_output = 100 }
    assert.equal(100, #out.stdout)
    assert.is_true(out.truncated)
  end)
end)
