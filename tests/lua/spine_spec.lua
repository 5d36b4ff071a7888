-- spine_spec.lua - what a person, a run, the reconciler and Docker's events ask for at the same time.

local clock = require "clock"
local json = require "json"
local task = require "task"
local tasks = require "nd.tasks"
local release_config = require "nd.service.release_config"
local World = require "tests.lua.spine_world"

describe("when two meet:", function()
  local w, d

  before_each(function()
    w = World.new()
    d = w.d
  end)

  after_each(function() w:close() end)

  local function state(name) return w:row("SELECT state FROM instance WHERE name = ?", name).state end
  local function targets(app) return table.concat(d.network:targets(d.apps.service(app)), " ") end

  it("the reconciler leaves an app alone that is draining to its stop", function()
    local app = w:app("shop")
    d.network.connected = 1
    local stop = task.spawn("stop", function() d.releases:user_stop(app) end)
    w:until_true(function() return targets(app) == "" end)
    d.watch:reconcile()
    assert.equal(0, w:count "stop shop-1-1")
    d.network.connected = 0
    stop:join()
    assert.equal(1, w:count "stop shop-1-1")
  end)

  it("host names that are set at once are all kept, and those that are taken away all gone", function()
    local app = w:app("shop")
    local edge, domains = require("nd.service.edge").new(d), { "a.example.com", "b.example.com" }
    tasks.each("set", domains, function(domain) edge:configure(app, { domain = domain }) end)
    assert.equal(2, #release_config.of(d.releases:live(app)).routes)
    tasks.each("remove", domains, function(domain) edge:forget(domain) end)
    assert.same({}, release_config.of(d.releases:live(app)).routes)
  end)

  it("the reconciler finishes a stop that a crash cut short, connections included", function()
    local app = w:app("shop")
    d.store:commit { { "UPDATE app SET stopped = 1 WHERE id = ?", app.id } }
    d.network.connected = 1
    d.watch:reconcile()
    w:until_true(function() return targets(app) == "" end)
    assert.equal(0, w:count "stop shop-1-1")
    d.network.connected = 0
    w:until_true(function() return w:count "stop shop-1-1" == 1 end)
  end)

  it("a restart during a stop's drain isn't stopped afterwards", function()
    local app, release = w:app("shop")
    d.network.connected = 1
    local stop = task.spawn("stop", function() d.releases:user_stop(app) end)
    w:until_true(function() return targets(app) == "" end)
    d.releases:user_start(app)
    d.network.connected = 0
    stop:join()
    assert.equal(0, w:count "stop shop-1-1")
    assert.equal(release.id, d.guard.watched[app.id].release)
    assert.equal("10.0.1.1:8080", targets(app))
  end)

  it("a stop while a restart waits for health is respected", function()
    local app = w:app("shop")
    local waits, healthy
    d.health.wait = function()
      waits = true
      w:until_true(function() return healthy end)
    end
    local start = task.spawn("start", function() d.releases:user_start(app) end)
    w:until_true(function() return waits end)
    d.releases:user_stop(app)
    healthy = true
    start:join()
    assert.is_nil(d.guard.watched[app.id])
    assert.equal("", targets(app))
  end)

  it("an app that is being destroyed gets neither traffic nor containers back", function()
    local app = w:app("shop", 2)
    w:before("stop", function(id)
      if id == "shop-1-2" then task.sleep(100) end
    end)
    local reconcile = task.spawn("reconcile", function()
      task.sleep(60)
      d.watch:reconcile()
    end)
    d.apps:destroy(app)
    reconcile:join()
    task.sleep(20)
    assert.is_nil(next(d.network.services))
    assert.is_nil(next(d.docker.containers))
  end)

  it("an app whose next run has begun is not destroyed under it", function()
    local app = w:app("shop")
    w:before("remove", function()
      d.store:commit {
        { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('h', 'b', '{}', 1)" },
        { [[INSERT INTO run (id, app, recipe, bundle, params, seed, state, owner, started_at)
          VALUES ('r2', ?, 'b', 'h', '{}', 1, 'running', 'uid 0', 1)]], app.id } }
    end)
    d.runs.conflict = function() error(task.error { code = "run_conflict", message = "r2" }, 0) end
    local ok, e = pcall(d.apps.destroy, d.apps, app)
    assert.is_false(ok)
    assert.equal("run_conflict", e.code)
    assert.is_table(d.apps:by_id(app.id))
  end)

  it("an instance that died while Docker's restart of it was probed isn't taken for running", function()
    local app = w:app("shop")
    w:event("die", "shop-1-1")
    w:until_true(function() return state "shop-1-1" == "exited" end)
    local probing, answers
    d.health.probe = function()
      probing = true
      w:until_true(function() return answers end)
      return true
    end
    w:event("start", "shop-1-1")
    w:until_true(function() return probing end)
    d.docker.containers["shop-1-1"].State.Running = false
    w:event("die", "shop-1-1")
    answers = true
    task.sleep(50)
    assert.equal("exited", state "shop-1-1")
    assert.equal("", targets(app))
  end)

  it("a restart that Docker tells of in one breath with the death is seen", function()
    local app = w:app("shop")
    w:event("die", "shop-1-1")
    w:event("start", "shop-1-1")
    w:until_true(function() return targets(app) == "10.0.1.1:8080" and state "shop-1-1" == "running" end)
  end)

  it("what a person or the reconciler starts is counted once, whenever Docker tells of it", function()
    local app = w:app("shop")
    local function restarts() return w:row("SELECT restarts FROM instance WHERE name = 'shop-1-1'").restarts end
    for _, late in ipairs { false, true } do
      w:before("start", function()
        if late then return end
        w:event("start", "shop-1-1")
        w:until_true(function() return state "shop-1-1" == "running" end)
      end)
      d.releases:user_stop(app)
      d.releases:user_start(app)
      w:event("start", "shop-1-1")
      task.sleep(20)
      assert.equal(late and 1 or 0, restarts())
      d.docker.containers["shop-1-1"].State.Running = false
      w:event("die", "shop-1-1")
      w:until_true(function() return state "shop-1-1" == "exited" end)
      d.watch:reconcile()
      w:event("start", "shop-1-1")
      task.sleep(20)
      assert.equal(late and 2 or 1, restarts())
    end
  end)

  it("a death right after the switch is the new release's", function()
    local app = w:app("shop", 2)
    local new = w:release(app, 2, "healthy", 2)
    d.traffic:switch(app, new) -- recorded, not yet committed
    d.docker.containers["shop-2-1"].State.Running = false
    w:event("die", "shop-2-1")
    w:until_true(function() return targets(app) == "10.0.2.2:8080" end)
  end)

  it("a death during the switch is seen once it is made", function()
    local app = w:app("shop", 2)
    local new = w:release(app, 2, "healthy", 2)
    local switch_all = d.network.switch_all
    d.network.switch_all = function(...)
      d.network.switch_all = nil
      w:event("die", "shop-2-1")
      task.sleep(50)
      switch_all(...)
    end
    d.traffic:switch(app, new)
    w:until_true(function() return targets(app) == "10.0.2.2:8080" end)
  end)

  it("traffic isn't switched to a release of which an instance has ended", function()
    local app = w:app("shop")
    local new = w:release(app, 2, "healthy", 2)
    local switch = require("nd.effect").find "app.switch"
    d.docker.containers["shop-2-2"].State.Running = false
    w:event("die", "shop-2-2")
    w:until_true(function() return state "shop-2-2" == "exited" end)
    local ok, e = pcall(switch.act, { d = d, app = app }, "shop", { release = new.number })
    assert.is_false(ok)
    assert.equal("unhealthy", e.code)
    assert.equal("10.0.1.1:8080", targets(app))
  end)

  it("traffic is switched to a release that has only schedules", function()
    local app = w:app("shop")
    local new = w:release(app, 2, "healthy", 0, { processes = json.decode '{"tick": {"kind": "cron"}}' })
    local switch = require("nd.effect").find "app.switch"
    switch.act({ d = d, app = app }, "shop", { release = new.number })
    assert.equal(new.id, w:row("SELECT live FROM app WHERE id = ?", app.id).live)
  end)

  it("an instance that is started again gets traffic once it answers", function()
    local app = w:app("shop", 2)
    d.docker.containers["shop-1-2"].State.Running = false
    w:event("die", "shop-1-2")
    w:until_true(function() return targets(app) == "10.0.1.1:8080" end)
    local asked, answers = 0, false
    d.health.probe = function()
      asked = asked + 1
      return answers
    end
    d.watch:reconcile()
    w:until_true(function() return asked > 1 end)
    assert.equal("10.0.1.1:8080", targets(app))
    answers = true
    w:until_true(function() return targets(app) == "10.0.1.1:8080 10.0.1.2:8080" end)
  end)

  -- Ten apps, of each of which both instances have ended.
  local function many_dead()
    for i = 1, 10 do
      w:app("shop" .. i, 2)
      for k = 1, 2 do d.docker.containers[("shop%d-1-%d"):format(i, k)].State.Running = false end
    end
  end

  it("the reconciler acts on what is true when it acts, not when it looked", function()
    many_dead()
    local starts = 0
    w:before("start", function()
      starts = starts + 1
      d.store:commit { { "UPDATE app SET stopped = 1" } }
    end)
    d.watch:reconcile()
    assert.is_true(starts > 0 and starts <= 8, starts)
  end)

  it("an app that takes long to start doesn't keep others down, and few are started at a time", function()
    many_dead()
    local starting, most = 0, 0
    w:before("start", function(id)
      starting = starting + 1
      most = math.max(most, starting)
      if id:find "shop1%-" then
        w:until_true(function() return targets(d.apps:find { app = "shop10" }) ~= "" end)
      else
        for _ = 1, 100 do -- until there are as many as there ever are
          task.sleep(5)
          if most >= 8 then break end
        end
      end
      starting = starting - 1
    end)
    d.watch:reconcile()
    assert.is_true(most > 2 and most <= 8, most) -- four apps, of two instances each
    for i = 1, 10 do
      for k = 1, 2 do assert.equal(1, w:count(("start id-shop%d-1-%d"):format(i, k))) end
    end
  end)

  -- The reconciler has Docker start shop-1-1, which is done only after `fn` had the time to be done.
  local function heal_while(fn)
    d.drain.wait_idle = function() end
    d.docker.containers["shop-1-1"].State.Running = false
    local meanwhile
    w:before("start", function()
      if meanwhile then return end
      meanwhile = task.spawn("meanwhile", fn)
      task.sleep(50)
    end)
    d.watch:reconcile()
    meanwhile:join()
  end

  it("a stop while the reconciler starts an instance stops that too", function()
    local app = w:app("shop")
    heal_while(function() d.releases:user_stop(app) end)
    assert.is_false(d.docker.containers["shop-1-1"].State.Running)
    assert.equal("exited", state "shop-1-1")
  end)

  it("a destruction while the reconciler starts an instance leaves nothing", function()
    local app = w:app("shop")
    heal_while(function() d.apps:destroy(app) end)
    assert.is_nil(next(d.docker.containers))
  end)

  it("a stop, and a start after it, while the reconciler starts an instance let it run", function()
    local app = w:app("shop")
    heal_while(function()
      local stop = task.spawn("stop", function() d.releases:user_stop(app) end)
      w:until_true(function() return d.apps:by_id(app.id).stopped == 1 end)
      d.releases:user_start(app)
      stop:join()
    end)
    assert.is_true(d.docker.containers["shop-1-1"].State.Running)
    assert.equal("10.0.1.1:8080", targets(app))
  end)

  it("a stop while a restart starts an instance stops that too", function()
    local app = w:app("shop")
    d.releases:user_stop(app)
    d.drain.wait_idle = function() end
    local stop
    w:before("start", function()
      stop = task.spawn("stop", function() d.releases:user_stop(app) end)
      task.sleep(50)
    end)
    d.releases:user_start(app)
    stop:join()
    assert.is_false(d.docker.containers["shop-1-1"].State.Running)
    assert.is_nil(d.guard.watched[app.id])
  end)

  it("a destruction doesn't wait for the grace of a stop that is under way", function()
    local app = w:app("shop")
    d.drain.wait_idle = function() end
    local asked = 0
    w:before("stop", function() -- Docker's second stop ends the first one's grace
      asked = asked + 1
      if asked == 1 then w:until_true(function() return asked == 2 end) end
    end)
    local stop = task.spawn("stop", function() d.releases:user_stop(app) end)
    w:until_true(function() return asked == 1 end)
    d.apps:destroy(app)
    stop:join()
    assert.is_nil(next(d.docker.containers))
  end)

  it("an instance is started while another of its app takes its time to stop", function()
    local app, release = w:app("shop", 2)
    local rows, stopped = d.releases:instances(release), false
    w:before("stop", function() w:until_true(function() return stopped end) end)
    local stop = task.spawn("stop", function() d.instances:stop(release, { rows[2] }) end)
    w:until_true(function() return w:count "stop shop-1-2" == 1 end)
    d.docker.containers["shop-1-1"].State.Running = false
    local reconcile = task.spawn("reconcile", function() d.watch:reconcile() end)
    w:until_true(function() return d.docker.containers["shop-1-1"].State.Running end)
    stopped = true
    stop:join()
    reconcile:join()
    w:until_true(function() return targets(app):match "^%S+" == "10.0.1.1:8080" end) -- it answers
  end)

  it("a container that is made anew while its app is destroyed goes too", function()
    local app = w:app("shop")
    d.store:commit { { "UPDATE instance SET container = 'id-before'" } }
    local start, container, tried = d.docker.start, require "nd.service.container", false
    function d.docker.start(...)
      if tried then return start(...) end
      tried = true
      error(task.error { code = "docker_error", message = "half-started" }, 0)
    end
    local spec = container.spec
    container.spec = function() return {} end
    heal_while(function() d.apps:destroy(app) end)
    container.spec = spec
    assert.is_nil(next(d.docker.containers))
  end)

  it("a stop between looking at Docker and at the rows doesn't bring a kept release back", function()
    local app = w:app("shop")
    local old = w:release(app, 2, "kept", 1)
    w:before("list", function()
      d.docker.hooks.list = nil
      task.spawn("late", function() d.instances:stop(old) end)
      task.sleep(50)
    end)
    local list = d.docker.list
    d.docker.list = function(...)
      local found = list(...) -- as it was before
      for _, c in ipairs(found) do c.State = "running" end
      return found
    end
    d.watch:reconcile()
    task.sleep(50)
    assert.equal("exited", state "shop-2-1")
  end)

  it("a release that is live again is not removed when its time as a kept one is up", function()
    local app = w:app("shop")
    local old = w:release(app, 2, "kept", 1)
    d.store:commit { { "UPDATE release SET keep_until = ? WHERE id = ?", require "clock".now() + 500, old.id } }
    d.drain:take(app, d.releases:by_id(old.id))
    d.store:commit { { "UPDATE release SET state = 'live', keep_until = NULL WHERE id = ?", old.id } }
    w:until_true(function() return not d.drain.active[old.id] end)
    assert.equal(0, w:count "remove shop-2-1")
  end)

  it("a release whose removal was only posted is made anew, not woken", function()
    local app = w:app("shop")
    local old = w:release(app, 2, "kept", 1)
    d.store:commit { { "UPDATE release SET keep_until = 1 WHERE id = ?", old.id } }
    local woken
    d.instances.wake = function() woken = true end
    d.instances.prepare = function() return nil, nil, {} end
    w:before("remove", function() task.sleep(20) end)
    d.drain:take(app, d.releases:by_id(old.id))
    local leave = d.drain.leave
    d.drain.leave = function(...) -- the drain ends by itself at that moment
      while task.current() == "busted" and d.drain.active[old.id] do task.sleep(0) end
      return leave(...)
    end
    d.releases:activate({ app = app, key = "k" }, d.releases:by_id(old.id))
    assert.is_nil(woken)
  end)

  it("a release whose removal is interrupted by a rollback comes back whole", function()
    local app = w:app("shop")
    local old = w:release(app, 2, "kept", 2)
    d.store:commit { { "UPDATE release SET keep_until = 1 WHERE id = ?", old.id } }
    w:before("remove", function(id)
      if id ~= "shop-2-2" then return end
      d.docker.hooks.remove = nil
      task.sleep(60000) -- until it is cancelled
    end)
    d.drain:take(app, d.releases:by_id(old.id))
    w:until_true(function() return state "shop-2-1" == "gone" and not d.docker.hooks.remove end)
    local anew
    d.instances.prepare = function() return nil, nil, {} end
    d.instances.start = function() anew = true end
    d.releases:activate({ app = app, key = "k" }, d.releases:by_id(old.id))
    assert.is_true(anew)
    assert.equal(0, w:row("SELECT count(*) AS n FROM instance WHERE release = ? AND gone_at IS NULL", old.id).n)
  end)

  it("what a run began is not tidied up after another one", function()
    local app = w:app("shop")
    w:release(app, 2, "created", 1)
    d.store:commit {
      { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('h', 'b', '{}', 1)" },
      { [[INSERT INTO run (id, app, recipe, bundle, params, seed, state, owner, started_at)
        VALUES ('r2', ?, 'b', 'h', '{}', 1, 'running', 'uid 0', 1)]], app.id } }
    d.releases:tidy(app, "r1")
    assert.equal(0, w:count "remove shop-2-1")
    d.releases:tidy(app, "r2")
    assert.equal(1, w:count "remove shop-2-1")
  end)

  it("a container that Docker started again while nobody listened counts as restarted, once", function()
    w:app("shop")
    d.store:commit { { "UPDATE instance SET started_at = ?", clock.now() } }
    d.docker:find("shop-1-1").State.StartedAt = clock.format(clock.now() - 1000)
    d.watch:catch_up()
    assert.equal(0, w:row("SELECT restarts FROM instance").restarts)
    d.docker:find("shop-1-1").State.StartedAt = clock.format(clock.now() + 5000)
    for _ = 1, 2 do d.watch:catch_up() end
    assert.equal(1, w:row("SELECT restarts FROM instance").restarts)
    assert.equal("instance.died instance.started", w:row([[SELECT group_concat(kind, ' ') AS kinds FROM event
      WHERE kind LIKE 'instance.%']]).kinds)
  end)

  it("a container that died while nobody listened is told of when it is started again", function()
    w:app("shop")
    d.docker:find("shop-1-1").State.Running = false
    d.watch:reconcile()
    d.store:commit {}
    assert.is_true(d.docker:find("shop-1-1").State.Running)
    assert.equal(1, w:row("SELECT count(*) AS n FROM event WHERE kind = 'instance.died'").n)
  end)

  it("a release whose container ended while nobody looked is not switched to", function()
    local app = w:app("shop")
    local release = w:release(app, 2, "healthy", 1)
    d.docker:find("shop-2-1").State.Running = false -- no event told of it
    local ok, e = pcall(d.releases.check_runs, d.releases, app, release)
    assert.is_false(ok)
    assert.equal("unhealthy", e.code)
    assert.matches("shop%-2%-1 has ended", e.message)
    w:before("inspect", function() error(task.error { code = "docker_unreachable", message = "away" }, 0) end)
    assert.is_true(pcall(d.releases.check_runs, d.releases, app, release)) -- as far as is known
  end)

  it("a release that was retired by somebody who was cancelled is drained all the same", function()
    local app = w:app("shop")
    local old = w:release(app, 2, "draining", 1)
    d.store:commit { { "UPDATE release SET drain_until = 1, keep_ms = 0 WHERE id = ?", old.id } }
    d.watch:reconcile()
    w:until_true(function() return w:count "remove shop-2-1" == 1 end)
  end)

  it("the guard goes back once the run that stood in its way has ended", function()
    local app, release = w:app("shop", 1, { go_back = true })
    w:release(app, 2, "kept", 1)
    d.store:commit { { "UPDATE release SET replaced = 2 WHERE id = ?", release.id } }
    d.health.check = function() return false, "sick", 1 end
    local function was_healthy()
      return w:row("SELECT was_healthy FROM release WHERE id = ?", release.id).was_healthy
    end
    local asked, went, deploying = 0, 0, true
    d.runs.start = function()
      asked = asked + 1
      if deploying then error(task.error { code = "run_conflict", message = "a deploy" }, 0) end
      went = went + 1
    end
    d.guard:watch(app, release)
    w:until_true(function() return asked > 0 end)
    assert.equal(1, was_healthy())
    deploying = false
    w:until_true(function() return was_healthy() == 0 end)
    d.guard:nudge(app, true)
    task.sleep(50)
    assert.equal(1, went)
  end)

  it("a job that runs is waited for while Docker is away, also after a restart of the daemon", function()
    local app, release = w:app("shop")
    local jobs = require("nd.service.jobs").new(d)
    local away = { code = "docker_unreachable", message = "Docker is away" }
    w:before("inspect", function() error(task.error(away), 0) end)
    local asked = 0
    function d.docker.wait()
      asked = asked + 1
      if asked == 1 then error(task.error(away), 0) end
      return 0
    end
    d.store:commit { { [[INSERT INTO job (app, release, process, trigger, key, name, address, command, image,
      image_id, number, timeout, state, container, started_at, created_at) VALUES (?, ?, 'tick', 'cron', 'k', 'j',
      '10.0.0.9', '[]', 'img', 'sha256:1', 1, 60000, 'running', 'id-j', ?, 1)]], app.id, release.id,
      require "clock".now() } }
    jobs:resume()
    w:until_true(function()
      return w:row("SELECT state FROM job WHERE key = 'k'").state ~= "running"
    end)
    assert.equal("done", jobs:by_key("k").state)
  end)

  it("a container that Docker makes after its job was given up is removed, and no other", function()
    local app, release = w:app("shop")
    d.jobs = require("nd.service.jobs").new(d)
    d.store:commit { { [[INSERT INTO job (app, release, process, trigger, key, name, address, command, image, image_id,
      number, timeout, state, created_at, ended_at, gone_at) VALUES (?, ?, 'tick', 'cron', 'cron/1/tick/1', 'j',
      '10.0.0.9', '[]', 'img', 'sha256:1', 1, 60000, 'failed', 1, 1, 1)]], app.id, release.id } }
    d.docker:create("j", { Labels = { ["nextdeploy.key"] = "cron/1/tick/1" } })
    d.docker:create("k", { Labels = { ["nextdeploy.key"] = "cron/1/tick/2" } })
    d.store.cloned = true
    d.watch:reconcile()
    assert.is_table(d.docker:find "j")
    d.store.cloned = false
    d.watch:reconcile()
    assert.is_nil(d.docker:find "j")
    assert.same({ { id = "id-k", name = "/k" } }, d.watch:strangers())
  end)

  it("the guard doesn't watch a release that a run has stopped, after a restart of the daemon either", function()
    local app, release = w:app("shop")
    d.store:commit { { "UPDATE release SET state = 'kept' WHERE id = ?", release.id } }
    d.guard:resume()
    assert.is_nil(d.guard.watched[app.id])
  end)

  it("a run that was recorded is driven, whatever fails from there on", function()
    local app, workers = w:app("shop"), require "nd.service.recipe_worker"
    local start_worker, by_id, try = workers.start, d.apps.by_id, d.store.try
    local runs = require("nd.service.runs").new(d)
    function workers.start()
      return { kill = function() end, send = function() end, recv = function() return { type = "done" } end }, {}
    end
    d.runs, d.recipes = runs, {
      bundle = function() return { name = "r", hash = "h", files = {} } end, is_named = function() return true end,
      keep = function() return { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('h', 'r', '{}', 1)" } end,
    }
    function d.store.try(...)
      local result = try(...)
      d.apps.by_id = function() error "the disk can't be read" end
      return result
    end
    local run = runs:start { app = app, recipe = "r", params = {} }
    w:until_true(function() return w:row("SELECT ended_at FROM run WHERE id = ?", run.row.id).ended_at end)
    workers.start, d.apps.by_id, d.store.try = start_worker, by_id, try
  end)

  -- An app whose release 2 has the host name of another app, blog.
  local function without_host()
    local app, blog = w:app("shop"), w:app("blog")
    w:release(app, 2, "kept", 1)
    d.store:commit {
      { [[INSERT INTO route (domain, app, tls, proxy_type, created_at) VALUES ('a.example', ?, 'off', 'caddy', 1)]],
        blog.id },
      { [[UPDATE release SET config = json_set(config, '$.routes', json('[{"domain": "a.example", "tls": "off",
        "proxy_type": "caddy"}]')) WHERE app = ? AND number = 2]], app.id },
    }
    return app
  end

  local function says_nothing_of_blog(id)
    local kept = json.encode { w:row("SELECT * FROM run WHERE id = ?", id),
      d.store:all("SELECT * FROM effect WHERE run = ?", id), d.store:all("SELECT * FROM event WHERE run = ?", id) }
    assert.matches("a.example belongs to another app", kept, 1, true)
    assert.is_nil(kept:find("blog", 1, true), kept)
  end

  it("what a run keeps of an error doesn't name the other app", function()
    local app, workers = without_host(), require "nd.service.recipe_worker"
    local start_worker = workers.start
    function workers.start()
      local asked, answer, answered = false, nil, task.signal()
      local function send(_, frame)
        answer = frame
        answered:notify()
      end
      local function recv()
        if not asked then
          asked = true
          return { type = "parked", effects = {
            { n = 1, name = "app.switch", args = json.array { "shop", { release = 2 } } } } }
        end
        while not answer do answered:wait(1000) end
        return { type = "failed", error = answer.error }
      end
      return { kill = function() end, send = send, recv = recv }, { allowed = { app = true } }
    end
    d.recipes = {
      bundle = function() return { name = "r", hash = "h", files = {} } end, is_named = function() return true end,
      keep = function() return { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('h', 'r', '{}', 1)" } end,
    }
    d.runs = require("nd.service.runs").new(d)
    local run = d.runs:start { app = app, recipe = "r", params = {}, owner = "uid 0" }
    w:until_true(function() return w:row("SELECT ended_at FROM run WHERE id = ?", run.row.id).ended_at end)
    workers.start = start_worker
    says_nothing_of_blog(run.row.id)
  end)

  it("a request whose turn comes too late doesn't name the other app either", function()
    local app = without_host()
    d.store:commit { { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('h', 'r', '{}', 1)" } }
    d.runs = require("nd.service.runs").new(d)
    d.queue:add({ id = "late", app = app.id, recipe = "r", bundle = "h", params = "{}", owner = "uid 0",
      started_at = 1 },
      { kind = "deploy", busy = "queue", body = { app_name = "shop", image = "img", domain = "a.example" } })
    w:until_true(function() return w:row("SELECT 1 AS ended FROM run WHERE id = 'late'") end)
    says_nothing_of_blog "late"
  end)

  it("an instance that could not be recorded has no secrets that nobody would remove", function()
    local _, release = w:app("shop")
    function d.store.commit() error(task.error { code = "db_io", message = "the disk fails" }, 0) end
    assert.is_false(pcall(d.instances.record, d.instances, release,
      { { process = "web", position = 1, name = "x", address = "10.0.0.9" } }, {}))
    d.store.commit = nil
    assert.same({}, require "fs".list(d.options.run_dir .. "/secrets"))
  end)

  it("an instance that a crash left half-started is replaced, not taken for one that is there", function()
    local app, release = w:app("shop", 1)
    local name = require "nd.service.container".name(d, app, release.number, "web", 2)
    d.store:commit { { [[INSERT INTO instance (release, process, position, name, address, state)
      VALUES (?, 'web', 2, ?, '10.0.1.2', 'starting')]], release.id, name } }
    d.images = { of = function() return { Config = { Cmd = { "/app" } } } end }
    function d.network.container_address() return "10.0.1.3" end
    d.instances:grow(app, release, { web = 2 }, "r/1")
    assert.equal(1, w:count("start id-" .. name))
  end)

  it("a run that is done is recorded as that, also where the database first refuses it", function()
    local run = require "nd.service.run".new(d, { id = "r", app = w:app("shop").id, recipe = "r", state = "running" })
    local commit, times = d.store.commit, 0
    d.runs.forget_old = require "nd.service.runs".forget_old
    function d.store.commit(store, statements)
      if #statements == 0 or times == 1 then return commit(store, statements) end
      times = times + 1
      error(task.error { code = "db_io", message = "the disk fails" }, 0)
    end
    run:finish("done")
    assert.equal(1, times)
    assert.equal("done", run.row.state)
  end)

  it("a connection that breaks doesn't leave what is live without a restart policy", function()
    local _, release = w:app("shop", 1)
    local broken = 0
    w:before("update", function()
      broken = broken + 1
      if broken == 1 then error(task.error { code = "docker_unreachable", message = "broken pipe" }, 0) end
    end)
    d.instances:set_restart(release, "unless-stopped")
    assert.equal(2, broken)
  end)
end)
