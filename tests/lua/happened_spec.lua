-- happened_spec.lua - an act that happened, and whose answer a crash kept from the journal: it is known for
-- what it was, whether its run goes on, or back.

local World = require "tests.lua.spine_world"
local Run = require "nd.service.run"
local Runs = require "nd.service.runs"
local db = require "db"
local effects = require "nd.effect"
local json = require "json"

describe("what had happened when the daemon died", function()
  local w, d, app, first

  before_each(function()
    w = World.new()
    d = w.d
    app, first = w:app("shop")
    d.runs = Runs.new(d)
  end)
  after_each(function() w:close() end)

  -- A run that has had these effects, the last one without an answer.
  local function run_with(list)
    local statements = {
      { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('h', 'b', '{}', 1)" },
      { [[INSERT INTO run (id, app, recipe, bundle, params, seed, state, owner, started_at, reason)
        VALUES ('r1', ?, 'b', 'h', '{}', 1, 'running', 'uid 0', 1, '{"code": "cancelled", "message": "by ann"}')]],
        app.id } }
    for n, e in ipairs(list) do
      local answered = n < #list and n or db.null
      statements[#statements + 1] = { [[INSERT INTO effect (run, n, name, version, task, args, label, pivot, asked_at,
        answered, answered_at, ok, undo) VALUES ('r1', ?, ?, 1, '1', ?, ?, ?, 1, ?, ?, ?, ?)]], n, e[1],
        json.encode(e[2]), e[1], e.pivot or 0, answered, answered, n < #list and 1 or db.null, e.undo or db.null }
    end
    d.store:commit(statements)
  end

  local function loaded()
    local run = Run.new(d, w:row "SELECT * FROM run WHERE id = 'r1'")
    run:load()
    return run
  end

  local function act(n)
    local run = loaded()
    local e = run.effects[n]
    return effects.find(e.name).act(run:context(e), effects.unpack(e))
  end

  -- The daemon starts again, and the run was going back.
  local function goes_back()
    d.store:commit { { "UPDATE run SET state = 'rolling_back'" } }
    d.runs:resume(d.runs:interrupted())
    w:until_true(function() return next(d.runs.live) == nil end)
    return d.runs:show "r1"
  end

  local function deploy(pivot)
    w:release(app, 2, "healthy", 1)
    run_with { { "app.start", json.array { "shop" }, undo = '{"effect": "app.remove", "args": [{"release": 2}]}' },
      { "app.switch", json.array { "shop", { release = 2 } }, pivot = pivot } }
  end

  local function live() return d.releases:live(app).number end
  local function targets() return table.concat(d.network:targets(d.apps.service(app)), " ") end

  it("is gone on from, where it was the pivot", function()
    deploy(1)
    act(2)
    local run = goes_back()
    assert.equal("done", run.state)
    assert.equal("cancelled", run.error.code)
    assert.equal(2, live())
    assert.equal("10.0.2.1:8080", targets())
    assert.is_true(d.docker:find("shop-2-1").State.Running)
    assert.equal("draining", w:row("SELECT state FROM release WHERE id = ?", first.id).state)
  end)

  it("is undone, where it wasn't", function()
    deploy(0)
    act(2)
    local run = goes_back()
    assert.equal("cancelled", run.state)
    assert.is_nil(run.error.data)
    assert.equal(1, live())
    assert.equal("10.0.1.1:8080", targets())
    assert.is_nil(d.docker:find "shop-2-1")
  end)

  it("is gone on from only where it did happen", function()
    deploy(1)
    assert.equal("cancelled", goes_back().state)
    assert.equal(1, live())
    assert.is_nil(d.docker:find "shop-2-1")
  end)

  local function answered(n)
    local run = loaded()
    run:act(run.effects[n], true)
    w:until_true(function() return run.effects[n].answered end)
    return run.effects[n]
  end

  it("is answered as it was then, to a run that goes on", function()
    deploy(0)
    act(2)
    local e = answered(2)
    assert.same({ release = 2, before = 1 }, e.result)
    assert.equal("switch back to release 1", e.undo.label)
  end)

  local function scale(pivot)
    d.store:commit { { [[INSERT INTO instance (release, process, position, name, container, address, state)
      VALUES (?, 'web', 2, 'shop-1-2', 'id-shop-1-2', '10.0.1.2', 'waiting')]], first.id } }
    d.docker.containers["shop-1-2"] = { Id = "id-shop-1-2", Name = "shop-1-2", Labels = {}, State = { Running = true } }
    run_with { { "time.sleep", json.array { 1 } },
      { "app.scale", json.array { { release = 1 }, "web", 2 }, pivot = pivot } }
  end

  it("is the number of instances that a scale began with, too", function()
    scale(0)
    act(2)
    assert.same({ release = 1, process = "web", before = 1, replicas = 2 }, answered(2).result)
    assert.equal("cancelled", goes_back().state)
    assert.equal("10.0.1.1:8080", targets())
  end)

  it("is a scale's pivot, too", function()
    scale(1)
    act(2)
    assert.equal("done", goes_back().state)
    assert.equal("10.0.1.1:8080 10.0.1.2:8080", targets())
  end)

  it("is not a scale that netfilter refused", function()
    scale(1)
    function d.network.switch_all() error { code = "iptables_failed", message = "it was killed" } end
    assert.is_false(pcall(act, 2))
    d.network.switch_all = nil
    assert.equal("cancelled", goes_back().state)
    assert.equal("10.0.1.1:8080", targets())
  end)

  it("is not changed by its undo", function()
    scale(0)
    act(2)
    local run = loaded()
    run:settle()
    d.store:commit {}
    run:undo()
    assert.same({ release = 1, process = "web", before = 1, replicas = 2 },
      json.decode(w:row("SELECT result FROM effect WHERE n = 2").result))
  end)
end)
