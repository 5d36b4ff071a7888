-- lib/trials.lua - a recipe tried against everything that may go wrong: each effect in turn by each
-- fault, then by chance. What a number stands for is decided by the number alone, so it says how to see
-- the same run again: 0 is the run in which nothing goes wrong, then come the faults in turn.

local json = require "json"
local task = require "task"
local trial = require "ndctl.lib.trial"
local engine = require "nd.engine"
local err = require "nd.error"

local trials = {}

local LOAD_MS = 10000

-- What the recipe says of itself: params, gap ...; raises why it doesn't load.
function trials.header(files)
  local w <close> = engine.start(files["recipe.lua"], {}, { type = "start", run = "test", files = files,
    entry = "recipe.lua", params = {}, seed = 0, mode = "header" })
  local frame = w:recv(LOAD_MS)
  if not frame then err.raise("worker_died", "the recipe's worker ended while loading it") end
  if frame.type ~= "header" then error(task.error(frame.error), 0) end
  return frame.recipe
end

local values = { app = "shop", image = "shop:v3", integer = 5, number = 5, duration = "1s", string = "text",
  boolean = true }

-- Parameters for a recipe: those given, and something for each that has to be there.
function trials.params(header, given)
  local params = {}
  for name, value in pairs(given or {}) do params[name] = value end
  for _, p in ipairs(header.params or {}) do
    if p.required == true and params[p.name] == nil then
      params[p.name] = type(p.choices) == "table" and p.choices[1] or values[p.type]
      if params[p.name] == nil then
        err.raise("bad_param", ("the test can't make up a value for the parameter '%s' (%s)"):format(p.name, p.type),
          ("say one: --param %s=..."):format(p.name))
      end
    end
  end
  return params
end

-- What the recipe's own test.lua demands beside what always has to hold: it returns {always =, ending =},
-- see lib/trial.lua.
function trials.rules(files)
  if not files["test.lua"] then return nil end
  local chunk, why = load(files["test.lua"], "@test.lua", "t")
  local ok, rules = pcall(chunk or error, not chunk and why or nil)
  if ok and type(rules) == "table" then return rules end
  err.raise("bad_recipe", "test.lua: " .. (ok and "it returns no table" or tostring(rules)),
    "it returns { always = function(world) end, ending = function(world, state) end }")
end

-- o: {files, params, rules, seed}; `effects`: of the run in which nothing goes wrong, nil for that one.
function trials.one(o, effects)
  local turn = o.seed - 1
  if not effects or turn < 0 then
    return trial.run { files = o.files, params = o.params, rules = o.rules, seed = 0, live = true, well = true }
  elseif turn < effects * #trial.kinds then
    return trial.run { files = o.files, params = o.params, rules = o.rules, seed = o.seed, live = true, well = true,
      faults = { [turn // #trial.kinds + 1] = trial.kinds[turn % #trial.kinds + 1] } }
  end
  return trial.run { files = o.files, params = o.params, rules = o.rules, seed = o.seed, live = o.seed % 8 ~= 0,
    chance = 6 }
end

-- o: {files, params, rules, runs} -> {runs, effects, hit, points, ended = {done=, failed=},
-- broken = list of {seed, why}}
function trials.all(o)
  local function one(seed, effects)
    return trials.one({ files = o.files, params = o.params, rules = o.rules, seed = seed }, effects)
  end
  local first = one(0)
  local told = { runs = o.runs, effects = first.effects, points = first.effects * #trial.kinds, hit = 0,
    ended = { done = 0, failed = 0 }, broken = json.array {} }
  if first.state == "failed" then
    first.broken = first.broken or "it fails with nothing going wrong: " .. first.error.message
  end
  local hit = {}
  for seed = 0, o.runs - 1 do
    local result = seed == 0 and first or one(seed, first.effects)
    told.ended[result.state] = told.ended[result.state] + 1
    for _, f in ipairs(result.faults) do hit[f.n .. " " .. f.fault] = f.n <= first.effects or nil end
    if result.broken then told.broken[#told.broken + 1] = { seed = seed, why = result.broken } end
  end
  for _ in pairs(hit) do told.hit = told.hit + 1 end
  return told
end

return trials
