-- heal_spec.lua - what is found after a while in which nobody looked: the daemon was dead, or Docker's
-- events were.

local task = require "task"
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

  -- A run of the app that is under way, and may take days.
  local function run_of(app)
    d.store:commit {
      { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('h', 'b', '{}', 1)" },
      { [[INSERT INTO run (id, app, recipe, bundle, params, seed, state, owner, started_at)
        VALUES ('r1', ?, 'b', 'h', '{}', 1, 'sleeping', 'uid 0', 1)]], app.id } }
  end

  it("what is live is started again while a run waits for an approval", function()
    local app = w:app("shop", 2)
    run_of(app)
    w:release(app, 2, "created", 1)
    container("shop-1-1").State.Running, container("shop-2-1").State.Running = false, false
    d.watch:reconcile()
    assert.is_true(container("shop-1-1").State.Running)
    assert.equal(1, instance("shop-1-1").restarts)
    assert.is_false(container("shop-2-1").State.Running) -- that is the run's
    assert.equal(1, w:row("SELECT count(*) AS n FROM event WHERE kind = 'instance.died'").n)
    w:until_true(function() return targets(app) == "10.0.1.1:8080 10.0.1.2:8080" end)
  end)

  it("what Docker has started again gets its traffic while a run waits for an approval", function()
    local app = w:app("shop")
    run_of(app)
    w:event("die", "shop-1-1")
    w:until_true(function() return targets(app) == "" end)
    d.watch:reconcile() -- nobody has told of its start
    w:until_true(function() return targets(app) == "10.0.1.1:8080" end)
  end)

  it("what a run has stopped, or adds, is left to it", function()
    local app = w:app("shop", 3)
    run_of(app)
    local new = w:release(app, 2, "created", 3)
    d.shift:set(app, new, { instances = 1, drain = 0 })
    container("shop-1-2").State.Running = false
    d.store:commit { { [[INSERT INTO instance (release, process, position, name, address, state)
      VALUES ((SELECT live FROM app), 'web', 4, 'shop-1-4', '10.0.1.4', 'waiting')]] } }
    d.watch:reconcile()
    assert.is_true(container("shop-1-2").State.Running)
    assert.is_false(container("shop-1-1").State.Running)
    assert.equal("exited", instance("shop-1-1").state)
    assert.equal("waiting", instance("shop-1-4").state)
    assert.equal(0, w:count "start id-shop-1-1")
    w:until_true(function() return targets(app) == "10.0.1.2:8080 10.0.1.3:8080 10.0.2.1:8080" end)
  end)

  it("what a run has stopped for the next is neither started nor given traffic", function()
    local app, release = w:app("shop")
    run_of(app)
    d.traffic:silence(app)
    d.store:commit { { "UPDATE release SET state = 'kept' WHERE id = ?", release.id } }
    d.watch:reconcile() -- it still drains
    assert.equal("", targets(app))
    container("shop-1-1").State.Running = false
    d.watch:reconcile()
    assert.is_false(container("shop-1-1").State.Running)
  end)

  it("an instance that can't be started again gets no traffic meanwhile", function()
    local app = w:app("shop", 2)
    container("shop-1-1").State.Running = false
    w:before("inspect", function() error(task.error { code = "docker_error", message = "it is broken" }, 0) end)
    d.watch:reconcile()
    assert.equal("10.0.1.2:8080", targets(app))
    assert.equal("exited", instance("shop-1-1").state)
  end)

  it("traffic that netfilter refused once is sent where it belongs at the next look", function()
    local app = w:app("shop")
    w:event("die", "shop-1-1")
    w:until_true(function() return targets(app) == "" end)
    local refused
    function d.network.switch_all()
      refused = true
      error(task.error { code = "iptables_failed", message = "iptables-restore was killed" }, 0)
    end
    w:event("start", "shop-1-1")
    w:until_true(function() return refused and instance("shop-1-1").state == "running" end)
    task.sleep(20)
    d.network.switch_all = nil
    assert.equal("", targets(app))
    d.watch:reconcile()
    assert.equal("10.0.1.1:8080", targets(app))
  end)

  it("a network that could not be set up at the start is set up at the next look", function()
    local app = w:app("shop")
    d.network:service(d.apps.service(app)).targets = {}
    local up
    function d.network.start()
      up = up ~= nil
      if not up then error(task.error { code = "iptables_failed", message = "the lock is held" }, 0) end
    end
    d.watch:reconcile()
    assert.equal("", targets(app))
    d.watch:reconcile()
    assert.is_true(up)
    assert.equal("10.0.1.1:8080", targets(app))
  end)

  it("an app that a person has stopped stays so where a recreate of it fails, or is cut short", function()
    local app, release = w:app("shop")
    d.releases:user_stop(app)
    local stop, handle = require("nd.effect").find "app.stop", d.releases:handle(app, release)
    local ctx = { d = d, app = app }
    for _ = 1, 2 do -- again, after a crash
      local result = stop.act(ctx, handle, { drain = 0 })
      assert.is_nil(stop.undo({ handle }, result))
    end
    stop.clean(ctx, handle)
    assert.is_nil(stop.undo({ handle }, stop.plan(ctx, handle)))
    assert.is_false(container("shop-1-1").State.Running)
    assert.equal("live", d.releases:by_id(release.id).state)
    assert.equal(1, d.apps:by_id(app.id).stopped)
    d.releases:user_start(app)
    w:until_true(function() return targets(app) == "10.0.1.1:8080" end)
  end)

  it("an app that was running is brought back where a recreate of it fails, or is cut short", function()
    local app, release = w:app("shop")
    local stop, handle = require("nd.effect").find "app.stop", d.releases:handle(app, release)
    local ctx = { d = d, app = app }
    for _ = 1, 2 do
      local result = stop.act(ctx, handle, { drain = 0 })
      assert.equal("app.resume", stop.undo({ handle }, result).effect)
    end
    assert.is_false(container("shop-1-1").State.Running)
    stop.clean(ctx, handle)
    assert.equal("live", w:row("SELECT state FROM release WHERE id = ?", release.id).state)
    assert.equal("10.0.1.1:8080", targets(app))
  end)
end)
