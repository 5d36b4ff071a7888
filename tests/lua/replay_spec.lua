-- Random trees of tasks, answered in random order by workers that are killed at random points,
-- replay to the same journal and the same result. ND_TREES says how many, ND_TREE from which on.

local json = require "json"
local task = require "task"
local driver = require "tests.lua.replay.driver"
local tree = require "tests.lua.replay.tree"

local TREES = math.tointeger(tonumber(os.getenv("ND_TREES") or "")) or 200
local FIRST = math.tointeger(tonumber(os.getenv("ND_TREE") or "")) or 1
local AT_ONCE = 4
local EFFECTS = 400 -- a tree that wants more is left at that

local counts = {
  trees = 0, kills = 0, effects = 0, cut = 0, undone = 0, failed = 0, cancels = 0, rollbacks = 0,
}

local function world(r)
  return {
    answer = function(e)
      if r(1, 7) == 1 then
        return false, { code = "refused", message = "no to " .. e.name }
      end
      return true, e.name .. " " .. r(1, 1000)
    end,
    interrupts = function() return r(1, 4) > 1 end,
  }
end

-- Runs one tree to its end with kills on the way; returns the driver.
local function run_tree(seed)
  local r = tree.random(seed + 1000000)
  local run = driver.new(tree.source(seed), seed, world(r))
  local kill_every = r(1, 4) == 1 and 5 or 20
  run:attach()
  while not run.result and #run.journal < EFFECTS do
    local choices = run:choices()
    assert(#choices > 0, "the run waits for nothing")
    local kill = r(1, kill_every)
    if kill == 1 then -- between two answers
      run:kill()
      run:attach()
    end
    run:answer(choices[r(1, #choices)], kill ~= 2)
    if kill == 2 or kill == 3 then -- after the journal, before or after the worker has it
      run:kill()
      run:attach()
    else
      run:follow()
    end
  end
  run:kill()
  run.deaths = run.deaths - 1
  return run
end

-- The whole journal to a worker that has seen nothing of it.
local function replay_all(run)
  local result, count = run.result, #run.journal
  run.result = nil
  run:attach()
  run:kill()
  assert(#run.journal == count, "the replay asked for more effects")
  assert(json.encode(run.result or {}) == json.encode(result or {}),
    "another result: " .. json.encode(run.result or {}) .. " was " .. json.encode(result or {}))
end

-- What must hold of every finished journal.
local function check_journal(run)
  if not run.result then
    return
  end
  for _, e in ipairs(run.journal) do
    assert(e.order, "the run ended while effect " .. e.n .. " was in flight")
  end
end

local function one(seed)
  local run = run_tree(seed)
  check_journal(run)
  replay_all(run)
  counts.trees = counts.trees + 1
  counts.kills = counts.kills + run.deaths
  counts.effects = counts.effects + #run.journal
  counts.failed = counts.failed + (run.result and run.result.type == "failed" and 1 or 0)
  counts.cut = counts.cut + (run.result and 0 or 1)
  for _, e in ipairs(run.journal) do
    counts.cancels = counts.cancels + (e.name == "task.cancel" and 1 or 0)
    counts.rollbacks = counts.rollbacks + (e.name == "task.rollback" and 1 or 0)
  end
  for _ in pairs(run.undone) do
    counts.undone = counts.undone + 1
  end
end

describe("a run that is killed again and again", function()
  it("replays to the same journal and the same result", function()
    local seed, mismatches, running = FIRST, {}, {}
    for i = 1, AT_ONCE do
      running[i] = task.spawn("trees " .. i, function()
        while seed < FIRST + TREES do
          local mine = seed
          seed = seed + 1
          local ok, why = pcall(one, mine)
          if not ok then
            mismatches[#mismatches + 1] = ("tree %d: %s"):format(mine, tostring(why))
          end
        end
      end)
    end
    for _, t in ipairs(running) do
      t:join()
    end
    print(("%d trees, %d kills, %d effects (%d cancels, %d rollbacks of %d effects), "
      .. "%d ended by an error, %d cut short, %d mismatches"):format(counts.trees, counts.kills,
      counts.effects, counts.cancels, counts.rollbacks, counts.undone, counts.failed, counts.cut,
      #mismatches))
    assert.same({}, mismatches)
  end)

  it("catches a recipe that does not do the same each time", function()
    local run = driver.new('return recipe { run = function() uuid() docker.pull("a:1") end }', 1,
      world(tree.random(1)))
    run:attach()
    run:answer(run.journal[1], true)
    run:follow()
    run:kill()
    run.start.files["recipe.lua"] =
      'return recipe { run = function() uuid() docker.pull("b:1") end }'
    assert.has_error(function() run:attach() end)
    run:kill()
  end)
end)
