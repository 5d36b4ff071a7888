-- The story of a blue-green deployment, told to its end and broken off at each step.

local world = require "tests.lua.recipe_world"

local params = { app = "shop", image = "shop:v3" }

describe("bluegreen", function()
  it("starts the new version beside the old and switches when it is healthy", function()
    local run = world.run("bluegreen", params)
    assert.equal("done", run.state)
    assert.same({ "app.live", "docker.pull", "app.prepare", "app.start", "health.wait", "app.switch", "app.retire" },
      run.asked)
    assert.equal("app.switch", run.pivot)
  end)

  it("starts what it pulled, and nothing else", function()
    local run = world.run("bluegreen", params)
    local app, image = run.of "app.start"
    assert.equal("shop", app)
    assert.same({ image = "shop:v3", id = "sha256:3" }, image)
  end)

  it("keeps the old version for as long as it is told", function()
    local run = world.run("bluegreen", { app = "shop", image = "shop:v3", drain = "5s", keep = "1h" })
    local old, options = run.of "app.retire"
    assert.equal(2, old.release)
    assert.same({ drain = 5000, keep = 3600000 }, options)
  end)

  it("waits as its parameters say, and leaves the rest to the app", function()
    local run = world.run("bluegreen",
      { app = "shop", image = "shop:v3", health = { path = "/up", deadline = "20s" }, settle = "15s" })
    local new, health, settle = run.of "health.wait"
    assert.equal(3, new.release)
    assert.same({ path = "/up", deadline = 20000 }, health)
    assert.equal(15000, settle)
  end)

  it("waits for a person's word before the switch, where it is told to", function()
    local run = world.run("bluegreen", { app = "shop", image = "shop:v3", approve = true })
    assert.equal("app.start health.wait approval.wait app.switch", table.concat(run.asked, " ", 4, 7))
    assert.equal("the switch to release 3", (run.of "approval.wait"))
  end)

  it("deploys an app that was never deployed", function()
    local run = world.run("bluegreen", params, { ["app.live"] = world.none })
    assert.equal("done", run.state)
    assert.is_nil(run.of "app.retire")
  end)

  it("removes the new version when it does not become healthy", function()
    local run = world.run("bluegreen", params,
      { ["health.wait"] = world.fails("unhealthy", "instance 1 answered 503") })
    assert.equal("unhealthy", run.error.code)
    assert.is_nil(run.pivot)
    assert.same({ "remove release 3" }, run.undone)
  end)

  it("removes the new version when the traffic can't be moved", function()
    local run = world.run("bluegreen", params,
      { ["app.switch"] = world.fails("host_taken", "shop.test belongs to another app") })
    assert.equal("host_taken", run.error.code)
    assert.same({ "remove release 3" }, run.undone)
  end)

  it("has nothing to undo when the image is missing or does not start", function()
    local missing = world.run("bluegreen", params,
      { ["docker.pull"] = world.fails("image_not_found", "no such image") })
    assert.same({ "app.live", "docker.pull" }, missing.asked)
    assert.same({}, missing.undone)
    local typo = world.run("bluegreen", params, { ["app.start"] = world.fails("start_failed", "no such file") })
    assert.equal("start_failed", typo.error.code)
    assert.same({}, typo.undone)
  end)

  it("only goes forward once traffic has moved", function()
    local run = world.run("bluegreen", params, { ["app.retire"] = world.fails("db_full", "the disk is full") })
    assert.equal("failed", run.state)
    assert.equal("app.switch", run.pivot)
    assert.same({}, run.undone)
  end)
end)
