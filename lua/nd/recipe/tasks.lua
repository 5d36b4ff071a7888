-- Structured concurrency: task.all, task.race, task.timeout.
--
-- Each runs functions as branches of the calling task and returns only when all of them have ended;
-- nothing goes on in the background. A branch may wait for effects and have branches of its own.

local errors = require "nd.recipe.errors"
local scheduler = require "nd.recipe.scheduler"
local stubs = require "nd.recipe.stubs"
local units = require "nd.recipe.units"

local unpack = table.unpack

local M = {}

-- The functions of a call, with the keys their results get, and whether one table was given.
local function branches(name, ...)
  local given = ...
  local as_table = select("#", ...) == 1 and type(given) == "table"
  local functions, keys = {}, {}
  local function add(key, fn)
    if type(fn) ~= "function" then
      errors.raise("bad_argument", string.format("%s takes functions; branch %s is a %s", name,
        tostring(key), type(fn)), "write function() return docker.pull(image) end")
    end
    functions[#functions + 1], keys[#keys + 1] = fn, key
  end
  if as_table then
    for key, fn in pairs(given) do
      add(key, fn)
    end
  else
    for i = 1, select("#", ...) do
      add(i, (select(i, ...)))
    end
  end
  return functions, keys, as_table
end

-- Runs all to their end. With functions as arguments it returns the first result of each, in
-- order; with a table, a table with the same keys. The first error cancels the other branches,
-- waits for them to end, and is raised.
function M.all(...)
  local functions, keys, as_table = branches("task.all", ...)
  local failed
  local g = scheduler.run_group("task.all", functions, function(_, child)
    failed = not child.ok and child or nil
    return failed ~= nil
  end)
  if failed then
    error(failed.values[1], 0)
  end
  local results = {}
  for i, child in ipairs(g.children) do
    results[keys[i]] = child.values[1]
  end
  if as_table then
    return results
  end
  return unpack(results, 1, #functions)
end

local function race(name, functions)
  local winner
  scheduler.run_group(name, functions, function(_, child)
    winner = child
    return true
  end, true)
  if not winner.ok then
    error(winner.values[1], 0)
  end
  return unpack(winner.values, 1, winner.values.n)
end

-- Runs all until the first ends, with results or an error; cancels the others, waits for them to
-- end, has what they did undone, and then returns or raises what the first one did.
function M.race(...)
  local functions = branches("task.race", ...)
  if #functions == 0 then
    errors.raise("bad_argument", "task.race needs at least one function")
  end
  return race("task.race", functions)
end

-- Runs fn(...) for at most `duration`; then it is cancelled, what it did is undone, and the error
-- {code = "timeout"} is raised.
function M.timeout(duration, fn, ...)
  local ms = units.milliseconds(duration)
  if not ms then
    errors.raise("bad_argument",
      "task.timeout needs a duration such as \"30s\" first, not " .. tostring(duration))
  end
  if type(fn) ~= "function" then
    errors.raise("bad_argument", "task.timeout needs a function second, not a " .. type(fn))
  end
  local args = table.pack(...)
  return race("task.timeout", {
    function()
      return fn(unpack(args, 1, args.n))
    end,
    function()
      stubs.call("time.sleep", ms / 1000)
      errors.raise("timeout", string.format("timed out after %g s", ms / 1000))
    end,
  })
end

return M
