-- A look at what is live.

local world = require "tests.lua.recipe_world"

describe("healthcheck", function()
  it("probes the live release and changes nothing", function()
    local run = world.run("healthcheck", { app = "shop", health = "/up", settle = "10s" })
    assert.equal("done", run.state)
    assert.same({ "app.live", "health.wait" }, run.asked)
    local live, health, settle = run.of "health.wait"
    assert.equal(2, live.release)
    assert.same({ path = "/up" }, health)
    assert.equal(10000, settle)
  end)

  it("takes every way to probe", function()
    for _, health in ipairs { { tcp = true, port = 5432 }, { command = { "/bin/ready", "--now" } },
      { path = "/up", status = 204, body = "ok", interval = "2s", timeout = "1s", deadline = "30s", grace = "5s",
        successes = 2, failures = 4 } } do
      assert.equal("done", world.run("healthcheck", { app = "shop", health = health }).state)
    end
  end)

  it("fails with what the probes saw", function()
    local run = world.run("healthcheck", { app = "shop" },
      { ["health.wait"] = world.fails("unhealthy", "answered 503") })
    assert.equal("unhealthy", run.error.code)
    assert.same({}, run.undone)
  end)

  it("says what to do where nothing is live", function()
    local run = world.run("healthcheck", { app = "shop" }, { ["app.live"] = world.none })
    assert.equal("recipe_failed", run.error.code)
    assert.matches("ndctl deploy", run.error.hint)
  end)

  it("refuses a probe that is two at once, or misspelt", function()
    local both = world.run("healthcheck", { app = "shop", health = { path = "/", tcp = true } })
    assert.equal("bad_params", both.error.code)
    local misspelt = world.run("healthcheck", { app = "shop", health = { pth = "/" } })
    assert.matches('"path"', misspelt.error.message)
  end)
end)
