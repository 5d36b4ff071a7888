-- cli_trial_spec.lua - ndctl recipe test: recipes in a simulated world in which everything goes wrong.

local fs = require "fs"
local json = require "json"
local support = require "tests.lua.cli_support"

local recipes = os.getenv "ND_SOURCE_DIR" .. "/recipes/"

describe("ndctl recipe test", function()
  local dir

  before_each(function() dir = support.dir() end)
  after_each(function() fs.remove(dir, { recursive = true }) end)

  local function try(...)
    local r = support.ndctl({ "recipe", "test", ... }, { timeout_ms = 120000 })
    return r, r.stdout:sub(1, 1) == "[" and json.decode(r.stdout) or nil
  end

  local function recipe(body)
    fs.write(dir .. "/recipe.lua", ([[return recipe {
      params = { app = param.app { required = true }, image = param.image { required = true } },
      run = function(p, state)
        local old, image = app.live(p.app), docker.pull(p.image)
        %s
      end,
    }]]):format(body))
    return dir
  end

  local function broken(body, ...)
    local r, told = try(recipe(body), "--json", "--runs", "200", ...)
    assert.equal(1, r.status, r.stderr)
    return told[1].broken, r.stderr
  end

  it("finds nothing in the shipped recipes, and hits each of their effects with each fault", function()
    for _, name in ipairs { "bluegreen", "recreate", "rollback", "scale", "healthcheck", "rolling", "canary" } do
      local r, told = try(recipes .. name, "--runs", "150", "--json")
      assert.equal(0, r.status, r.stderr)
      assert.equal(name, told[1].recipe)
      assert.equal(0, #told[1].broken)
      assert.equal(told[1].points, told[1].hit)
      assert.is_true(told[1].points >= 8)
      assert.equal(150, told[1].ended.done + told[1].ended.failed)
    end
  end)

  it("finds an old version that is stopped before the new one is healthy, and says how to see it", function()
    local found, stderr = broken [[
      app.stop(old)
      local new = app.start(p.app, image)
      health.wait(new)
      pivot(app.switch, p.app, new)
    ]]
    assert.matches("nothing serves", found[1].why)
    assert.matches("recipe test .* %-%-seed " .. found[1].seed, stderr)
    local r = try(dir, "--seed", tostring(found[1].seed))
    local again = try(dir, "--seed", tostring(found[1].seed))
    assert.equal(1, r.status)
    assert.matches("BROKEN: nothing serves", r.stdout)
    assert.equal(r.stdout, again.stdout)
  end)

  it("finds traffic on what nobody saw healthy", function()
    local found = broken [[
      pivot(app.switch, p.app, app.start(p.app, image))
    ]]
    assert.matches("nobody has seen healthy", found[1].why)
  end)

  it("finds what only a fault brings about", function()
    local found = broken [[
      local new = app.start(p.app, image)
      health.wait(new)
      app.switch(p.app, new)             -- the undo of it would be due
      undo("switch back to release 2")   -- and is dropped
      time.sleep("1s")
    ]]
    assert.is_true(found[1].seed > 0)
  end)

  it("takes rules of the recipe's own", function()
    fs.write(dir .. "/test.lua", [[
      return { always = function(world) return not world.serving and "nobody serves" end,
        ending = function(world, state) return state == "done" and world.live == 2 and "nothing has changed" end }
    ]])
    local found = broken "time.sleep '10s'"
    assert.matches("nothing has changed", found[1].why)
    fs.write(dir .. "/test.lua", "return 5")
    local r = try(dir)
    assert.equal(2, r.status, r.stderr)
    assert.matches("test.lua: it returns no table", r.stderr)
  end)

  it("ends with recipes that don't", function()
    local found = broken "while true do time.sleep '1s' end"
    assert.matches("had not ended", found[1].why)
  end)

  it("says what is wrong with a recipe that doesn't load", function()
    fs.write(dir .. "/recipe.lua", "return recipe {")
    local r = try(dir)
    assert.equal(2, r.status, r.stderr)
    assert.matches("recipe.lua:1", r.stderr)
  end)
end)
