-- damage_spec.lua - rows that a failing disk has changed: each is named, and nothing wrong is done by what it says.

local json = require "json"
local World = require "tests.lua.spine_world"

describe("rows that are damaged:", function()
  local w, d

  before_each(function()
    w = World.new()
    d = w.d
  end)

  after_each(function() w:close() end)

  local function targets(app) return table.concat(d.network:targets(d.apps.service(app)), " ") end

  -- A deploy of a second release that a crash interrupted before its switch, with these journal rows.
  local function interrupted(app, rows)
    local statements = {
      { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('h', 'b', '{}', 1)" },
      { [[INSERT INTO run (id, app, recipe, bundle, params, seed, state, owner, started_at)
        VALUES ('r2', ?, 'b', 'h', '{}', 1, 'running', 'uid 0', 1)]], app.id } }
    for n, e in ipairs(rows) do
      statements[#statements + 1] = { [[INSERT INTO effect (run, n, name, version, task, args, label, asked_at,
        answered, answered_at, ok, result, undo) VALUES ('r2', ?, ?, 1, '1', ?, 'start shop', 1, ?, 1, 1, ?, ?)]],
        n, e.name, e.args or "[]", n, e.result or "{}", e.undo or require "db".null }
    end
    d.store:commit(statements)
    d.runs = require("nd.service.runs").new(d)
    d.runs:resume(d.runs:interrupted())
    w:until_true(function() return next(d.runs.live) == nil end)
    return d.runs:show "r2"
  end

  it("a run whose journal can't be read fails by name, takes back what it began and leaves the app alone", function()
    local remove = '{"effect": "app.remove", "args": [{"release": 2}], "label": "remove release 2"}'
    for _, rows in ipairs {
      { { name = "app.start", args = "[not json", undo = remove } },
      { { name = "app.start", result = '{"release":', undo = remove } },
      { { name = "app.start", undo = '{"effect": "app.re' } },
      { { name = "app.start", undo = '{"effect": "app.unheard_of", "args": []}' } },
      { { name = "app.start", args = "7" }, { name = "time.sleep" } },
    } do
      local app, release = w:app("shop")
      w:release(app, 2, "created", 1)
      local run = interrupted(app, rows)
      assert.equal("failed", run.state)
      assert.equal("journal_damaged", run.error.code)
      assert.matches("run r2 .* effect 1 %(start shop%)", run.error.message)
      assert.matches("ndctl runs show r2", run.error.hint)
      assert.equal(release.id, d.apps:by_id(app.id).live)
      assert.equal("10.0.1.1:8080", targets(app))
      assert.is_true(d.docker:find("shop-1-1").State.Running)
      assert.is_nil(d.docker:find "shop-2-1")
      d.runs:conflict(app)
      w:close()
      w = World.new()
      d = w.d
    end
  end)

  it("a run that was going back when its journal was damaged ends with its own reason", function()
    local app = w:app("shop")
    w:release(app, 2, "created", 1)
    d.store:commit {
      { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('h0', 'b', '{}', 1)" },
      { [[INSERT INTO run (id, app, recipe, bundle, params, seed, state, owner, started_at, reason)
        VALUES ('r1', ?, 'b', 'h0', '{', 1, 'rolling_back', 'uid 0', 1, '{"code": "unhealthy", "message": "sick"}')]],
        app.id } }
    d.runs = require("nd.service.runs").new(d)
    d.runs:resume(d.runs:interrupted())
    w:until_true(function() return next(d.runs.live) == nil end)
    local run = d.runs:show "r1"
    assert.equal("failed", run.state)
    assert.equal("unhealthy", run.error.code)
    assert.matches("the params of the run", run.error.data.undo_failed)
    assert.is_nil(d.docker:find "shop-2-1")
  end)

  it("a live release whose configuration can't be read doesn't keep the others from their traffic", function()
    local apps = {}
    for i, name in ipairs { "first", "second", "third" } do
      apps[i] = w:app(name, 1, { processes = json.decode [[{"web": {"kind": "web", "port": 8080, "replicas": 1},
        "tick": {"kind": "cron", "schedule": "* * * * *"}}]] })
      d.network:service(d.apps.service(apps[i])).targets = {}
    end
    d.store:commit { { [[UPDATE release SET config = '{"schedule"' WHERE app = ?]], apps[2].id } }
    d.traffic:retarget_all()
    d.schedule = require("nd.service.schedule").new(d)
    d.schedule:start()
    d.stopping = true
    assert.equal("10.0.1.1:8080", targets(apps[1]))
    assert.equal("", targets(apps[2]))
    assert.equal("10.0.1.1:8080", targets(apps[3]))
    assert.is_table(d.schedule.apps[apps[1].id])
    assert.is_table(d.schedule.apps[apps[3].id])
  end)

  -- What a failing disk does: past the triggers, which only the daemon's connection has.
  local function flip(sql)
    local disk = require "db".open(d.store.path)
    disk:write { { sql } }
    disk:close()
  end

  local function refused(fn, ...)
    local ok, e = pcall(fn, ...)
    return not ok and e.code
  end

  it("a release whose row is damaged is named, and nothing is done to its containers", function()
    local app, release = w:app("shop")
    local kept = w:release(app, 2, "kept", 1)
    flip("UPDATE release SET config = replace(config, '8080', '8081') WHERE id = " .. release.id)
    flip("UPDATE release SET keep_until = 1 WHERE id = " .. kept.id)
    local status = d.apps:status(app)
    assert.equal("error", status.status)
    assert.equal("release_damaged", status.error.code)
    assert.matches("ndctl rollback", status.error.hint)
    assert.equal("release_damaged", refused(d.releases.user_stop, d.releases, app))
    assert.equal("release_damaged", refused(d.apps.spec, d.apps, app, {}))
    assert.equal("release_damaged", refused(d.releases.remove, d.releases, app, d.releases:by_id(kept.id), 0))
    d.drain:resume()
    d.traffic:retarget_all()
    d.releases:tidy(app)
    d.watch:reconcile()
    assert.equal("10.0.1.1:8080", targets(app))
    assert.is_true(d.docker:find("shop-1-1").State.Running)
    assert.is_table(d.docker:find "shop-2-1")
  end)

  it("a run whose row is damaged ends by name, and blocks neither the start nor its app", function()
    local app = w:app("shop")
    d.store:commit {
      { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('h0', 'b', '{}', 1)" },
      { [[INSERT INTO run (id, app, recipe, bundle, params, seed, state, owner, started_at)
        VALUES ('r1', ?, 'b', 'h0', '{}', 1, 'running', 'uid 0', 1)]], app.id } }
    flip "UPDATE run SET params = '[]'"
    d.runs = require("nd.service.runs").new(d)
    d.runs:resume(d.runs:interrupted())
    assert.is_nil(next(d.runs.live))
    local run = d.runs:show "r1"
    assert.equal("failed", run.state)
    assert.equal("journal_damaged", run.error.code)
    d.runs:conflict(app)
  end)

  it("an effect whose row is damaged is not undone; what its run has started is removed all the same", function()
    local app, release = w:app("shop")
    w:release(app, 2, "created", 1)
    d.store:commit {
      { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('h0', 'b', '{}', 1)" },
      { [[INSERT INTO run (id, app, recipe, bundle, params, seed, state, owner, started_at)
        VALUES ('r1', ?, 'b', 'h0', '{}', 1, 'running', 'uid 0', 1)]], app.id },
      { [[INSERT INTO effect (run, n, name, version, task, args, label, asked_at, answered, answered_at, ok,
        result, undo) VALUES ('r1', 1, 'app.start', 1, '1', '[]', 'start shop', 1, 1, 1, 1, '{}',
        '{"effect": "app.remove", "args": [{"release": 2}]}')]] } }
    flip [[UPDATE effect SET undo = '{"effect": "app.remove", "args": [{"release": 1}]}']]
    d.runs = require("nd.service.runs").new(d)
    d.runs:resume(d.runs:interrupted())
    w:until_true(function() return next(d.runs.live) == nil end)
    local run = d.runs:show "r1"
    assert.equal("journal_damaged", run.error.code)
    assert.matches("effect 1 %(start shop%)", run.error.message)
    assert.equal(release.id, d.apps:by_id(app.id).live)
    assert.is_true(d.docker:find("shop-1-1").State.Running)
    assert.is_nil(d.docker:find "shop-2-1")
  end)

  for _, case in ipairs {
    { "rolling", { instances = 1, drain = 0 }, "10.0.1.2:8080" },
    { "canary", { weight = 10 }, "10.0.1.1:8080 10.0.1.2:8080" },
  } do
    it("a damaged next release of a " .. case[1] .. " deploy blocks no start: all traffic is the live one's", function()
      local app = w:app("shop", 2)
      local new = w:release(app, 2, "created", 2)
      d.store:commit { { [[INSERT INTO route (domain, app, tls, proxy_type, created_at)
        VALUES ('shop.example', ?, 'off', 'caddy', 1)]], app.id } }
      d.shift:set(app, new, case[2])
      flip("UPDATE release SET config = replace(config, '8080', '8081') WHERE id = " .. new.id)
      assert.is_nil(d.shift:canary(app))
      d.traffic:retarget_all()
      assert.equal(case[3], targets(app))
      d.releases:tidy(app)
      w:until_true(function() return targets(app) == "10.0.1.1:8080 10.0.1.2:8080" end)
      assert.is_nil(w:row("SELECT * FROM shift"))
      assert.is_true(d.docker:find("shop-2-1").State.Running)
    end)
  end
end)
