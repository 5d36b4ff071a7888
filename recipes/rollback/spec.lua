-- The way back: an older release, exactly as it was.

local world = require "tests.lua.recipe_world"

describe("rollback", function()
  it("brings back the last good release and switches to it when it is healthy", function()
    local run = world.run("rollback", { app = "shop" })
    assert.equal("done", run.state)
    assert.same({ "app.live", "app.release", "docker.pull", "app.activate", "health.wait", "app.switch",
      "app.retire" },
      run.asked)
    assert.equal(1, run.of("app.activate").release)
    assert.equal("app.switch", run.pivot)
    assert.equal(2, run.of("app.retire").release)
  end)

  it("goes to the release it is told", function()
    local run = world.run("rollback", { app = "shop", to = "1" })
    assert.same({ "shop", 1 }, { run.of "app.release" })
  end)

  it("puts it back to rest when it is not healthy; what is live serves on", function()
    local run = world.run("rollback", { app = "shop" }, { ["health.wait"] = world.fails("unhealthy", "answered 503") })
    assert.equal("unhealthy", run.error.code)
    assert.same({ "put release 1 back to rest" }, run.undone)
  end)

  it("stops what is live first where a volume has one writer, and starts it again when it fails", function()
    local alone = { ["app.release"] = function()
      local good = world.release(1, "kept")
      good.one_writer = true
      return good
    end }
    local run = world.run("rollback", { app = "shop" }, alone)
    assert.same({ "app.live", "app.release", "docker.pull", "app.stop", "app.activate", "health.wait",
      "app.switch", "app.retire" }, run.asked)
    alone["health.wait"] = world.fails("unhealthy", "answered 503")
    assert.same({ "put release 1 back to rest", "start release 2 again and serve it" },
      world.run("rollback", { app = "shop" }, alone).undone)
  end)

  it("has the image before anything is stopped, so that one which can't be had costs nothing", function()
    local run = world.run("rollback", { app = "shop" }, { ["docker.pull"] = world.fails("image_gone", "it is gone") })
    assert.equal("image_gone", run.error.code)
    assert.same({ "app.live", "app.release", "docker.pull" }, run.asked)
    assert.same({}, run.undone)
  end)

  it("refuses to go back to what is live", function()
    local run = world.run("rollback", { app = "shop", to = 2 })
    assert.matches("live already", run.error.message)
    assert.same({ "app.live", "app.release" }, run.asked)
  end)

  it("says so where there is nothing to go back to", function()
    local run = world.run("rollback", { app = "shop" },
      { ["app.release"] = world.fails("nothing_to_roll_back", "no earlier healthy release") })
    assert.equal("nothing_to_roll_back", run.error.code)
    assert.same({}, run.undone)
  end)
end)
