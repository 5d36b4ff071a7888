-- What one run of a recipe may use, and the errors that say that it wanted more.
--
--   what     a run's share           its error          who counts
--   memory   64 MiB                  recipe_memory      nd-worker's allocator, and the kernel
--   cpu      60 s of one process     recipe_cpu         the kernel
--   wall     10 s between effects    recipe_timeout     whoever holds the worker's socket
--   effects  10,000                  too_many_effects   the same
--   log      1 MiB of lines, each    too_much_log       the same
--            and 128 bytes
--   undo     an hour of each rollback  (it goes on)      the daemon
--            for the undos that it set
--
-- `ndctl recipe run --sandbox` has the same with shares of its own.

local err = require "nd.error"

local M = { memory = 64 << 20, cpu_s = 60, wall_ms = 10000, effects = 10000, log_bytes = 1 << 20,
  undo_ms = 60 * 60 * 1000 }

local SIGSYS = 31
local OUT_OF_MEMORY, OUT_OF_CPU, OUT_OF_STACK = 80, 85, 86 -- statuses of nd-worker: runtime/script/recipe.h

local function seconds(ms) return ("%g s"):format(ms / 1000) end

-- what -> code, message (of the share), hint
local rows = {
  memory = { "recipe_memory", function(bytes)
    return ("the recipe needed more than its %d MiB of memory"):format(bytes >> 20)
  end, "look for a table or a string in it that grows without end" },
  cpu = { "recipe_cpu", function(s) return ("the recipe computed for more than %d s"):format(s) end,
    "look for an endless loop in it" },
  wall = { "recipe_timeout", function(ms)
    return ("the recipe computed for over %s without asking for an effect"):format(seconds(ms))
  end, "look for an endless loop in it" },
  effects = { "too_many_effects", function(n) return ("the recipe asked for more than %d effects"):format(n) end,
    "end it with continue_as(state) and go on in a successor" },
  log = { "too_much_log", function(bytes) return ("the recipe logged more than %d KiB"):format(bytes >> 10) end,
    "let it log what a person would read" },
}

-- How much a line adds to what was logged: it is a row in the journal besides.
function M.of_line(line) return #tostring(line) + 128 end

-- The error of whoever wanted more than `share` of `what`.
function M.over(what, share)
  local row = rows[what]
  return err.new(row[1], row[2](share), row[3])
end

-- The error that the end of a worker without a last word stands for. status: of worker:wait().
-- share: {memory, cpu_s} where they are not a run's own.
function M.ended(status, share)
  share = share or M
  if status.status == OUT_OF_MEMORY then return M.over("memory", share.memory) end
  if status.status == OUT_OF_CPU then return M.over("cpu", share.cpu_s) end
  if status.status == OUT_OF_STACK then -- LuaJIT's; Lua 5.4 raises "stack overflow"
    return err.new("recipe_stack", "calls in the recipe were nested too deep",
      "look for a function that calls itself without end")
  end
  if status.signal == SIGSYS then
    return err.new("sandbox_killed", "the recipe's process made a system call that it may not make")
  end
  return err.new("worker_died", ("the recipe's worker ended by itself (status %s, signal %s)"):format(status.status,
    status.signal))
end

return M
