-- `coroutine`, `pcall` and `xpcall` as recipes see them: effects pass through.
--
-- An effect that is called inside a recipe's own coroutine (or an iterator made by coroutine.wrap)
-- parks the whole task, not just that coroutine: resume sees the scheduler's mark, hands it on
-- upwards, and goes on with the answer. Protected calls keep account of cancellation
-- (scheduler.lua). Everything else is stock Lua; only coroutine.close runs `<close>` variables of
-- the coroutine in a place where effects can't wait.

local scheduler = require "nd.recipe.scheduler"

local rawcreate, rawresume, rawyield = coroutine.create, coroutine.resume, coroutine.yield
local rawstatus, rawrunning, rawclose = coroutine.status, coroutine.running, coroutine.close
local rawisyieldable, rawpcall, rawxpcall = coroutine.isyieldable, pcall, xpcall
local enter, leave, current = scheduler.enter_protected, scheduler.leave_protected,
  scheduler.current
local check_memory = scheduler.check_memory
local task_coroutines, PARK = scheduler.task_coroutines, scheduler.PARK
local rawequal, type, error = rawequal, type, error

local M = {}

local parked = {} -- thread -> true while an effect asked inside it is waited for

-- ---- protected calls ----

local function left(task, shield, ok, ...)
  if not ok then
    check_memory((...))
  end
  if task then
    leave(task, shield, (...))
  end
  return ok, ...
end

function M.pcall(fn, ...)
  local task = current()
  return left(task, task and enter(task), rawpcall(fn, ...))
end

function M.xpcall(fn, handler, ...)
  local task = current()
  return left(task, task and enter(task), rawxpcall(fn, handler, ...))
end

-- ---- coroutines ----

local function check_thread(co, name)
  if type(co) ~= "thread" then
    error("bad argument #1 to '" .. name .. "' (coroutine expected, got " .. type(co) .. ")", 3)
  end
end

local function check_function(fn, name)
  if type(fn) ~= "function" then
    error("bad argument #1 to '" .. name .. "' (function expected, got " .. type(fn) .. ")", 3)
  end
end

local function raise_failed(ok, ...)
  if not ok then
    error((...), 0)
  end
  return ...
end

-- The body runs in a protected call, so that its `<close>` variables can wait after an error.
local function create(fn)
  return rawcreate(function(...)
    return raise_failed(rawpcall(fn, ...))
  end)
end

-- What came out of `co`: a wait, a yield, its end.
local function pump(task, shield, co, resumed, ...)
  if resumed and rawequal((...), PARK) then
    parked[co] = true
    return pump(task, shield, co, rawresume(co, M.unparked(co, rawyield(PARK))))
  end
  if task then
    task.nested[task.depth], task.depth = nil, task.depth - 1
  end
  return left(task, shield, resumed, ...)
end

function M.unparked(co, ...)
  parked[co] = nil
  return ...
end

local function resume(co, ...)
  if parked[co] or task_coroutines[co] then
    return false, "cannot resume non-suspended coroutine"
  end
  local task = current()
  local shield = task and enter(task)
  if rawstatus(co) ~= "suspended" then
    return left(task, shield, rawresume(co, ...))
  end
  if task then
    task.depth = task.depth + 1
    task.nested[task.depth] = co
  end
  return pump(task, shield, co, rawresume(co, ...))
end

M.coroutine = {}

function M.coroutine.create(fn)
  check_function(fn, "create")
  return create(fn)
end

function M.coroutine.resume(co, ...)
  check_thread(co, "resume")
  return resume(co, ...)
end

function M.coroutine.wrap(fn)
  check_function(fn, "wrap")
  local co = create(fn)
  return function(...)
    return raise_failed(resume(co, ...))
  end
end

function M.coroutine.yield(...)
  local co, is_main = rawrunning()
  if is_main or task_coroutines[co] then
    error("attempt to yield from outside a coroutine", 2)
  end
  return rawyield(...)
end

function M.coroutine.status(co)
  check_thread(co, "status")
  return parked[co] and "normal" or rawstatus(co)
end

function M.coroutine.running()
  local co, is_main = rawrunning()
  return co, is_main or task_coroutines[co] == true
end

function M.coroutine.isyieldable(co)
  co = co or rawrunning()
  return not task_coroutines[co] and rawisyieldable(co)
end

function M.coroutine.close(co)
  check_thread(co, "close")
  local status = parked[co] and "normal" or rawstatus(co)
  if task_coroutines[co] or status == "normal" then
    error("cannot close a " .. status .. " coroutine", 2)
  end
  return rawclose(co)
end

if not rawclose then
  M.coroutine.close = nil -- LuaJIT
end

return M
