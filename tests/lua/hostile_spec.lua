-- hostile_spec.lua - scripts that mean no good, each in a worker of its own: it ends within its limits, by
-- the named error, and whoever holds its socket is not held up. (tests/lua/hostile/scripts.lua has them.)
--
-- Memory and system calls are limited only in a worker that was built without sanitizers.

local clock = require "clock"
local fs = require "fs"
local json = require "json"
local task = require "task"
local worker = require "worker"

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local scripts = dofile(here .. "/hostile/scripts.lua")

local MEMORY, CPU = 64 << 20, 1
local WALL = 20000          -- ms; the CPU limit is what ends a loop, however busy the machine is
local EFFECTS = 2000        -- after so many the holder has enough
local KILLED, OUT_OF_CPU = 9, 24

describe("a hostile script", function()
  local slowest, largest, count = 0, 0, 0

  local function note_memory(w)
    local ok, status = pcall(fs.read, ("/proc/%d/status"):format(w:pid()))
    local peak = ok and tonumber(status:match "VmHWM:%s+(%d+)")
    if peak then largest = math.max(largest, peak) end
  end

  -- -> the last frame, the process's end, how many effects were asked for
  local function run(body)
    local w <close> = worker.spawn { memory = MEMORY, cpu_seconds = CPU }
    local source = "return recipe { run = function(p)\n" .. body .. "\nend }"
    w:send { type = "start", run = "r", files = { ["recipe.lua"] = source },
      entry = "recipe.lua", params = {}, seed = 1, mode = "run" }
    local deadline, effects, last, waiting = clock.monotonic() + WALL, 0, nil, {}
    while true do
      local ok, frame = pcall(w.recv, w, math.max(1, deadline - clock.monotonic()))
      if not ok then return { type = frame.code }, { status = 0, signal = 0 }, effects end
      if not frame then break end
      last = frame
      note_memory(w)
      for _, e in ipairs(frame.effects or {}) do
        effects = effects + 1
        waiting[#waiting + 1] = e
      end
      if effects > EFFECTS then
        w:kill()
        return { type = "flood" }, w:wait(), effects
      end
      -- What a branch that lost had in flight is answered first.
      local e = table.remove(waiting, 1)
      if e then w:send { type = "answer", n = e.n, ok = true, value = e.n } end
    end
    return last or {}, w:wait(), effects
  end

  local function each(kind, check)
    local wrong = {}
    for i, script in ipairs(scripts[kind]) do
      local pattern, body = nil, script
      if type(script) == "table" then pattern, body = script[1], script[2] end
      local began = clock.monotonic()
      local last, status, effects = run(body)
      slowest = math.max(slowest, clock.monotonic() - began)
      count = count + 1
      local ok, why = pcall(check, last, status, pattern, effects)
      if not ok then
        wrong[#wrong + 1] = ("%s %d: %s\n  %s\n  it ended with %s, status %d, signal %d"):format(kind, i,
          tostring(why), body, json.encode(last):sub(1, 300), status.status, status.signal)
      end
    end
    assert(#wrong == 0, table.concat(wrong, "\n"))
  end

  local ticking, worst
  setup(function()
    worst = 0
    ticking = task.spawn("ticks", function()
      while true do
        local at = clock.monotonic()
        task.sleep(5)
        worst = math.max(worst, clock.monotonic() - at - 5)
      end
    end)
  end)

  teardown(function()
    ticking:cancel()
    print(("%d hostile scripts: the longest took %d ms, the largest process had %d MB; "
      .. "their holder's loop was late by %d ms at most"):format(count, slowest, largest // 1024, worst))
  end)

  it("that only computes is ended by its CPU limit, whatever it catches", function()
    each("cpu", function(_, status)
      assert(status.signal == OUT_OF_CPU or status.signal == KILLED, "not by its CPU limit")
    end)
  end)

  it("that takes memory without end is ended by its memory limit, whatever it catches", function()
    each("memory", function(last, status)
      local named = last.type == "failed" and last.error.code == "recipe_memory" or status.status == 80
      local refused = last.type == "failed" and last.error.message:find "string too large"
      assert(named or refused or status.signal == OUT_OF_CPU, "not by its memory limit")
    end)
  end)

  it("that breaks a rule of Lua or of recipes gets an error that says so", function()
    each("fails", function(last, _, pattern)
      assert(last.type == "failed", "it did not fail")
      -- A stack that grows without end may meet the memory limit first.
      local full = pattern:find "overflow" and last.error.code == "recipe_memory"
      assert(full or last.error.message:find(pattern), "another error")
    end)
  end)

  it("that looks for a way out finds none, and is none the worse for it", function()
    each("done", function(last)
      assert(last.type == "done", "it did not end well")
      assert(last.value == true, "it found something")
    end)
  end)

  it("that asks without end is counted", function()
    each("flood", function(last, _, _, effects)
      assert(last.type == "flood" or effects > 100, "it was not counted")
    end)
  end)

  it("leaves nothing behind for the next one", function()
    local last = run "leaked = (leaked or 0) + 1 string.leaked = 1 return leaked == 1"
    assert.is_true(last.value)
    last = run "leaked = (leaked or 0) + 1 return leaked == 1 and string.leaked == nil"
    assert.is_true(last.value)
  end)
end)
