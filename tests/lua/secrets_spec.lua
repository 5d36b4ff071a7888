-- secrets_spec.lua - what is stored of secrets, what is refused, and what a release is given.

local age = require "age"
local crypto = require "crypto"
local db = require "db"
local fault = require "fault"
local fs = require "fs"
local json = require "json"
local secret = require "secret"
local task = require "task"
local release_config = require "nd.service.release_config"
local Redaction = require "nd.service.redaction"
local Seal = require "nd.service.seal"
local Secrets = require "nd.service.secrets"
local World = require "tests.lua.spine_world"

local function dir_in_memory()
  local dir = "/dev/shm/nd-secrets-" .. crypto.hex(crypto.random(6))
  fs.mkdir(dir, 448)
  return dir
end

-- From now on whoever passes this point fails; nil: nobody does.
local hit = fault.hit
local function fail_at(point)
  fault.hit = point and function(name)
    if name == point then error(require("nd.error").new("fault", name), 0) end
  end or hit
end

local function refused(...)
  local ok, e = pcall(...)
  assert.is_false(ok)
  return e.code, e
end

describe("secret", function()
  it("holds bytes that are no text of Lua's", function()
    local s = secret.of "s3cr\0et"
    assert.equal(7, #s)
    assert.equal("secret", tostring(s))
    assert.is_false(s:is_text())
    assert.is_true(secret.of("a"):is_text())
    assert.is_true(s:equal(secret.of "s3cr\0et"))
    assert.is_false(s:equal(secret.of "s3cr\0eT"))
    assert.equal(0, #secret.of "")
    s:close()
    assert.has_error(function() return #s end)
    s:close()
  end)

  it("derives as HMAC-SHA256 does, and seals what unseals to the same", function()
    local key = secret.of(("k"):rep(32))
    assert.is_true(key:derive("a"):equal(secret.of(crypto.unhex(crypto.hmac(("k"):rep(32), "a")))))
    local sealed = crypto.seal(key, "for a test", secret.of "value")
    assert.equal("value", crypto.unseal(("k"):rep(32), "for a test", sealed))
    assert.is_true(crypto.unseal_secret(key, "for a test", sealed):equal(secret.of "value"))
    assert.is_nil(crypto.unseal_secret(key, "for another", sealed))
    assert.is_nil(crypto.unseal_secret(key, "for a test", "short"))
    assert.equal(0, #crypto.unseal_secret(key, "", crypto.seal(key, "", "")))
  end)

  it("is written to memory alone, by a rename, and only where it differs", function()
    local dir <const> = dir_in_memory()
    local s = secret.of "value"
    assert.is_true(s:put(dir .. "/NAME", 292))
    assert.same({ "value", 292 }, { fs.read(dir .. "/NAME"), fs.stat(dir .. "/NAME").mode & 511 })
    assert.is_false(s:put(dir .. "/NAME", 292))
    assert.is_true(secret.of("other"):put(dir .. "/NAME", 292))
    assert.is_true(secret.of(""):put(dir .. "/NAME", 292))
    assert.same({ "NAME" }, fs.list(dir))
    fs.remove(dir, { recursive = true })
    local disk = os.tmpname()
    os.remove(disk)
    fs.mkdir(disk, 448)
    if fs.stat(disk).device ~= fs.stat("/dev/shm").device then
      local code = refused(s.put, s, disk .. "/NAME", 292)
      if code ~= "not_in_memory" then assert.equal("tmpfs", code) end -- /tmp may be one
      assert.same({}, fs.list(disk))
    end
    fs.remove(disk, { recursive = true })
  end)
end)

describe("secrets", function()
  local w, d, scope, dir

  before_each(function()
    dir = dir_in_memory()
    w = World.new(dir)
    d = w.d
    scope = Secrets.scope { app = "shop" }
  end)

  after_each(function()
    fail_at(nil)
    w:close()
  end)

  local function to_agent(value) return age.encrypt({ d.secrets:recipient() }, value, { armor = true }) end

  local function set(values, where, copies)
    local texts = {}
    for name, value in pairs(values) do texts[name] = to_agent(value) end
    return d.secrets:sync(where or scope, texts, copies, "somebody")
  end

  local function value_of(where, name)
    local row = d.store:get([[SELECT * FROM secret WHERE project = ? AND environment = ? AND app = ? AND name = ?
      ORDER BY version DESC]], where.project, where.environment, where.app, name)
    return crypto.unseal(fs.read(dir .. "/agent.key"), ("secret %s %s %s %s %d"):format(row.project, row.environment,
      row.app == "" and "-" or row.app, row.name, row.version), crypto.unbase64(row.sealed))
  end

  it("are kept in versions, and a value that is what it was makes none", function()
    assert.same({ { name = "A", version = 1, changed = true }, { name = "B", version = 1, changed = true } },
      set { A = "one", B = "" })
    assert.same({ { name = "A", version = 2, changed = true }, { name = "B", version = 1, changed = false } },
      set { A = "two", B = "" })
    assert.equal("two", value_of(scope, "A"))
    local list = d.secrets:history(scope, "A")
    assert.same({ 2, 1 }, { list[1].version, list[2].version })
    assert.equal("somebody", list[1].created_by)
    assert.is_nil(json.encode(list):find "sealed")
  end)

  it("nothing of one is in the database, and it opens for nothing else", function()
    set { A = "canary-4711" }
    d.store:commit {}
    for _, file in ipairs { "nextdeploy.db", "nextdeploy.db-wal" } do
      assert.is_nil(fs.read(dir .. "/" .. file):find("canary-4711", 1, true))
    end
    assert.equal(384, fs.stat(dir .. "/agent.key").mode & 511)
    set { B = "other" }
    d.store:commit { { "UPDATE secret SET sealed = (SELECT sealed FROM secret WHERE name = 'A') WHERE name = 'B'" } }
    assert.equal("seal_broken", refused(d.secrets.open, d.secrets, d.store:get "SELECT * FROM secret WHERE name = 'B'"))
  end)

  it("of an app go before those of its environment, which other environments don't see", function()
    local all = Secrets.scope {}
    set({ A = "shared", B = "shared" }, all)
    set { A = "own" }
    local list = d.secrets:list(scope)
    assert.same({ "A/", "A/shop", "B/" }, { list[1].name .. "/" .. (list[1].app or ""), list[2].name .. "/"
      .. (list[2].app or ""), list[3].name .. "/" .. (list[3].app or "") })
    local app = { project = "default", environment = "production", name = "shop" }
    assert.same({ A = { as = "env", version = 1, own = true }, B = { as = "file", version = 1 } },
      d.secrets:pin(app, { A = { as = "env" }, B = { as = "file" } }))
    app.environment = "staging"
    local code, e = refused(d.secrets.pin, d.secrets, app, { A = { as = "env" } })
    assert.equal("secret_not_found", code)
    assert.matches("default/staging", e.message)
    assert.same({}, d.secrets:list(Secrets.scope { environment = "staging" }))
  end)

  it("each that can't be read is refused with its reason, and nothing of the rest is stored", function()
    local good = to_agent "value"
    local _, other = age.keygen()
    local binary = age.encrypt({ d.secrets:recipient() }, ("x"):rep(200))
    local bad = {
      age_wrong_recipient = age.encrypt({ other }, "value", { armor = true }),
      age_truncated = good:sub(1, -60),
      age_tampered = binary:sub(1, -2) .. string.char(binary:byte(-1) ~ 1),
      age_unsupported = binary:gsub("age%-encryption.org/v1", "age-encryption.org/v9"),
      age_bad_header = "s3cr3t",
      too_large = age.encrypt({ d.secrets:recipient() }, ("x"):rep(1024 * 1024 + 1)),
    }
    for want, text in pairs(bad) do
      local code, e = refused(d.secrets.sync, d.secrets, scope, { A = good, B = text }, nil, "somebody")
      assert.equal(want, code, e.message)
      assert.matches("^B: ", e.message)
    end
    assert.same({}, d.secrets:list(scope))
    assert.equal(1, #d.secrets:sync(scope, { A = good }, nil, "somebody"))
    set { BIG = ("x"):rep(1024 * 1024) }
    for _, name in ipairs { "1A", "A-B", "", "Ä", ("A"):rep(201) } do
      assert.equal("bad_request", refused(d.secrets.sync, d.secrets, scope, { [name] = good }, nil, "somebody"))
    end
  end)

  it("that no variable can hold are refused as one, by name", function()
    set { BINARY = "a\0b", LONG = ("x"):rep(200000), EMPTY = "" }
    local app = { project = "default", environment = "production", name = "shop" }
    for _, name in ipairs { "BINARY", "LONG" } do
      local code, e = refused(d.secrets.pin, d.secrets, app, { [name] = { as = "env" } })
      assert.equal("bad_request", code)
      assert.matches("%-%-secret " .. name .. ":file", e.hint)
      assert.equal(1, d.secrets:pin(app, { [name] = { as = "file" } })[name].version)
    end
    assert.equal(1, d.secrets:pin(app, { EMPTY = { as = "both" } }).EMPTY.version)
  end)

  it("come back only as what was encrypted to their owner", function()
    local identity, recipient = age.keygen()
    set({ A = "value", B = "value" }, scope, { A = age.encrypt({ recipient }, "value", { armor = true }) })
    assert.equal("value", age.decrypt({ identity }, d.secrets:get(scope, "A", true).copy))
    assert.is_nil(d.secrets:get(scope, "A").copy)
    assert.equal("not_revealable", refused(d.secrets.get, d.secrets, scope, "B", true))
  end)

  describe("of a release", function()
    local app

    before_each(function()
      set { A = "one", F = "file-1" }
      app = w:app("shop", 2, { secrets = { A = { as = "env", version = 1, own = true },
        F = { as = "both", version = 1, own = true } } })
      d.instances:refill_all()
    end)

    local function file(name, instance)
      return fs.read(("%s/run/secrets/shop-1-%d/%s"):format(dir, instance or 1, name))
    end

    it("are files beside a manifest, which comes last", function()
      assert.equal("one", file "A")
      assert.equal("file-1", file("F", 2))
      assert.equal("nextdeploy 1\nA env\nF both\n", file ".nextdeploy")
      fs.remove(dir .. "/run/secrets/shop-1-1", { recursive = true })
      fail_at "secrets.delivering"
      d.instances:refill_all()
      assert.is_false(fs.exists(dir .. "/run/secrets/shop-1-1/.nextdeploy"))
      fail_at(nil)
      d.instances:refill_all()
      assert.equal("file-1", file "F")
    end)

    it("stay what they were until they are pushed; then files change, in one piece", function()
      set { A = "two", F = "file-2" }
      d.instances:refill_all()
      assert.same({ "one", "file-1" }, { file "A", file "F" })
      local variable = { name = "A", as = "env", from = 1, version = 2 }
      assert.same({ variable, { name = "F", as = "both", from = 1, version = 2 } }, d.secrets:push(app, "somebody"))
      assert.same({ "one", "file-2", "file-2" }, { file "A", file "F", file("F", 2) })
      assert.same({ variable }, d.secrets:push(app, "somebody"))
    end)

    it("that are pushed, and host names that are set meanwhile, are both kept", function()
      set { F = "file-2" }
      local set_routes, within = d.apps.set_routes, task.signal()
      function d.apps.set_routes(...)
        within:notify()
        task.sleep(20) -- a proxy is told
        return set_routes(...)
      end
      local routing = task.spawn("reroute", function()
        d.traffic:reroute(app, json.array { { domain = "shop.example.com", tls = "off", proxy_type = "caddy" } })
      end)
      within:wait()
      d.secrets:push(app, "somebody")
      routing:join()
      d.apps.set_routes = set_routes
      local config = release_config.of(d.releases:live(app))
      assert.same({ 2, "shop.example.com" }, { config.secrets.F.version, config.routes[1].domain })
    end)

    it("can't be removed while it is live; once removed, it is not gone back to", function()
      local code, e = refused(d.secrets.remove, d.secrets, scope, "A", "somebody")
      assert.equal("secret_in_use", code)
      assert.matches("shop", e.message)
      local second = w:release(app, 2, "created", 1, {})
      d.traffic:switch(app, second)
      d.store:commit {}
      d.secrets:remove(scope, "A", "somebody")
      assert.equal("secret_not_found", refused(d.secrets.get, d.secrets, scope, "A"))
      code, e = refused(d.releases.to_go_back, d.releases, app, 1)
      assert.equal("secret_gone", code)
      assert.matches("version 1 of the secret A", e.message)
      assert.is_nil(d.store:get("SELECT sealed FROM secret WHERE name = 'A'").sealed)
      assert.same({ { name = "A", version = 2, changed = true } }, set { A = "one" })
    end)

    local function begin_run(spec)
      d.store:commit {
        { "INSERT OR IGNORE INTO bundle (hash, name, files, created_at) VALUES ('h', 'rolling', '{}', 0)" },
        { [[INSERT INTO run (id, app, recipe, bundle, params, spec, seed, state, owner, started_at)
          VALUES ('run1', ?, 'rolling', 'h', '{}', ?, 1, 'running', 'somebody', 0)]], app.id,
          spec and json.encode(spec) or db.null } }
    end

    it("can't be removed while a run deploys them, or may go back to what had them", function()
      set { X = "next" }
      local with_x = { secrets = { X = { as = "env", version = 1, own = true } } }
      begin_run(with_x)
      local code, e = refused(d.secrets.remove, d.secrets, scope, "X", "somebody")
      assert.equal("secret_in_use", code)
      assert.matches("run.*shop", e.message)
      assert.matches("ndctl runs list %-%-app shop", e.hint)
      d.store:commit { { "UPDATE run SET spec = NULL" } }
      local second = w:release(app, 2, "healthy", 1, with_x)
      assert.equal("secret_in_use", refused(d.secrets.remove, d.secrets, scope, "X", "somebody"))
      d.traffic:switch(app, second)
      assert.equal("secret_in_use", refused(d.secrets.remove, d.secrets, scope, "A", "somebody"))
      d.store:commit { { "UPDATE run SET state = 'done', ended_at = 1" } }
      d.secrets:remove(scope, "A", "somebody")
      code, e = refused(d.secrets.remove, d.secrets, scope, "X", "somebody")
      assert.equal("secret_in_use", code)
      assert.matches("the live release of shop has it", e.message)
    end)

    it("that are left, or were exchanged, are taken out of what is printed after a restart of the daemon", function()
      set { F = "file-2" }
      d.secrets:push(app, "somebody")
      set { F = "file-3" }
      d.secrets:push(app, "somebody")
      d.store:commit { { "UPDATE secret SET sealed = NULL WHERE name = 'A'" } }
      d.redaction = Redaction.new(d)
      d.redaction:start()
      assert.equal("[redacted] [redacted] [redacted]", d.redaction:text(app.id, "file-1 file-2 file-3"))
    end)

    it("are taken out of what the app prints and what is told of it", function()
      set { LINES = "first line\nsecond line\n", SHORT = "abc" }
      d.redaction:learn(app, d.secrets:rows(app, { LINES = { version = 1, own = true }, SHORT = { version = 1,
        own = true } }))
      assert.equal("password=[redacted] [redacted]: abc", d.redaction:text(app.id, "password=file-1 second line: abc"))
      assert.same({ label = "file-1", text = "[redacted]", error = { message = "a [redacted]", code = "file-1" },
        n = 1, logs = { "[redacted]!" } }, d.redaction:value(app.id, { label = "file-1", text = "file-1",
        error = { message = "a file-1", code = "file-1" }, n = 1, logs = { "file-1!" } }))
      local same = { text = "nothing", list = json.array { 1 } }
      assert.equal(same, d.redaction:value(app.id, same))
      assert.equal("file-1", d.redaction:text(app.id + 1, "file-1"))
      local event = { text = "it printed file-1" }
      d.store.redact = function(id, data) return d.redaction:value(id, data) end
      assert.is_nil(json.encode(d.store:event("run.output", app.id, nil, event)):find "file%-1")
      assert.equal("it printed file-1", event.text)
    end)

    it("are taken out also where they are set after a new key of the agent, or at the second try", function()
      d.secrets:rotate "somebody"
      set { A = "second" }
      local pins = { A = { as = "env", version = 2, own = true } }
      local given = {}
      d.logs = { add_secrets = function() error(require("nd.error").new("secret_memory", "none"), 0) end }
      assert.equal("secret_memory", refused(d.secrets.deliver, d.secrets, app, pins, dir))
      d.logs = { add_secrets = function(_, id, values)
        given = { id, #values, values[1]:equal(secret.of "second") }
      end }
      d.secrets:deliver(app, pins, dir)
      assert.same({ app.id, 1, true }, given)
      assert.equal("[redacted] [redacted]", d.redaction:text(app.id, "file-1 second"))
      w:release(app, 2, "created", 1, { secrets = pins })
      d.traffic:switch(app, d.releases:find(app, 2))
      d.store:commit {}
      d.secrets:remove(scope, "F", "somebody")
      set { A = "third" }
      d.secrets:deliver(app, { A = { as = "env", version = 3, own = true } }, dir)
      assert.equal("[redacted] [redacted] [redacted]", d.redaction:text(app.id, "file-1 second third"))
    end)

    it("a new key of the agent seals all of them again, whenever it is interrupted", function()
      d.store:commit { { "INSERT INTO registry (host, username, sealed, created_at) VALUES ('ghcr.io', 'u', ?, 1)",
        d.seal:close("registry ghcr.io", "{}") } }
      for _, point in ipairs { "rotate.key", "rotate.batch", "rotate.sealed", "rotate.saved", "none" } do
        local before, recipient = fs.read(dir .. "/agent.key"), d.secrets:recipient()
        fail_at(point)
        local ok = pcall(d.secrets.rotate, d.secrets, "somebody")
        assert.equal(point == "none", ok)
        fail_at(nil)
        d.seal = Seal.new(d) -- as after a crash
        assert.equal("one", (function()
          local row = d.store:get "SELECT * FROM secret WHERE name = 'A'"
          local value <close> = d.secrets:open(row)
          return value:equal(secret.of "one") and "one"
        end)())
        d.secrets:resume()
        d.seal = Seal.new(d)
        assert.is_false(d.seal:exchanging())
        assert.not_equal(before, fs.read(dir .. "/agent.key"))
        assert.not_equal(recipient, d.secrets:recipient())
        assert.equal("one", value_of(scope, "A"))
        assert.equal("{}", d.seal:open("registry ghcr.io", d.store:get("SELECT * FROM registry").sealed))
      end
      local old = secret.of(("k"):rep(32))
      assert.equal("age_wrong_recipient", refused(d.secrets.sync, d.secrets, scope,
        { A = age.encrypt({ secret.recipient(old) }, "x") }, nil, "somebody"))
    end)
  end)
end)
