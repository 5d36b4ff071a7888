-- What a crash in the middle of growing leaves: all that was started is still waited for.

local World = require "tests.lua.spine_world"

describe("instances that were added when the daemon died", function()
  local w, d, app, release

  before_each(function()
    w = World.new()
    d = w.d
    app, release = w:app("shop", 1)
    d.store:commit { { [[INSERT INTO instance (release, process, position, name, address, state)
      VALUES (?, 'web', 2, 'shop-1-2', '10.0.1.2', 'starting')]], release.id } }
    d.docker.containers["shop-1-2"] = { Id = "id-shop-1-2", Name = "shop-1-2",
      Config = { Labels = { ["nextdeploy.key"] = "run/2" } },
      State = { Running = true, Pid = 1, Error = "", StartedAt = "2026-11-22T12:00:00Z" } }
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
