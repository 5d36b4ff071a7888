-- engine.lua - the work of tests/bench/engine: prints its table.

local clock = require "clock"
local fs = require "fs"
local worker = require "worker"

local rounds = tonumber(os.getenv "ND_ROUNDS" or 3)
local EFFECTS, STARTS = 1000, 10
local TARGET = 2

local prelude = [[
local function numbers()
  local list, sum, most = {}, 0, 0
  for i = 1, 300000 do list[i] = (i * 7919) % 10007 / 10 end
  for _ = 1, 3 do
    local window = 0
    for i = 1, #list do
      window = window + list[i] - (list[i - 50] or 0)
      sum = sum + window / 50
      if window > most then most = window end
    end
  end
  return sum + most
end

local function distance(a, b)
  local row = {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local before, left = row[0], i
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      local best = before + cost
      if row[j] + 1 < best then best = row[j] + 1 end
      if left + 1 < best then best = left + 1 end
      before, left, row[j] = row[j], best, best
    end
  end
  return row[#b]
end

local function fib(n) return n < 2 and n or fib(n - 1) + fib(n - 2) end

local function calls()
  return distance(("registry.example.com/shop"):rep(20), ("registry.example.org/ship"):rep(20)) + fib(25)
end

local function text()
  local lines, by = {}, {}
  for i = 1, 20000 do
    lines[i] = ("10.0.%d.%d GET /item/%d %d %d"):format(i % 256, i % 7, i, i % 9 == 0 and 500 or 200, i % 300)
  end
  local bytes = 0
  for line in (table.concat(lines, "\n") .. "\n"):gmatch("(.-)\n") do
    local host, path, status, ms = line:match("^(%S+) GET (%S+) (%d+) (%d+)$")
    by[status] = (by[status] or 0) + tonumber(ms)
    bytes = bytes + #host + #path
  end
  return bytes + by["500"]
end

local function order()
  local t, list = {}, {}
  for i = 1, 10000 do t["key" .. i * 7919 % 10007] = i end
  for k, v in pairs(t) do list[#list + 1] = { name = k, value = v } end
  table.sort(list, function(a, b) return a.value < b.value end)
  return #json.encode(list)
end
]]

local kinds = {
  { "numbers", "sums and means of a list" }, { "calls", "edit distance, recursion" },
  { "text", "log lines by patterns" }, { "order", "pairs, sort, JSON" },
}

local function recipe(engine, body)
  return ("%s\nreturn recipe { engine = %q, run = function()\n%s\nend }"):format(prelude, engine, body)
end

-- CPU time in ms.
local function cpu(w)
  return tonumber(fs.read(("/proc/%d/schedstat"):format(w:pid())):match "%d+") / 1e6
end

local function resident(w)
  local pss = 0
  for kb in fs.read(("/proc/%d/smaps"):format(w:pid())):gmatch "\nPss:%s+(%d+)" do pss = pss + kb end
  return pss / 1024
end

-- Runs a body; calls on_effect(worker, n) before it answers each.
local function run(engine, body, on_effect)
  local w <close> = worker.spawn { engine = engine ~= "lua" and engine or nil, memory = 256 << 20 }
  w:send { type = "start", run = "r", files = { ["recipe.lua"] = recipe(engine, body) }, entry = "recipe.lua",
    params = {}, seed = 1, mode = "run" }
  while true do
    local frame = assert(w:recv(60000), "the worker died")
    assert(frame.type ~= "failed", frame.error and frame.error.message)
    if frame.type == "done" then return frame.value end
    for _, e in ipairs(frame.effects or {}) do
      on_effect(w, e.n)
      w:send { type = "answer", n = e.n, ok = true, value = e.n }
    end
  end
end

local function median(list)
  table.sort(list)
  return list[#list // 2 + 1]
end

local function measure(engine, results)
  local began = clock.monotonic()
  for _ = 1, STARTS do run(engine, "uuid()", function(w) table.insert(results.start_cpu, cpu(w)) end) end
  table.insert(results.start, (clock.monotonic() - began) / STARTS)
  run(engine, "uuid()", function(w) table.insert(results.memory, resident(w)) end)
  run(engine, "local t = {} for i = 1, 1e5 do t[i] = { id = i, name = 'n' .. i } end uuid() return #t", function(w)
    table.insert(results.full, resident(w))
  end)
  local first
  run(engine, ("for _ = 1, %d do uuid() end"):format(EFFECTS), function(w, n)
    if n == 1 then first = { clock.monotonic(), cpu(w) } end
    if n == EFFECTS then
      table.insert(results.trip, (clock.monotonic() - first[1]) * 1e3 / (EFFECTS - 1))
      table.insert(results.trip_cpu, (cpu(w) - first[2]) * 1e3 / (EFFECTS - 1))
    end
  end)
  for _, kind in ipairs(kinds) do
    local name, at = kind[1], nil
    local value = run(engine, ("uuid() local v = %s() uuid() return v"):format(name), function(w, n)
      if n == 1 then at = cpu(w) else table.insert(results[name], cpu(w) - at) end
    end)
    results.values[name] = value
  end
end

local function new_results()
  local results = { values = {}, start = {}, start_cpu = {}, memory = {}, full = {}, trip = {}, trip_cpu = {} }
  for _, kind in ipairs(kinds) do results[kind[1]] = {} end
  return results
end

it("engine", function()
  local all = { lua = new_results(), luajit = new_results() }
  for _ = 1, rounds do
    for _, engine in ipairs { "lua", "luajit" } do measure(engine, all[engine]) end
  end
  print(("%-46s %10s %10s %8s"):format("", "Lua 5.4", "LuaJIT", "ratio"))
  local function row(what, name, unit)
    local a, b = median(all.lua[name]), median(all.luajit[name])
    print(("%-46s %10.2f %10.2f %8.2f  %s"):format(what, a, b, b / a, unit))
    return a / b
  end
  row("a run of one effect, from start to end", "start", "ms")
  row("... of it computed", "start_cpu", "ms")
  row("memory, waiting for an answer (PSS)", "memory", "MiB")
  row("... and holding 100,000 small tables", "full", "MiB")
  row("an effect there and back, without its act", "trip", "us")
  row("... of it computed by the worker", "trip_cpu", "us")
  local least = math.huge
  for _, kind in ipairs(kinds) do
    local times = row(("computing: %s (%s)"):format(kind[1], kind[2]), kind[1], "ms")
    local a, b = all.lua.values[kind[1]], all.luajit.values[kind[1]]
    assert(math.abs(a - b) <= math.abs(a) * 1e-9, kind[1] .. ": the engines differ")
    if kind[1] == "numbers" or kind[1] == "calls" then least = math.min(least, times) end
  end
  print(("engine: LuaJIT computes numbers and calls at least %.1f times as fast (target 2): %s"):format(least,
    least >= TARGET and "holds" or "falls short"))
  assert(least >= TARGET)
end)
