-- Runs a recipe in a real worker and answers its effects: for the recipe_*_spec.lua files.

local json = require "json"
local engine = require "tests.lua.lib.engine"

local M = {}

local TIMEOUT = 20000

-- options: files, params, mode, seed, state, memory, cpu_seconds,
--   answer(effect) -> value | nil, error   (default: the effect's number)
--   order(effects in flight) -> the one to answer next   (default: the first asked)
-- Returns { header, result (the last frame), effects, logs, status }.
function M.run(source, options)
  options = options or {}
  local w <close> = engine.spawn { memory = options.memory, cpu_seconds = options.cpu_seconds }
  local files = options.files or {}
  files["recipe.lua"] = source
  w:send {
    type = "start", run = "r", files = files, entry = "recipe.lua", params = options.params or {},
    seed = options.seed or 1, mode = options.mode or "run", state = options.state,
  }
  local run = { effects = {}, logs = {}, in_flight = {} }
  while true do
    local frame = w:recv(options.timeout or TIMEOUT)
    if not frame then
      break
    end
    for _, line in ipairs(frame.logs or {}) do
      run.logs[#run.logs + 1] = line
    end
    if frame.type == "header" then
      run.header = frame.recipe
    elseif frame.type ~= "parked" then
      run.result = frame
      break
    else
      for _, e in ipairs(frame.effects) do
        run.effects[e.n] = e
        run.in_flight[#run.in_flight + 1] = e
      end
      M.answer_next(w, run, options)
    end
  end
  run.status = w:wait()
  return run
end

local function below(id, tasks)
  for _, root in ipairs(tasks) do
    if id == root or id:sub(1, #root + 1) == root .. "." then
      return true
    end
  end
end

-- What task.cancel interrupts is answered first.
local function interrupted(run)
  for _, cancel in ipairs(run.in_flight) do
    if cancel.name == "task.cancel" then
      for i, e in ipairs(run.in_flight) do
        local special = e.name:find("^task%.")
        if e.n < cancel.n and not special and below(e.task, cancel.args[1].tasks) then
          return i
        end
      end
    end
  end
end

function M.answer_next(w, run, options)
  local i = interrupted(run)
  local frame = { type = "answer", ok = true }
  if i then
    frame.ok, frame.error = false, { code = "cancelled", message = "cancelled" }
  else
    i = 1
    if options.order and #run.in_flight > 1 then
      local chosen = options.order(run.in_flight)
      for k, e in ipairs(run.in_flight) do
        i = e == chosen and k or i
      end
    end
    local e = run.in_flight[i]
    if options.answer and not e.name:find("^task%.") then
      frame.value, frame.error = options.answer(e)
      frame.ok = frame.error == nil
    elseif not e.name:find("^task%.") then
      frame.value = e.n
    end
  end
  frame.n = run.in_flight[i].n
  table.remove(run.in_flight, i)
  w:send(frame)
end

-- The body of a run function, to its result; raises the run's error.
function M.value(body, options)
  local run = M.run("return recipe { run = function(p)\n" .. body .. "\nend }", options)
  if not run.result or run.result.type == "failed" then
    error(run.result and run.result.error or "the worker died", 0)
  end
  return run.result.value, run
end

-- The error object that the body ends with.
function M.failure(body, options)
  local run = M.run("return recipe { run = function(p)\n" .. body .. "\nend }", options)
  assert(run.result and run.result.type == "failed",
    "it did not fail: " .. json.encode(run.result or {}))
  return run.result.error, run
end

-- "name task" of each effect, as one string.
function M.asked(run)
  local list = {}
  for _, e in ipairs(run.effects) do
    list[#list + 1] = e.name .. " " .. e.task
  end
  return table.concat(list, ", ")
end

return M
