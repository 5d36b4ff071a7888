-- deadline_spec.lua - effects end in time, and none is cut short that was asked to take longer.

local json = require "json"
local effects = require "nd.effect"

local MINUTE = 60000

local function deadline(name, ...)
  local e = { name = name, args = json.array { ... }, asked_at = 1000 }
  local at = effects.deadline(effects.find(name), e, {})
  return at and at - 1000
end

describe("an effect's deadline", function()
  it("is ten minutes, or longer where it takes as long as it was told", function()
    local release = { release = 1 }
    assert.equal(10 * MINUTE, deadline("app.switch", "shop", release))
    assert.equal(60 * MINUTE, deadline("docker.pull", "img"))
    assert.equal(40 * MINUTE, deadline("app.stop", release, { drain = 30 * MINUTE }))
    assert.equal(10 * MINUTE, deadline("app.stop"))
    assert.equal(40 * MINUTE, deadline("app.trim", release, "web", { drain = 30 * MINUTE }))
    assert.equal(40 * MINUTE, deadline("app.shift", "shop", release, { drain = 30 * MINUTE }))
    assert.equal(40 * MINUTE, deadline("health.watch", release, 30 * MINUTE))
    assert.equal(31 * MINUTE, deadline("http.request", { url = "http://x/", timeout = 30 * MINUTE }))
  end)

  it("is the run's alone where it waits by nature, or its own to keep", function()
    for _, name in ipairs { "time.sleep", "approval.wait", "health.wait", "app.prepare", "task.cancel",
      "task.rollback" } do
      assert.is_nil(deadline(name, 1, {}), name)
    end
  end)

  it("is one for any arguments that a recipe may send", function()
    assert.equal(10 * MINUTE, deadline("http.request", 5))
    assert.equal(10 * MINUTE, deadline("app.stop", {}, { drain = "soon" }))
    assert.equal(10 * MINUTE, deadline("app.stop", {}, { drain = 0.25 }))
    assert.equal(366 * 24 * 60 * MINUTE, deadline("app.stop", {}, { drain = math.maxinteger // 2 }))
    assert.equal(0, deadline("app.stop", {}, { drain = math.mininteger // 2 }))
  end)

  it("is known of every effect there is", function()
    for name, row in pairs(effects.rows) do
      assert.is_true(row.deadline == nil or row.deadline == false or type(row.deadline) == "function", name)
    end
  end)
end)
