-- An app between two releases: who gets its traffic at each step, and how everything comes back.

local World = require "tests.lua.spine_world"
local json = require "json"
local task = require "task"

describe("an app between two releases", function()
  local w, d, app, old, new

  before_each(function()
    w = World.new()
    d = w.d
    app, old = w:app("shop", 3)
    new = w:release(app, 2, "created", 3)
  end)
  after_each(function() w:close() end)

  local function targets() return table.concat((d.network:targets(d.apps.service(app))), " ") end
  local function weights() return select(2, d.network:targets(d.apps.service(app))) end
  local function states(release)
    d.store:commit {}
    local list = {}
    for i, row in ipairs(d.releases:instances(release)) do list[i] = row.state end
    return table.concat(list, " ")
  end

  it("has new instances in the place of as many old ones, which are stopped", function()
    local result = d.shift:set(app, new, { instances = 1, drain = 0 })
    assert.equal(old.number, result.before)
    assert.equal("10.0.1.2:8080 10.0.1.3:8080 10.0.2.1:8080", targets())
    assert.equal("exited running running", states(old))
    d.shift:set(app, new, { instances = 2, drain = 0 })
    assert.equal("10.0.1.3:8080 10.0.2.1:8080 10.0.2.2:8080", targets())
    assert.equal("exited exited running", states(old))
    d.shift:set(app, new, { instances = 2, drain = 0 }) -- again, after a crash
    assert.equal(1, w:count "stop shop-1-1")
  end)

  it("has them all at the switch, and is between two no more", function()
    d.shift:set(app, new, { instances = 2, drain = 0 })
    d.traffic:switch(app, new)
    assert.equal("10.0.2.1:8080 10.0.2.2:8080 10.0.2.3:8080", targets())
    d.store:commit {}
    assert.is_nil(d.shift:of(app))
  end)

  it("goes on after a restart of the daemon as it was", function()
    d.shift:set(app, new, { instances = 1, drain = 0 })
    d.network:switch_all { { key = d.apps.service(app), targets = {} } }
    d.traffic:retarget_all()
    assert.equal("10.0.1.2:8080 10.0.1.3:8080 10.0.2.1:8080", targets())
    d.guard:leave(app)
    d.guard:resume()
    assert.is_nil(d.guard.watched[app.id]) -- the stopped one isn't ill
  end)

  it("sends nobody to one that dies meanwhile", function()
    d.shift:set(app, new, { instances = 1, drain = 0 })
    w:event("die", "shop-2-1")
    w:until_true(function() return targets() == "10.0.1.2:8080 10.0.1.3:8080" end)
  end)

  it("comes back: the old instances run before they get traffic", function()
    d.shift:set(app, new, { instances = 2, drain = 0 })
    local before
    d.health.wait = function(_, _, release, _, _, rows)
      before = { release.number, #rows, targets() }
    end
    d.shift:back(app)
    assert.same({ 1, 2, "10.0.1.3:8080 10.0.2.1:8080 10.0.2.2:8080" }, before)
    assert.equal("10.0.1.1:8080 10.0.1.2:8080 10.0.1.3:8080", targets())
    assert.equal("running running running", states(old))
    assert.is_truthy(d.guard.watched[app.id])
    d.shift:back(app)
  end)

  it("lets what is taken back finish, and stops it then", function()
    d.shift:set(app, new, { weight = 50 })
    d.network.connected = 1
    local back = task.spawn("back", function() d.shift:back(app, 60000) end)
    w:until_true(function() return targets() == "10.0.1.1:8080 10.0.1.2:8080 10.0.1.3:8080" end)
    task.sleep(20)
    assert.equal("running running running", states(new))
    d.network.connected = 0
    back:join()
    assert.equal("exited exited exited", states(new))
    assert.is_nil(d.shift:of(app))
    assert.is_truthy(d.guard.watched[app.id])
  end)

  it("goes on being taken back after a crash in between", function()
    d.shift:set(app, new, { weight = 50 })
    d.network.connected = 1
    local back = task.spawn("back", function() d.shift:back(app, 60000) end)
    w:until_true(function() return targets() == "10.0.1.1:8080 10.0.1.2:8080 10.0.1.3:8080" end)
    back:cancel()
    back:wait()
    d.traffic:retarget_all()
    assert.equal("10.0.1.1:8080 10.0.1.2:8080 10.0.1.3:8080", targets())
    d.shift:back(app, 0)
    assert.equal("exited exited exited", states(new))
    assert.is_nil(d.shift:of(app))
  end)

  it("doesn't start what a person has stopped", function()
    d.shift:set(app, new, { instances = 1, drain = 0 })
    d.store:commit { { "UPDATE app SET stopped = 1 WHERE id = ?", app.id } }
    d.shift:back(app)
    assert.equal("exited running running", states(old))
  end)

  it("is tidied up by whoever finds that its run has ended", function()
    d.shift:set(app, new, { instances = 1, drain = 0 })
    d.watch:tidy_apps()
    assert.equal("10.0.1.1:8080 10.0.1.2:8080 10.0.1.3:8080", targets())
    assert.equal("gone", w:row("SELECT state FROM release WHERE id = ?", new.id).state)
  end)

  it("shares by weight, however many instances there are", function()
    d.store:commit { { "UPDATE instance SET gone_at = 1 WHERE name = 'shop-2-3'" } }
    d.shift:set(app, new, { weight = 6 })
    assert.same({ ["10.0.1.1:8080"] = 94 / 3, ["10.0.1.2:8080"] = 94 / 3, ["10.0.1.3:8080"] = 94 / 3,
      ["10.0.2.1:8080"] = 3, ["10.0.2.2:8080"] = 3 }, weights())
    assert.equal("running running running", states(old))
    assert.is_truthy(d.guard.watched[app.id] == nil) -- as it was
    d.shift:set(app, new, { weight = 50 })
    assert.equal(25, weights()["10.0.2.1:8080"])
    d.shift:back(app)
    assert.is_nil(weights())
    assert.equal("10.0.1.1:8080 10.0.1.2:8080 10.0.1.3:8080", targets())
  end)

  it("leaves everything to the live one where the next has nothing that runs", function()
    d.shift:set(app, new, { weight = 50 })
    d.store:commit { { "UPDATE instance SET state = 'exited' WHERE release = ?", new.id } }
    d.traffic:retarget(app)
    assert.equal("10.0.1.1:8080 10.0.1.2:8080 10.0.1.3:8080", targets())
    assert.is_nil(weights())
  end)

  describe("of a canary behind a proxy", function()
    local told, clearing

    local function route()
      d.store:commit { { [[INSERT INTO route (domain, app, tls, proxy_type, created_at)
        VALUES ('shop.test', ?, 'off', 'caddy', 1)]], app.id } }
    end

    before_each(function()
      told = {}
      d.proxy = { require_up = function() end, remove = function() end,
        set = function(_, host, _, _, _, canary) told[#told + 1] = host .. (canary and " shared" or " whole") end }
      route()
      clearing = d.shift:start()
    end)
    after_each(function() clearing:cancel() end)

    local function cleared()
      return w:until_true(function() return not d.network:find_service(d.apps.canary(app)) end)
    end

    it("leaves neither its name in the proxy nor its address", function()
      d.shift:set(app, new, { weight = 5 })
      assert.same({ "shop.test shared" }, told)
      assert.is_truthy(d.network:find_service(d.apps.canary(app)))
      d.shift:back(app)
      assert.is_true(cleared())
      assert.same({ "shop.test shared", "shop.test whole" }, told)
    end)

    it("leaves none where Docker was away before all had stopped", function()
      d.shift:set(app, new, { weight = 5 })
      w:before("stop", function() error(task.error { code = "docker_down", message = "away" }, 0) end)
      assert.is_false(pcall(d.shift.back, d.shift, app))
      w:before("stop", nil)
      assert.is_true(cleared())
      d.shift:back(app)
      assert.is_nil(d.shift:of(app))
    end)

    it("leaves none where the next one was short", function()
      d.shift:set(app, new, { weight = 5 })
      d.traffic:switch(app, new)
      route() -- the release has none of its own
      d.shift:ended(app)
      w:until_true(function() return told[2] == "shop.test whole" end)
      d.shift:set(app, old, { weight = 5 })
      d.shift:back(app)
      assert.is_true(cleared())
      assert.equal("shop.test whole", told[#told])
    end)

    it("leaves none where the proxy was away at first", function()
      local set, failed = d.proxy.set, false
      d.shift:set(app, new, { weight = 5 })
      d.proxy.set = function(...)
        if failed then return set(...) end
        failed = true
        error(task.error { code = "proxy_down", message = "away" }, 0)
      end
      d.shift:back(app)
      assert.is_true(cleared())
      assert.same({ "shop.test shared", "shop.test whole" }, told)
    end)

    it("leaves none after the switch, and keeps that of the next one", function()
      d.shift:set(app, new, { weight = 5 })
      d.traffic:switch(app, new)
      d.shift:ended(app)
      assert.is_true(cleared())
      route() -- the release has none of its own
      d.shift:set(app, old, { weight = 5 })
      d.shift:ended(app)
      task.sleep(1200)
      assert.is_truthy(d.network:find_service(d.apps.canary(app)))
    end)
  end)

  it("is refused what makes no sense", function()
    local function code(...)
      local ok, e = pcall(d.shift.set, d.shift, ...)
      return not ok and e.code
    end
    assert.equal("bad_argument", code(app, new, {}))
    assert.equal("bad_argument", code(app, new, { instances = 1, weight = 5 }))
    assert.equal("bad_argument", code(app, new, { weight = 100 }))
    assert.equal("bad_argument", code(app, new, { instances = 1.5 }))
    assert.equal("release_live", code(app, old, { instances = 1 }))
    d.store:commit { { "UPDATE instance SET gone_at = 1 WHERE name = 'shop-2-2'" } }
    assert.equal("unhealthy", code(app, new, { instances = 2 }))
    assert.equal(json.encode(json.null), json.encode(d.shift:of(app) or json.null))
    d.docker.containers["shop-2-1"].State.Running = false
    d.store:commit { { "UPDATE instance SET state = 'exited' WHERE name = 'shop-2-1'" } }
    assert.equal("unhealthy", code(app, new, { weight = 5 }))
  end)
end)
