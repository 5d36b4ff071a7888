-- lib/sandbox.lua - runs a Lua file as a recipe is run, in a locked-in nd-worker, without a daemon.
--
-- The file may be a recipe or any chunk. Time passes, and logs are told; every other effect is refused,
-- since there is nobody to act (no_daemon). Each budget has an error of its own (nd/budget.lua), and each
-- error an exit status; recipe_syntax and sandbox_killed (a system call that a worker may not make) too.
-- Whatever the file raises is passed on.

local clock = require "clock"
local budget = require "nd.budget"
local engine = require "nd.engine"
local fail = require "ndctl.lib.fail"
local task = require "task"

local sandbox = {}

local exits = {
  recipe_syntax = 2, sandbox_killed = 3, no_daemon = 3, recipe_timeout = 6, recipe_memory = 8, recipe_cpu = 9,
  too_many_effects = 10, too_much_log = 11,
}

-- Loads the file where an error of its own is already told as the run's.
local wrapper = [[
return recipe { summary = "A file in the sandbox.", engine = %q, params = {}, run = function(_, params)
  local value = require(%q)
  if type(value) == "table" and type(value.run) == "function" then return value.run(params) end
  return value
end }
]]

local function raise(code, message, hint)
  local e = fail.new(code, message, hint)
  e.exit = exits[code] or 1
  error(e, 0)
end

local effects = {
  ["time.now"] = function() return clock.now() end,
  -- No longer than the file may take: what comes after finds its time over.
  ["time.sleep"] = function(deadline, ms)
    task.sleep(math.max(0, math.min(math.tointeger(tonumber(ms)) or 0, deadline - clock.monotonic())))
  end,
  uuid = function() return require("crypto").uuid() end,
}

local function answer(effect, deadline)
  local act = effects[effect.name]
  if not act then
    return { type = "answer", n = effect.n, ok = false, error = { code = "no_daemon",
      message = effect.name .. " needs a daemon, and the sandbox has none" } }
  end
  return { type = "answer", n = effect.n, ok = true, value = act(deadline, table.unpack(effect.args or {})) }
end

local function give_up(e) raise(e.code, e.message, e.hint) end

local function out_of_time(o)
  raise("recipe_timeout", ("it had not ended after %g s"):format(o.wall_ms / 1000))
end

local function receive(w, o, deadline)
  local ok, frame = pcall(w.recv, w, math.max(deadline - clock.monotonic(), 1))
  if ok and frame then return frame end
  if not ok and frame.code == "timeout" then
    out_of_time(o)
  elseif not ok then
    error(frame, 0)
  end
  give_up(budget.ended(w:wait(), o))
end

-- Tells the lines of a frame; -> how many bytes were told by now.
local function tell(frame, o, told)
  for _, line in ipairs(frame.logs or {}) do
    told = told + budget.of_line(line)
    if told > o.log_bytes then give_up(budget.over("log", o.log_bytes)) end
    o.log(line)
  end
  return told
end

-- o: name (of the file, for messages), source, params, log(line), and the budgets: memory (bytes), cpu_s,
-- wall_ms, effects, log_bytes. Returns what the file, or its recipe, returned.
function sandbox.run(o)
  local runs_on = engine.of(o.source)
  local chunk, why = load(o.source, "@" .. o.name .. ".lua", "t", {})
  if not chunk and runs_on == "lua" then raise("recipe_syntax", why) end
  local w <close> = engine.start(o.source, { memory = o.memory, cpu_seconds = o.cpu_s }, { type = "start",
    run = "sandbox", entry = "sandbox-entry.lua", mode = "run", seed = 1, params = {}, state = o.params,
    files = { ["sandbox-entry.lua"] = wrapper:format(runs_on, o.name), [o.name .. ".lua"] = o.source } })
  local deadline, asked, told = clock.monotonic() + o.wall_ms, {}, 0
  while true do
    local frame = receive(w, o, deadline)
    told = tell(frame, o, told)
    if frame.type == "failed" then give_up(frame.error) end
    if frame.type == "done" then return frame.value end
    if frame.type == "continue_as" then return nil end
    table.move(frame.effects or {}, 1, #(frame.effects or {}), #asked + 1, asked)
    local effect = table.remove(asked, 1)
    if effect and effect.n > o.effects then give_up(budget.over("effects", o.effects)) end
    local reply = effect and answer(effect, deadline)
    if clock.monotonic() >= deadline then out_of_time(o) end
    if reply then w:send(reply) end
  end
end

return sandbox
