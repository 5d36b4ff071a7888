-- tasks_spec.lua - time-outs of the daemon's own Lua: what is late is interrupted, and nothing that happened
-- is told as if it had not.

local task = require "task"
local err = require "nd.error"
local tasks = require "nd.tasks"

local late = err.new("late", "too late")

-- An act of `ms` that can't be stopped any more once it has begun.
local function firm(ms)
  return function()
    local over
    task.spawn("act", function()
      task.sleep(ms)
      over = true
    end)
    repeat pcall(task.sleep, 1) until over
    return "done"
  end
end

local function code_of(fn, ...)
  local ok, e = pcall(fn, ...)
  return not ok and e.code or "none"
end

describe("an act with a deadline", function()
  it("is interrupted then, and fails by the error it was given", function()
    assert.equal("late", code_of(tasks.act, 5, late, function() task.sleep(60000) end))
    assert.equal("late", code_of(tasks.timeout, 5, late, function() task.sleep(60000) end))
  end)

  it("brings its result and its error", function()
    assert.equal(3, tasks.act(1000, late, function() return 3 end))
    assert.is_nil(tasks.act(1000, late, function() end))
    assert.equal("no", code_of(tasks.act, 1000, late, function() err.raise("no", "no") end))
  end)

  it("has happened when it came to its end all the same, too late or while its caller was cancelled", function()
    assert.equal("done", tasks.act(5, late, firm(30)))
    local result
    local caller = task.spawn("caller", function() result = tasks.act(1000, late, firm(30)) end)
    task.sleep(5)
    caller:cancel()
    caller:wait()
    assert.equal("done", result)
    assert.equal("late", code_of(tasks.timeout, 5, late, firm(30)))
  end)

  it("is interrupted with its caller", function()
    local raised
    local caller = task.spawn("caller", function()
      raised = code_of(tasks.act, 60000, late, function() task.sleep(60000) end)
    end)
    task.sleep(5)
    caller:cancel()
    caller:wait()
    assert.equal("cancelled", raised)
  end)
end)
