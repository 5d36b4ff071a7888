-- hostile_spec.lua - scripts that mean no good, each in a worker of its own: it ends within its limits, by
-- the named error, and whoever holds its socket is not held up. (tests/lua/hostile/scripts.lua has them.)
--
-- Limits are held to + 1 s of what the process computed and, in a worker that was built without sanitizers,
-- to + 10 % of memory for the whole process. By the clock, which says more of the machine than of us, they
-- hold by a wide margin; with ND_EXACT=1, on a machine at rest, to + 1 s, and the loop to 50 ms
-- (tests/fault/hostile). ND_EVERY=N runs one in N.

local children = require "children"
local clock = require "clock"
local fs = require "fs"
local json = require "json"
local task = require "task"
local budget = require "nd.budget"
local frames = require "nd.service.frames"
local engine = require "tests.lua.lib.engine"

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local scripts = dofile(here .. "/hostile/scripts.lua")

local MEMORY, CPU, MEMORY_CPU = 64 << 20, 1, 5
local WALL = 20000          -- ms; the CPU limit is what ends a loop, however busy the machine is
local EFFECTS = 2000        -- after so many the holder has enough
local MORE_MS, MORE_MEMORY = 1000, 1.1
local by_the_clock = os.getenv "ND_EXACT" == "1"
local every = tonumber(os.getenv "ND_EVERY" or 1)
local LATE_MS = by_the_clock and 50 or 2000

describe("a hostile script", function()
  local count, longest, slowest, largest = 0, 0, 0, 0
  local plain -- built without sanitizers

  -- -> the last frame, the error of the process's end, how many effects were asked for
  local function run(body, cpu_s)
    local w <close> = engine.spawn { memory = MEMORY, cpu_seconds = cpu_s }
    local source = "return recipe { run = function(p)\n" .. body .. "\nend }"
    w:send { type = "start", run = "r", files = { ["recipe.lua"] = source },
      entry = "recipe.lua", params = {}, seed = 1, mode = "run" }
    local deadline, effects, last, waiting = clock.monotonic() + WALL, 0, nil, {}
    while true do
      local ok, frame = pcall(frames.receive, w, math.max(1, deadline - clock.monotonic()))
      if not ok then return { type = frame.code }, frame.code, effects end
      if not frame then break end
      last = frame
      for _, e in ipairs(frame.effects or {}) do
        effects = effects + 1
        waiting[#waiting + 1] = e
      end
      if effects > EFFECTS then
        w:kill()
        w:wait()
        return { type = "flood" }, "too_many_effects", effects
      end
      -- What a branch that lost had in flight is answered first.
      local e = table.remove(waiting, 1)
      if e then w:send { type = "answer", n = e.n, ok = true, value = e.n } end
    end
    local ended = w:wait()
    local over = last and (last.type == "done" or last.type == "failed")
    return last or {}, over and (last.error or {}).code or budget.ended(ended).code, effects
  end

  -- Runs one; raises where it took more than it may.
  local function measured(body, cpu_s, floods)
    local began, before = clock.monotonic(), children()
    local last, code, effects = run(body, cpu_s)
    local took, used = clock.monotonic() - began, children()
    local cpu = used.cpu_ms - before.cpu_ms
    count = count + 1
    longest, slowest = math.max(longest, cpu), math.max(slowest, took)
    assert(cpu <= cpu_s * 1000 + MORE_MS, ("it computed for %d ms"):format(cpu))
    assert(not by_the_clock or floods or took <= cpu_s * 1000 + MORE_MS, ("it took %d ms"):format(took))
    if plain and used.peak_kb > largest then
      largest = used.peak_kb
      assert(largest * 1024 <= MEMORY * MORE_MEMORY, ("it had %d KiB"):format(largest))
    end
    return last, code, effects
  end

  -- What LuaJIT hasn't, does otherwise, or has a limit of its own for.
  local function is_lua54(body)
    for _, what in ipairs { "<close>", "//", "utf8", "__len", "maxinteger %+ 1", "table%.concat%(setm", "ipairs%(setm",
      "unpack%({}", "unpack%(t, 1, 2e5", "%%q", "f%(%) load%(f%)" } do
      if body:find(what) then return true end
    end
  end

  local says = {
    ["binary chunk"] = "wrong mode", overflow = "syntax levels", ["invalid conversion"] = "invalid option",
  }

  -- Those of the engine that runs them.
  local function list_of(kind)
    if not engine.luajit then return scripts[kind] end
    local list = {}
    for _, script in ipairs(scripts[kind]) do
      if not is_lua54(type(script) == "table" and script[2] or script) then list[#list + 1] = script end
    end
    return table.move(scripts.luajit[kind] or {}, 1, #(scripts.luajit[kind] or {}), #list + 1, list)
  end

  local function each(kind, check)
    local wrong = {}
    for i, script in ipairs(list_of(kind)) do
      local pattern, body = nil, script
      if type(script) == "table" then pattern, body = script[1], script[2] end
      local last, code, effects = {}, nil, nil
      local ok, why = pcall(function()
        if i % every ~= 0 then return end
        last, code, effects = measured(body, kind == "memory" and plain and MEMORY_CPU or CPU, kind == "flood")
        check(last, code, pattern, effects)
      end)
      if not ok then
        wrong[#wrong + 1] = ("%s %d: %s\n  %s\n  it ended with %s, %s"):format(kind, i, tostring(why), body,
          tostring(code), json.encode(last):sub(1, 300))
      end
    end
    assert(#wrong == 0, table.concat(wrong, "\n"))
  end

  local ticking, worst
  setup(function()
    worst = 0
    local w <close> = engine.spawn()
    plain = fs.read(("/proc/%d/maps"):format(w:pid())):find("libasan", 1, true) == nil
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
    print(("%d hostile scripts: the longest computed for %d ms and took %d ms, the largest process had "
      .. "%.1f MiB of %d; their holder's loop was late by %d ms at most"):format(count, longest, slowest,
      largest / 1024, MEMORY >> 20, worst))
  end)

  it("that only computes is ended by its CPU limit, whatever it catches", function()
    each("cpu", function(_, code) assert(code == "recipe_cpu", "not by its CPU limit") end)
  end)

  it("that takes memory without end is ended by its memory limit, whatever it catches", function()
    each("memory", function(last, code)
      local refused = last.type == "failed" and last.error.message:find "string too large"
      -- A sanitizer's worker computes for long to get there.
      assert(code == "recipe_memory" or refused or not plain and code == "recipe_cpu", "not by its memory limit")
    end)
  end)

  it("that breaks a rule of Lua or of recipes gets an error that says so", function()
    each("fails", function(last, _, pattern)
      assert(last.type == "failed", "it did not fail")
      -- A stack that grows without end may meet another limit first.
      local full = pattern:find "overflow" and (last.error.code == "recipe_memory" or last.error.code == "recipe_stack")
      local said = last.error.message:find(pattern) or engine.luajit and last.error.message:find(says[pattern] or "^$")
      assert(full or said, "another error")
    end)
  end)

  it("that bends what its worker says is not listened to", function()
    each("bends", function(_, code) assert(code == "bad_frame", "it was listened to") end)
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

  it("does not hold up whoever holds its socket", function()
    assert(worst < LATE_MS, ("the loop was late by %d ms"):format(worst))
  end)

  it("leaves nothing behind for the next one", function()
    local last = run "leaked = (leaked or 0) + 1 string.leaked = 1 return leaked == 1"
    assert.is_true(last.value)
    last = run "leaked = (leaked or 0) + 1 return leaked == 1 and string.leaked == nil"
    assert.is_true(last.value)
  end)
end)
