-- The story of a canary: a small part first, watched; then more, or nothing.

local world = require "tests.lua.recipe_world"

local params = { app = "shop", image = "shop:v3" }

describe("canary", function()
  it("gives the new version 5 % of the traffic, watches it, and switches", function()
    local run = world.run("canary", params)
    assert.equal("done", run.state)
    assert.same({ "app.live", "docker.pull", "app.prepare", "app.start", "health.wait", "app.shift", "health.watch",
      "app.switch", "app.retire" }, run.asked)
    assert.same({ weight = 5, drain = 30000 }, (select(3, run.of "app.shift")))
    local new, time, limits = run.of "health.watch"
    assert.same({ 3, 300000 }, { new.release, time })
    assert.same({ errors = 2, least = 20 }, limits)
    assert.equal("app.switch", run.pivot)
  end)

  it("goes by the steps it is told, each watched", function()
    local run = world.run("canary", { app = "shop", image = "shop:v3", steps = "1,10,50", watch = "1m",
      latency = "800ms", errors = "0.5", health = "/up" })
    local weights = {}
    for i, args in ipairs(run.all "app.shift") do weights[i] = args[3].weight end
    assert.same({ 1, 10, 50 }, weights)
    assert.equal(3, #run.all "health.watch")
    local _, time, limits = run.of "health.watch"
    assert.equal(60000, time)
    assert.same({ errors = 0.5, latency = 800, least = 20, health = { path = "/up" } }, limits)
  end)

  it("takes it back where its answers are bad", function()
    local run = world.run("canary", params,
      { ["health.watch"] = world.fails("canary_failed", "20 of 212 answers were errors") })
    assert.equal("canary_failed", run.error.code)
    assert.same({ "give all traffic back to release 2", "remove release 3" }, run.undone)
  end)

  it("has nothing to share where nothing is live", function()
    local run = world.run("canary", params, { ["app.live"] = world.none })
    assert.equal("done", run.state)
    assert.equal(0, #run.all "app.shift")
    assert.is_nil(run.of "app.retire")
  end)

  it("gives nobody a version that isn't healthy", function()
    local run = world.run("canary", params, { ["health.wait"] = world.fails("unhealthy", "answered 503") })
    assert.equal(0, #run.all "app.shift")
    assert.same({ "remove release 3" }, run.undone)
  end)
end)
