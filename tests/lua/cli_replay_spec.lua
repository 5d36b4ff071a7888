-- cli_replay_spec.lua - ndctl runs replay: a recorded run is gone through again, without a daemon; where
-- the recipe would do something else, that is named.

local fs = require "fs"
local json = require "json"
local replays = require "ndctl.lib.replay"
local support = require "tests.lua.cli_support"
local driver = require "tests.lua.replay.driver"
local tree = require "tests.lua.replay.tree"

local recipe = [[
return recipe {
  params = { app = param.app {}, image = param.image {} },
  run = function(p)
    local image = docker.pull(p.image)
    log("starting", image.id)
    local green = app.start(p.app, image)
    pcall(health.wait, green)
    return green.release
  end,
}
]]

local function at(ms) return ("2026-01-31T12:00:%02d.%03dZ"):format(ms // 1000, ms % 1000) end

-- effect(n, name, args, line, asked, answered, more)
local function effect(n, name, args, line, asked, answered, more)
  local e = { n = n, name = name, version = 1, args = json.array(args), label = name, state = "answered", task = "1",
    at = "recipe.lua:" .. line, asked_at = at(asked), answered_at = answered and at(answered),
    answered = answered and n, ok = answered and true or nil, ms = answered and answered - asked, pivot = false }
  for key, value in pairs(more or {}) do e[key] = value end
  return e
end

local function recorded()
  local image = { image = "web:v2", id = "sha256:2" }
  return {
    run = { id = "06fa", app = "web", project = "default", environment = "production", recipe = "mine",
      state = "done", owner = "ann", started_at = at(0), ended_at = at(1500), result = 2,
      params = { app = "web", image = "web:v2" },
      effects = json.array {
        effect(1, "docker.pull", { "web:v2" }, 4, 1, 251, { result = image }),
        effect(2, "app.start", { "web", image }, 6, 252, 600, { result = { release = 2 } }),
        effect(3, "health.wait", { { release = 2 } }, 7, 601, 1499,
          { ok = false, error = { code = "unhealthy", message = "it answers 503" } }),
      } },
    files = { ["recipe.lua"] = recipe }, seed = 7, undos = json.array {},
  }
end

describe("ndctl runs replay", function()
  local dir, recording

  before_each(function()
    dir = support.dir()
    recording = recorded()
  end)
  after_each(function() fs.remove(dir, { recursive = true }) end)

  local function replay(words, options)
    fs.write(dir .. "/run.json", json.encode(recording))
    options = options or {}
    options.host = "unix:///nowhere"
    return support.ndctl({ "runs", "replay", "--file", dir .. "/run.json", table.unpack(words or {}) }, options)
  end

  it("tells each step with its line, its time and its values", function()
    local r = replay()
    assert.equal(0, r.status, r.stderr)
    assert.equal(table.concat({
      "run 06fa of web by mine: done in 1.5s",
      "started 2026-01-31T12:00:00.000Z by ann",
      'params  {"app":"web","image":"web:v2"}',
      "recipe.lua:4  local image = docker.pull(p.image)",
      '    0.001 s    1  docker.pull("web:v2")',
      '    0.251 s    1  = {"id":"sha256:2","image":"web:v2"}',
      "    0.251 s       starting sha256:2",
      "recipe.lua:6  local green = app.start(p.app, image)",
      '    0.252 s    2  app.start("web", {"id":"sha256:2","image":"web:v2"})',
      '    0.600 s    2  = {"release":2}',
      "recipe.lua:7  pcall(health.wait, green)",
      '    0.601 s    3  health.wait({"release":2})',
      "    1.499 s    3  ! unhealthy: it answers 503",
      "    1.500 s       the recipe ends: 2", "",
    }, "\n"), r.stdout)
  end)

  it("tells the same in JSON", function()
    local r = replay { "--json" }
    assert.equal(0, r.status, r.stderr)
    local told = json.decode(r.stdout)
    assert.equal("06fa", told.run)
    assert.same({ kind = "asked", n = 1, name = "docker.pull", args = { "web:v2" }, task = "1", at = "recipe.lua:4",
      source = "local image = docker.pull(p.image)", label = "docker.pull", ms = 1 }, told.steps[1])
    assert.same({ kind = "answered", n = 3, name = "health.wait", ok = false, took = 898, pivot = false, ms = 1499,
      error = { code = "unhealthy", message = "it answers 503" } }, told.steps[7])
    assert.same({ kind = "ended", how = "done", value = 2, ms = 1500 }, told.steps[8])
  end)

  it("stops where it is told to", function()
    local r = replay { "--until", "2" }
    assert.equal(0, r.status)
    assert.matches('2  = {"release":2}\n$', r.stdout)
  end)

  it("waits for Enter on a terminal, and nowhere else", function()
    local r = replay({ "--step" }, { terminal = true, stdin = "\nq\n" })
    assert.matches('1  = {"id"', r.stdout)
    assert.matches("2  = ", r.stdout)
    assert.not_matches("health.wait", r.stdout)
    r = replay({ "--step" }, { terminal = true, stdin = "c\n" })
    assert.matches("the recipe ends: 2", r.stdout)
    assert.equal(2, replay({ "--step" }).status)
  end)

  it("wants one run, by its ID or as a file that is a recording", function()
    assert.equal(2, support.ndctl({ "runs", "replay" }, { host = "unix:///nowhere" }).status)
    assert.equal(2, replay({ "06fa" }).status)
    assert.equal(4, support.ndctl({ "runs", "replay", "--file", dir .. "/none.json" }, {}).status)
    recording = { run = "06fa" }
    assert.equal(2, replay().status)
  end)

  -- ---- runs that went another way ----

  it("goes back as the run did, when it failed", function()
    recording.files["recipe.lua"] = recipe:gsub("pcall%(health.wait, green%)", "health.wait(green)")
    recording.run.state, recording.run.result = "failed", nil
    recording.run.error = { code = "unhealthy", message = "it answers 503" }
    recording.undos = json.array { { n = 2, label = "remove release 2", ok = true, time = at(1499) } }
    local r = replay()
    assert.equal(0, r.status, r.stderr)
    assert.matches("    1.499 s    2  undone: remove release 2\n"
      .. "    1.500 s       the recipe fails: unhealthy: it answers 503\n$", r.stdout)
  end)

  it("gives the recipe no answer that it did not have when it was stopped", function()
    recording.run.state, recording.run.result, recording.heard = "cancelled", nil, 2
    recording.run.error = { code = "cancelled", message = "cancelled by ann" }
    recording.run.effects[3].error = { code = "cancelled", message = "the run was rolled back" }
    local r = replay()
    assert.equal(0, r.status, r.stderr)
    assert.matches("3  health.wait.*here the recipe was stopped: cancelled: cancelled by ann\n$", r.stdout)
    assert.not_matches("rolled back", r.stdout)
  end)

  it("shows a run that goes on as far as it has come", function()
    recording.run.state, recording.run.ended_at, recording.run.result = "running", nil, nil
    local e = recording.run.effects[3]
    e.answered, e.answered_at, e.ok, e.error = nil, nil, nil, nil
    local r = replay()
    assert.equal(0, r.status, r.stderr)
    assert.matches("3  health.wait.*so far the run has come\n$", r.stdout)
    recording.run.effects[3] = nil -- it is about to be asked for
    assert.equal(0, replay().status)
  end)

  it("takes the state that a predecessor left, and names the successor", function()
    recording.files["recipe.lua"] = "return recipe { run = function(_, n) uuid() continue_as(n + 1) end }"
    recording.state, recording.run.params = 4, {}
    recording.run.effects = json.array { effect(1, "uuid", {}, 1, 1, 2, { result = "u" }) }
    recording.run.result = { continued_as = "06fb" }
    local r = replay()
    assert.equal(0, r.status, r.stderr)
    assert.matches("goes on as another run: ndctl runs replay 06fb\n$", r.stdout)
  end)

  it("says of a run that waited and was dropped that it never began", function()
    recording.run.state, recording.heard, recording.run.effects = "cancelled", 0, json.array {}
    recording.run.error = { code = "cancelled", message = "superseded by the run 06fc" }
    local r = replay()
    assert.equal(0, r.status)
    assert.matches("never began: cancelled: superseded", r.stdout)
  end)

  it("keeps what somebody wrote from moving the cursor", function()
    recording.run.effects[1].result.id = "sha256:2\27[2J"
    recording.run.effects[2].args[2].id = "sha256:2\27[2J"
    local r = replay()
    assert.equal(0, r.status, r.stderr)
    assert.is_nil(r.stdout:find "\27")
  end)

  -- A tree of tasks answered at random, as the recording that the daemon would have made of it.
  local function grown(seed)
    local r = tree.random(seed)
    local run = driver.new(tree.source(seed), seed, {
      answer = function(e)
        if r(1, 7) == 1 then return false, { code = "refused", message = "no to " .. e.name } end
        return true, e.name .. " " .. r(1, 1000)
      end,
      interrupts = function() return r(1, 4) > 1 end,
    })
    run:attach()
    while not run.result and #run.journal < 200 do
      local choices = run:choices()
      run:answer(choices[r(1, #choices)], true)
      run:follow()
    end
    run:kill()
    local list = json.array {}
    for i, e in ipairs(run.journal) do
      list[i] = effect(e.n, e.name, e.args, 1, i, e.order and i, { task = e.task, at = e.at, answered = e.order,
        ok = e.ok, result = e.ok and e.value or nil, error = e.order and not e.ok and e.value or nil })
    end
    local result = run.result or {}
    return { files = run.start.files, seed = seed, undos = json.array {}, run = { id = "r", started_at = at(0),
      ended_at = run.result and at(999), params = {}, effects = list, error = result.error,
      state = not run.result and "running" or result.type == "failed" and "failed" or "done" } }, #run.answered
  end

  it("goes through whatever tasks, races and time-outs a run had", function()
    local ends, answers = {}, 0
    for seed = 1, 20 do
      local one, count = grown(seed)
      local told = 0
      local last = replays.run(one, function(step)
        if step.kind == "answered" then told = told + 1 end
      end)
      assert.equal(count, told, "tree " .. seed)
      ends[last.how], answers = (ends[last.how] or 0) + 1, answers + told
    end
    assert.is_true(answers > 100 and ends.done > 0 and ends.failed > 0, json.encode(ends) .. answers)
  end)

  -- ---- divergence ----

  local function diverges(pattern)
    local r = replay()
    assert.equal(1, r.status, r.stdout .. r.stderr)
    assert.matches(pattern, r.stderr)
    assert.equal("diverged", json.decode(replay({ "--json" }).stdout).code)
  end

  it("names the effect that is another now", function()
    recording.files["recipe.lua"] = recipe:gsub("docker.pull%(p.image%)", "docker.pull(p.image .. 'x')")
    diverges 'recorded is effect 1, docker.pull%("web:v2"%) at recipe.lua:4; now it is docker.pull%("web:v2x"%) at'
  end)

  it("names what nobody asked for then", function()
    recording.files["recipe.lua"] = recipe:gsub("return green.release", "uuid()")
    diverges "recorded is nothing; now it asks for uuid%(%) at recipe.lua:8"
  end)

  it("names an answer that nobody waits for", function()
    recording.run.effects[1].answered, recording.run.effects[2].answered = 2, 1
    diverges "recorded is effect 2, app.start.*now it has not been asked for"
  end)

  it("names another end", function()
    recording.files["recipe.lua"] = recipe:gsub("return green.release", "fail('no')")
    diverges "recorded is a run that ended as done; now it fails: no"
    recording = recorded()
    recording.run.state, recording.run.error = "failed", { code = "unhealthy", message = "sick" }
    diverges "recorded is a run that ended as failed; now it comes to its end"
  end)
end)
