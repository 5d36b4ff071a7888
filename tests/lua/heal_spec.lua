-- heal_spec.lua - what is found after a while in which nobody looked: the daemon was dead, or Docker's
-- events were.

local World = require "tests.lua.spine_world"

describe("after nobody looked,", function()
  local w, d

  before_each(function()
    w = World.new()
    d = w.d
  end)

  after_each(function() w:close() end)

  local function instance(name) return w:row("SELECT * FROM instance WHERE name = ?", name) end
  local function targets(app) return table.concat(d.network:targets(d.apps.service(app)), " ") end
  local function container(name) return d.docker.containers[name] end

  -- A crash of the daemon after it had Docker make the container anew, and before the row said so.
  local function made_anew(name, running)
    container(name).Id, container(name).State.Running = "id-anew", running
  end

  it("a container that was made anew is the instance's, also where a crash kept its row from saying so", function()
    local app = w:app("shop")
    made_anew("shop-1-1", false)
    d.watch:reconcile()
    assert.equal("id-anew", instance("shop-1-1").container)
    w:event("die", "shop-1-1")
    w:until_true(function() return targets(app) == "" end)
  end)

  it("such a container is stopped and removed, though its row has the id of the one before", function()
    local app, release = w:app("shop")
    made_anew("shop-1-1", true)
    d.releases:user_stop(app)
    assert.is_false(container("shop-1-1").State.Running)
    d.instances:remove(release, 0)
    assert.is_nil(container "shop-1-1")
  end)

  it("such a container gets its restart policy", function()
    local _, release = w:app("shop")
    made_anew("shop-1-1", true)
    d.instances:set_restart(release, "no")
    assert.equal("no", container("shop-1-1").Policy)
  end)

  it("a release whose container nobody had recorded can be asked into once it is brought back", function()
    local app = w:app("shop")
    local old = w:release(app, 2, "kept", 1)
    d.store:commit { { "UPDATE instance SET container = NULL WHERE release = ?", old.id } }
    d.releases:activate({ app = app, key = "k" }, d.releases:by_id(old.id))
    assert.equal("id-shop-2-1", instance("shop-2-1").container)
  end)
end)
