-- The story of a deployment with a gap: the old version stops before the new one starts.

local world = require "tests.lua.recipe_world"

local params = { app = "shop", image = "shop:v3" }

describe("recreate", function()
  it("pulls first, then stops the old, then starts the new", function()
    local run = world.run("recreate", params)
    assert.equal("done", run.state)
    assert.same({ "docker.pull", "app.live", "app.stop", "app.prepare", "app.start", "health.wait", "app.switch",
      "app.retire" }, run.asked)
    assert.equal("app.switch", run.pivot)
  end)

  it("lets requests under way end before it stops the old", function()
    local old, options = world.run("recreate", { app = "shop", image = "shop:v3", drain = "8s" }).of "app.stop"
    assert.equal(2, old.release)
    assert.same({ drain = 8000 }, options)
  end)

  it("touches nothing when the image is missing", function()
    local run = world.run("recreate", params, { ["docker.pull"] = world.fails("image_not_found", "no such image") })
    assert.same({ "docker.pull" }, run.asked)
    assert.same({}, run.undone)
  end)

  it("removes the new version and starts the old again when the new is not healthy", function()
    local run = world.run("recreate", params, { ["health.wait"] = world.fails("deadline", "not healthy in 60s") })
    assert.equal("deadline", run.error.code)
    assert.same({ "remove release 3", "start release 2 again and serve it" }, run.undone)
  end)

  it("starts the old again when the new can't start", function()
    local run = world.run("recreate", params, { ["app.start"] = world.fails("start_failed", "no such file") })
    assert.same({ "start release 2 again and serve it" }, run.undone)
  end)

  it("deploys an app that was never deployed", function()
    local run = world.run("recreate", params, { ["app.live"] = world.none })
    assert.equal("done", run.state)
    assert.is_nil(run.of "app.stop")
  end)
end)
