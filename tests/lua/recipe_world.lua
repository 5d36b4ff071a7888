-- Tells a recipe against a world of a few lines: for recipes/*/spec.lua, and a pattern for the spec
-- of a recipe of your own.
--
--   local world = require "tests.lua.recipe_world"
--   local run = world.run("bluegreen", { app = "shop", image = "shop:v2" }, {
--     ["health.wait"] = world.fails("unhealthy", "instance 1 answered 503"),
--   })
--
-- The recipe runs in a real worker; its effects are checked by the daemon's own table and answered
-- from the world: release 2 of the app is live, release 1 was before it, and what is started is
-- release 3. The third argument answers an effect otherwise: a value, or a function of its
-- arguments. The result:
--   asked    names of the effects, in order           of(name)   arguments of the first such effect
--   all(name)  a list of the arguments of all such effects
--   state    "done", or "failed" with `error`         result     what the recipe returned
--   pivot    the effect that was the point of no return, once it had succeeded
--   undone   what a rollback does then, newest first, in a person's words; {} after the pivot

local effects = require "nd.effect"
local json = require "json"
local support = require "tests.lua.recipe_support"

local M = {}

local function release(n, state)
  return { app = "shop", release = n, state = state, image = "shop:v" .. n, id = "sha256:" .. n,
    instances = { { name = "shop-" .. n .. "-1", address = "10.0.0." .. n, process = "web", index = 1 } },
    replicas = 1 }
end
M.release = release

local usual = {
  ["app.live"] = release(2, "live"),
  ["app.previous"] = release(1, "kept"),
  ["app.release"] = function(_, n) return release(n or 1, n == 2 and "live" or "kept") end,
  ["app.start"] = release(3, "created"),
  ["app.prepare"] = { exit_code = 0 },
  ["app.shift"] = function(_, handle, options)
    return { release = handle.release, before = 2, instances = options.instances, weight = options.weight }
  end,
  ["app.grow"] = function(handle, process)
    handle.process, handle.before = process, 1
    return handle
  end,
  ["app.scale"] = function(handle, process, count)
    return { release = handle.release, process = process, before = 1, replicas = count }
  end,
  ["app.trim"] = { removed = 1 },
  ["app.activate"] = function(handle) return handle end,
  ["app.switch"] = function(_, handle) return { release = handle.release, before = 2 } end,
  ["app.stop"] = function(handle)
    if handle then handle.was_live = handle.state == "live" end
    return handle
  end,
  ["docker.pull"] = function(image) return { image = image.image or image, id = "sha256:3" } end,
  ["health.wait"] = function(handle) return { release = handle.release, healthy = true } end,
  ["health.watch"] = function(handle) return { release = handle.release, answers = 100, errors = 0 } end,
  ["approval.wait"] = { by = "somebody" },
  ["health.check"] = { healthy = true },
}

local nothing = {}

-- An answer that nothing is there: no live release, for instance.
M.none = function() return nothing end

-- An answer that the world refuses.
function M.fails(code, message, hint)
  return function() error({ code = code, message = message, hint = hint }, 0) end
end

local function answer_of(answers, e)
  local answer = answers[e.name]
  if answer == nil then answer = usual[e.name] end
  if type(answer) == "function" then answer = answer(effects.unpack(e)) end
  if answer == nothing then return nil end
  return answer
end

local function source_of(name)
  local path = name:find "/" and name or ("%s/recipes/%s/recipe.lua"):format(os.getenv "ND_SOURCE_DIR", name)
  local file <close> = assert(io.open(path))
  return file:read "a"
end

-- What the daemon would undo, newest first.
local function undos(answered)
  local list = {}
  for i = #answered, 1, -1 do
    local e = answered[i]
    local def = effects.find(e.name)
    local undo = def.undo and e.value and def.undo(e.args, e.value)
    if undo then list[#list + 1] = undo.label end
  end
  return list
end

-- name: of a shipped recipe, or a path to a recipe.lua
function M.run(name, params, answers)
  answers = answers or {}
  local app = { app = { name = params.app } }
  local answered, pivot = {}, nil
  local run = support.run(source_of(name), {
    params = params,
    answer = function(e)
      effects.check(effects.find(e.name), e, app)
      local ok, value = pcall(answer_of, answers, e)
      if not ok then
        if type(value) ~= "table" then error(value, 0) end
        return nil, value
      end
      answered[#answered + 1] = { name = e.name, args = e.args, value = value }
      if e.pivot then pivot = e.name end
      return value
    end,
  })
  local told = { asked = {}, pivot = pivot, result = run.result.value, logs = run.logs,
    header = run.header, state = run.result.type, error = run.result.error }
  for i, e in ipairs(run.effects) do told.asked[i] = e.name end
  told.undone = told.state == "failed" and not pivot and undos(answered) or {}
  function told.all(effect)
    local list = {}
    for _, e in ipairs(run.effects) do
      if e.name == effect then list[#list + 1] = { effects.unpack { args = e.args } } end
    end
    return list
  end
  function told.of(effect)
    for _, e in ipairs(run.effects) do
      if e.name == effect then return effects.unpack { args = e.args } end
    end
    error("the recipe did not ask for " .. effect .. ", but for " .. json.encode(told.asked), 2)
  end
  return told
end

return M
