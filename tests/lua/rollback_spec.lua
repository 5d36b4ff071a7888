-- rollback_spec.lua - which release an app goes back to, and where its image comes from.

local task = require "task"
local World = require "tests.lua.spine_world"

describe("going back", function()
  local w, d, app

  before_each(function()
    w = World.new()
    d = w.d
    d.registries = { auth = function() end }
    d.schedule = { look = function() end }
    app = w:app("shop", 1, { command = { "v1" } })
  end)

  after_each(function() w:close() end)

  -- A new release of this version that becomes live.
  local function deploy(number, version)
    local release = w:release(app, number, "created", 1, { command = { version or "v" .. number } })
    d.traffic:switch(app, release)
    d.store:commit {}
  end

  local function back(to)
    d.traffic:switch(app, d.releases:to_go_back(app, to))
    d.store:commit {}
    return d.releases:live(app).number
  end

  local function code_of(...)
    local ok, e = pcall(...)
    return not ok and e.code, e
  end

  it("each rollback goes further back, and ends where it began", function()
    for n = 2, 4 do deploy(n) end
    assert.same({ 3, 2, 1 }, { back(), back(), back() })
    local code, e = code_of(back)
    assert.equal("nothing_to_roll_back", code)
    assert.matches("ndctl rollback shop %-%-to 2", e.hint)
    assert.equal(4, back(4))
    assert.equal(3, back())
  end)

  it("a release that was left by going back is not gone back to after the next deploy", function()
    deploy(2)
    assert.equal(1, back())
    deploy(3)
    assert.equal(1, back())
  end)

  it("a restart is the same release anew, and is passed over", function()
    deploy(2)
    deploy(3, "v2")
    assert.equal(1, back())
  end)

  it("one that turned out to be ill is passed over", function()
    deploy(2)
    deploy(3)
    d.store:commit { { "UPDATE release SET was_healthy = 0 WHERE number = 2" } }
    assert.equal(1, back())
  end)

  it("one that was never healthy is refused by name", function()
    w:release(app, 2, "created", 1)
    d.store:commit { { "UPDATE release SET state = 'gone', was_healthy = 0 WHERE number = 2" } }
    local code, e = code_of(back, 2)
    assert.equal("release_unhealthy", code)
    assert.matches("release 2 of shop was never healthy", e.message)
    assert.equal("release_not_found", (code_of(back, 9)))
  end)

  it("swapping twice ends where it began", function()
    deploy(2)
    deploy(3)
    for _, wanted in ipairs { 2, 3, 2 } do
      assert.equal(wanted, back(d.releases:other(app).number))
    end
  end)

  describe("to an image that is gone", function()
    local release, here

    before_each(function()
      here = {}
      deploy(2)
      d.store:commit {
        { [[UPDATE release SET state = 'gone', image = 'reg:5000/shop:v1', image_id = 'sha256:one'
          WHERE number = 1]] },
        { "UPDATE release SET image_id = 'sha256:two' WHERE number = 2" } }
      release = d.releases:find(app, 1)
      d.docker.image = function(_, ref) return here[ref] end
      d.docker.pull = function(_, ref)
        assert.equal("reg:5000/shop@sha256:abc", ref)
        here["sha256:one"] = { Id = "sha256:one" }
        here[ref] = here["sha256:one"]
      end
    end)

    it("pulls it by its digest, and writes down that it did", function()
      release.digest = "reg:5000/shop@sha256:abc"
      assert.equal("sha256:one", d.images:of(app, release).Id)
      assert.equal("reg:5000/shop:v1", w:row("SELECT name FROM image WHERE id = 'sha256:one'").name)
      assert.is_nil(w:row "SELECT 1 FROM image WHERE id = ''")
    end)

    it("says no where it came from no registry, and what is here", function()
      deploy(3)
      here["sha256:two"] = { Id = "sha256:two" }
      local code, e = code_of(d.images.of, d.images, app, release)
      assert.equal("image_gone", code)
      assert.matches("reg:5000/shop:v1 %(sha256:one%) of release 1 .* no registry", e.message)
      assert.matches("ndctl rollback shop %-%-to 2", e.hint)
      assert.equal("image_gone", (code_of(d.images.check, d.images, app, release)))
    end)

    it("says what the registry said", function()
      release.digest = "reg:5000/shop@sha256:abc"
      d.docker.pull = function() error(task.error { code = "pull_failed", message = "manifest unknown" }, 0) end
      local code, e = code_of(d.images.of, d.images, app, release)
      assert.equal("image_gone", code)
      assert.matches("reg:5000/shop@sha256:abc.*can't be pulled: manifest unknown", e.message)
    end)

    it("waits for one that is being removed, and has it pulled", function()
      release.digest = "reg:5000/shop@sha256:abc"
      here["sha256:one"] = { Id = "sha256:one" }
      d.images.removing["sha256:one"] = true
      local asked = task.spawn("of", function() return d.images:of(app, release) end)
      task.sleep(10)
      here["sha256:one"], d.images.removing["sha256:one"] = nil, nil
      d.images.removed:notify()
      asked:join()
      assert.is_table(here["reg:5000/shop@sha256:abc"])
    end)
  end)

  it("knows a release's digest by the repository it was asked for from", function()
    local digest = require("nd.service.images").digest
    local found = { RepoDigests = { "mirror:5000/nginx@sha256:b", "nginx@sha256:a" } }
    for _, name in ipairs { "nginx", "nginx:1.27", "docker.io/library/nginx:1.27", "nginx@sha256:a" } do
      assert.equal("nginx@sha256:a", digest(found, name))
    end
    assert.equal("mirror:5000/nginx@sha256:b", digest(found, "mirror:5000/nginx:1"))
    assert.equal("mirror:5000/nginx@sha256:b", digest(found, "sha256:1234"))
    assert.is_nil(digest({}, "shop:v1"))
  end)
end)
