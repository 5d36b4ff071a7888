-- A process for a recipe.
--
--   start(d, row, files, mode) -> worker, header
--       row: {id, params, seed, begun_with?, recipe} of a run; mode: "run", or "header" to load it only.
--       Returns once the recipe has loaded and its parameters were accepted; raises its error otherwise.
--       header: what the recipe says of itself, and `allowed`: what it may ask for

local json = require "json"
local task = require "task"
local budget = require "nd.budget"
local engine = require "nd.engine"
local err = require "nd.error"
local capability = require "nd.effect.capability"
local frames = require "nd.service.frames"

local as_they_are = { cancelled = true, bad_frame = true }

local M = {}

function M.start(d, row, files, mode)
  local w = engine.start(files["recipe.lua"], d.worker_options, {
    type = "start", run = row.id, files = d.recipes.to_send(files), entry = "recipe.lua",
    params = json.decode(row.params), seed = row.seed, mode = mode or "run",
    state = row.begun_with and json.decode(row.begun_with) or nil,
  })
  local ok, message = pcall(frames.receive, w, budget.wall_ms)
  local loaded = ok and message and message.type == "header"
  if loaded then
    ok, message.recipe.allowed = pcall(capability.read, message.recipe.needs)
    if ok then return w, message.recipe end
  end
  w:kill()
  if loaded then error(message.recipe.allowed, 0) end
  if not ok and as_they_are[message.code] then error(message, 0) end
  local status = w:wait()
  if ok and message and message.type == "failed" then
    local e = message.error
    e.http = err.status(e.code) == 400 and 400 or 422 -- whatever it calls itself, it is the recipe's
    error(task.error(e), 0)
  end
  if not ok and message.code == "timeout" then
    err.raise("recipe_timeout", ("the recipe '%s' did not load within %d s"):format(row.recipe,
      budget.wall_ms // 1000), "look for a loop outside `run`")
  end
  local why = budget.ended(status)
  err.raise(why.code, ("while the recipe '%s' was loaded, %s"):format(row.recipe, why.message),
    why.hint or "`ndctl recipe check` may tell why")
end

return M
