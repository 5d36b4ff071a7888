-- The story of scaling: new instances first, then the traffic, then the end of those too many.

local world = require "tests.lua.recipe_world"

local params = { app = "shop", process = "worker", replicas = 3 }

describe("scale", function()
  it("starts new instances, gives them traffic when they are healthy, and trims", function()
    local run = world.run("scale", params)
    assert.equal("done", run.state)
    assert.same({ "app.live", "app.grow", "health.wait", "app.scale", "app.trim" }, run.asked)
    assert.equal("app.scale", run.pivot)
    local release, process, count = run.of "app.grow"
    assert.same({ 2, "worker", 3 }, { release.release, process, count })
  end)

  it("removes the new ones when they are not healthy", function()
    local run = world.run("scale", params, { ["health.wait"] = world.fails("unhealthy", "worker 2 ended") })
    assert.equal("unhealthy", run.error.code)
    assert.same({ "remove the new instances of worker" }, run.undone)
  end)

  it("has nothing to scale where nothing is live", function()
    local run = world.run("scale", params, { ["app.live"] = world.none })
    assert.equal("recipe_failed", run.error.code)
    assert.same({ "app.live" }, run.asked)
  end)
end)
