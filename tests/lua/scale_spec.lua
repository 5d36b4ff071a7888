-- What a crash in the middle of growing leaves, and what somebody does who cancels as it gets traffic.

local json = require "json"
local task = require "task"
local tasks = require "nd.tasks"
local World = require "tests.lua.spine_world"

-- An app with one instance, and a second one in this state. -> world, app, release
local function with_two(state)
  local w = World.new()
  local app, release = w:app("shop", 1)
  w.d.store:commit { { [[INSERT INTO instance (release, process, position, name, address, state)
    VALUES (?, 'web', 2, 'shop-1-2', '10.0.1.2', ?)]], release.id, state } }
  w.d.docker.containers["shop-1-2"] = { Id = "id-shop-1-2", Name = "shop-1-2",
    Config = { Labels = { ["nextdeploy.key"] = "run/2" } },
    State = { Running = true, Pid = 1, Error = "", StartedAt = "2026-11-22T12:00:00Z" } }
  return w, app, release
end

describe("instances that were added when the daemon died", function()
  local w, d, app, release

  before_each(function()
    w, app, release = with_two "starting"
    d = w.d
  end)
  after_each(function() w:close() end)

  local function grown()
    local handle = d.scale:grew({ app = app, key = "run/2" }, release, "web")
    local rows = d.scale:grown(release, handle)
    assert.equal(1, #rows)
    assert.equal("shop-1-2", rows[1].name)
    return rows[1]
  end

  it("are waited for until they are healthy", function() assert.equal("waiting", grown().state) end)

  it("are not taken for healthy where one has ended since", function()
    d.docker.containers["shop-1-2"].State.Running = false
    assert.equal("exited", grown().state)
  end)

  it("are removed where the number stayed as it was", function()
    d.watch:tidy_apps()
    assert.is_truthy(w:row("SELECT gone_at FROM instance WHERE name = 'shop-1-2'").gone_at)
    assert.is_nil(w:row("SELECT gone_at FROM instance WHERE name = 'shop-1-1'").gone_at)
  end)

  it("are missed where somebody has removed one", function()
    local handle = d.scale:grew({ app = app, key = "run/2" }, release, "web")
    d.store:commit { { "UPDATE instance SET gone_at = 1 WHERE name = 'shop-1-2'" } }
    local ok, e = pcall(d.scale.grown, d.scale, release, handle)
    assert.is_false(ok)
    assert.equal("unhealthy", e.code)
  end)
end)

describe("an app that is being scaled", function()
  local w, d, app, release, effect

  before_each(function()
    w, app, release = with_two "waiting"
    d = w.d
    effect = task.spawn("effect", tasks.act, 60000, "too late", function()
      return d.scale:set(app, release, "web", 2)
    end)
  end)
  after_each(function() w:close() end)

  local function is_scaled()
    assert.equal(2, effect:join().replicas)
    assert.equal(2, json.decode(w:row("SELECT config FROM release").config).replicas)
    assert.equal(2, #d.network:targets(d.apps.service(app)))
    for _, c in pairs(d.docker.containers) do assert.equal("unless-stopped", c.Policy) end
  end

  it("is scaled although somebody cancels while that is recorded", function()
    local commit = d.store.commit
    function d.store.commit(...)
      d.store.commit = commit
      effect:cancel()
      return commit(...)
    end
    is_scaled()
  end)

  it("is scaled although somebody cancels while the new instances get traffic", function()
    local switch_all = d.network.switch_all
    function d.network.switch_all(...)
      effect:cancel()
      task.sleep(20)
      return switch_all(...)
    end
    is_scaled()
  end)

  it("is scaled although somebody cancels while Docker is told to restart them", function()
    w:before("update", function()
      w:before "update"
      effect:cancel()
      task.sleep(20)
    end)
    is_scaled()
  end)
end)
