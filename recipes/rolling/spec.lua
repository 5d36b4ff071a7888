-- The story of a rolling deployment: a batch at a time, and back from any of them.

local world = require "tests.lua.recipe_world"

local params = { app = "shop", image = "shop:v3" }

local function five()
  local new = world.release(3, "created")
  new.replicas = 5
  return new
end

local function shifts(run)
  local counts = {}
  for _, args in ipairs(run.all "app.shift") do counts[#counts + 1] = args[3].instances end
  return counts
end

describe("rolling", function()
  it("lets the new version take the place of the old instance by instance, and switches with the last", function()
    local run = world.run("rolling", params, { ["app.start"] = function()
      local new = five()
      new.replicas = 2
      return new
    end })
    assert.equal("done", run.state)
    assert.same({ "app.live", "docker.pull", "app.prepare", "app.start", "health.wait", "app.shift", "health.watch",
      "app.grow", "health.wait", "app.switch", "app.retire" }, run.asked)
    assert.equal("app.switch", run.pivot)
  end)

  it("goes by batches, the last of which may be smaller", function()
    local run = world.run("rolling", { app = "shop", image = "shop:v3", batch = 2, drain = "5s", pause = "10s" },
      { ["app.start"] = five })
    assert.same({ 2, 4 }, shifts(run))
    assert.same({ instances = 2, replicas = nil }, (select(3, run.of "app.start")))
    assert.same({ 4, 6 }, { run.all("app.grow")[1][3], run.all("app.grow")[2][3] })
    assert.same({ instances = 2, drain = 5000 }, (select(3, run.of "app.shift")))
    assert.equal(10000, run.all("health.watch")[1][2])
  end)

  it("says how many there are to be, where it is told", function()
    local run = world.run("rolling", { app = "shop", image = "shop:v3", replicas = 4 })
    assert.equal(4, (select(3, run.of "app.start")).replicas)
  end)

  it("switches at once where there is one instance, or nothing to replace", function()
    assert.same({}, shifts(world.run("rolling", params)))
    local run = world.run("rolling", params, { ["app.live"] = world.none, ["app.start"] = five })
    assert.equal("done", run.state)
    assert.same({}, shifts(run))
    assert.equal(20, (select(3, run.of "app.start")).instances)
  end)

  it("gives everything back when a later batch is not healthy", function()
    local count = 0
    local run = world.run("rolling", params, { ["app.start"] = five, ["health.wait"] = function(handle)
      count = count + 1
      if count == 3 then error({ code = "unhealthy", message = "instance 3 answered 503" }, 0) end
      return { release = handle.release, healthy = true }
    end })
    assert.equal("unhealthy", run.error.code)
    assert.same({ 1, 2 }, shifts(run))
    assert.same({ "give all traffic back to release 2", "give all traffic back to release 2", "remove release 3" },
      run.undone)
  end)

  it("touches nothing old when the first batch is not healthy", function()
    local run = world.run("rolling", params, { ["health.wait"] = world.fails("unhealthy", "answered 503") })
    assert.same({ "remove release 3" }, run.undone)
  end)
end)
