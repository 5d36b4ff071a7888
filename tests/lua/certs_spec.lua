-- certs_spec.lua - an authority that fails in every way it can, and certificates that are no good: nothing of
-- what is shown changes, people are told why, and it is asked again ever more slowly.

local cert = require "cert"
local clock = require "clock"
local fs = require "fs"
local json = require "json"
local process = require "process"
local task = require "task"
local acme = require "nd.service.acme"
local authority = require "nd.service.proxy.authority"
local check = require "nd.service.cert_check"
local err = require "nd.error"
local World = require "tests.lua.spine_world"

local HOUR, DAY = 3600 * 1000, 24 * 3600 * 1000

local function make(names, more)
  local o = { common_name = names[1], names = names, not_before = clock.now() - HOUR,
    not_after = clock.now() + 90 * DAY }
  for k, v in pairs(more or {}) do o[k] = v end
  return cert.make(o)
end

describe("certificates", function()
  local w, d, certs, recertified, answer, refuses

  before_each(function()
    w = World.new()
    d = w.d
    recertified, refuses = {}, nil
    for name, value in pairs { cert_dir = w.dir .. "/certs", acme_directory = "https://ca.test/dir",
      acme_retry = 60000 } do
      d.options[name] = value
    end
    d.metrics = { gauge = function() end, counter = function() return { add = function() end } end }
    d.proxy = { driver = function(_, name)
      return { name = name, set_own = function() end, find = function() end,
        recertify = function(_, hosts)
          if refuses and refuses() then err.raise("proxy_refused", "nginx refused it", "look") end
          recertified[#recertified + 1] = table.concat(hosts, " ")
        end }
    end }
    certs = require("nd.service.certs").new(d)
    d.certs = certs
    certs.acme = { issue = function(_, wish) return answer(wish) end, tidy = function() end }
    local app = w:app "shop"
    d.store:commit { { [[INSERT INTO route (domain, app, tls, proxy_type, created_at)
      VALUES ('a.test', ?, 'auto', 'nginx', 1)]], app.id },
      { [[INSERT INTO certificate (name, kind, names, next_at, updated_at)
        VALUES ('a.test', 'acme', '["a.test"]', 1, 1)]] } }
  end)

  after_each(function() w:close() end)

  local function row() return d.store:get "SELECT * FROM certificate WHERE name = 'a.test'" end

  local function rotate_fails()
    local ok, e = pcall(certs.rotate, certs, "a.test")
    assert.is_false(ok)
    return e
  end

  it("that the authority gives are kept, shown, and due when a third of their life is left", function()
    answer = function() return make { "a.test" } end
    local shown = certs:rotate "a.test"
    assert.equal("valid", shown.state)
    assert.same({ "a.test" }, shown.hosts)
    assert.same({ "a.test" }, recertified)
    local path = certs:bundle "a.test"
    assert.equal(shown.serial, cert.read(fs.read(path))[1].serial)
    assert.equal(384, fs.stat(path).mode)
    local left = row().not_after - row().next_at
    assert.is_true(left >= 30 * DAY and left < 34 * DAY, tostring(left / DAY))
    assert.is_nil(json.encode(shown):find "PRIVATE")
  end)

  it("of a host that shows another are told once, by the one that is shown", function()
    answer = function() return make { "a.test" } end
    certs:rotate "a.test"
    local shown = { not_before = clock.now() - HOUR, not_after = (clock.now() // 1000 + 3600) * 1000,
      subject = "a.test", issuer_name = "this host", serial = "01" }
    local driver = d.proxy.driver
    d.proxy.driver = function(...)
      local found = driver(...)
      found.find = function() return shown end
      return found
    end
    d.store:commit { { "UPDATE route SET tls = 'internal'" } }
    assert.equal(2, #certs:list())
    assert.same({ { shown.not_after / 1000, labels = { { "domain", "a.test" } } } }, certs:gauge())
  end)

  it("are asked for ever more slowly while the authority fails, and the one there is stays", function()
    answer = function() return make { "a.test" } end
    certs:rotate "a.test"
    local _, serial = certs:bundle "a.test"
    answer = function() err.raise("cert_failed", "it is down", "wait") end
    local waits = {}
    for i = 1, 12 do
      assert.equal("it is down", rotate_fails().message)
      waits[i] = row().next_at - clock.now()
    end
    for i = 1, 12 do
      local wanted = math.min(12 * HOUR, 60000 * 2 ^ (i - 1))
      assert.is_true(waits[i] > wanted * 0.89 and waits[i] < wanted * 1.11, i .. ": " .. waits[i])
    end
    local shown = certs:show "a.test"
    assert.equal("failing", shown.state)
    assert.equal("it is down", shown.message)
    assert.equal("wait", shown.hint)
    assert.equal(serial, select(2, certs:bundle "a.test"))
    assert.is_false(certs:check().ok)
    answer = function() return make { "a.test" } end
    assert.equal("valid", certs:rotate("a.test").state)
    assert.equal(0, row().failures)
  end)

  it("are asked for again when the authority says, within a week", function()
    for hours, wanted in pairs { [3] = 3 * HOUR, [1000] = 7 * DAY } do
      answer = function()
        err.raise("cert_failed", "too many", nil, { retry_at = clock.now() + hours * HOUR })
      end
      rotate_fails()
      assert.is_true(math.abs(row().next_at - clock.now() - wanted) < 1000)
    end
  end)

  it("of another name, without a name, expired or of another key aren't taken from an authority", function()
    local _, other = make { "a.test" }
    for what, fn in pairs {
      ["for b.test"] = function() return make { "b.test" } end,
      ["expired"] = function() return make({ "a.test" }, { not_after = clock.now() - 1000 }) end,
      ["private key"] = function() return make { "a.test" }, other end,
      ["none in PEM form"] = function() return "nothing", other end,
    } do
      answer = function()
        local pem, key = fn()
        return pem, key
      end
      assert.truthy(rotate_fails().message:find(what, 1, true), what)
      assert.is_nil(certs:bundle "a.test")
    end
  end)

  it("stay as they are when the disk is full", function()
    answer = function() return make { "a.test" } end
    certs:rotate "a.test"
    local path, serial = certs:bundle "a.test", row().serial
    local before = fs.read(path)
    fs.remove(w.dir .. "/certs", { recursive = true })
    fs.mkdir(w.dir .. "/certs", 448)
    fs.mount_tmpfs(w.dir .. "/certs", { size = 16384 })
    fs.write(path, before)
    while pcall(fs.write, ("%s/certs/%d"):format(w.dir, #fs.list(w.dir .. "/certs")), ("x"):rep(3000)) do end
    local e = rotate_fails()
    local now = fs.read(path)
    fs.unmount(w.dir .. "/certs")
    assert.equal("fs_full", e.code)
    assert.equal(before, now)
    assert.equal(serial, row().serial)
    assert.equal("failing", certs:show("a.test").state)
  end)

  local function openssl(...)
    local r = process.run { argv = { "openssl", ... }, cwd = w.dir, timeout_ms = 20000 }
    assert(r.status == 0, r.stderr)
  end

  -- The certificate of a.test, one that issued it, and the key; `...`: how the latter is made.
  local function chain(...)
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=root", "-keyout", "root.key", "-out", "root")
    openssl("req", "-x509", "-nodes", "-subj", "/CN=between", "-addext", "basicConstraints=critical,CA:TRUE",
      "-keyout", "between.key", "-out", "between", ...)
    local between = fs.read(w.dir .. "/between")
    local leaf, key = make({ "a.test" }, { issuer = between, issuer_key = fs.read(w.dir .. "/between.key") })
    return leaf .. between, key
  end

  it("of a chain whose last one is weak aren't taken, unless that is a root's own signature", function()
    for weak, with in pairs { ["SHA%-1"] = { "-newkey", "rsa:2048", "-sha1", "-CA", "root", "-CAkey", "root.key" },
      ["2048 bits"] = { "-newkey", "rsa:1024" } } do
      local ok, e = pcall(certs.import, certs, "a.test", chain(table.unpack(with)))
      assert.is_false(ok)
      assert.truthy(e.message:find(weak) and e.message:find "between", e.message)
    end
    assert.equal("own", certs:import("a.test", chain("-newkey", "rsa:2048", "-sha1")).source)
  end)

  it("are kept without what else was sent with them", function()
    local _, other = make { "b.test" }
    local pem, key = make { "a.test" }
    answer = function() return "Hello!\n" .. other .. pem .. other, key end
    certs:rotate "a.test"
    assert.equal(pem .. key, fs.read((certs:bundle "a.test")))
    certs:import("a.test", key .. pem, pem .. key)
    assert.equal(pem .. key, fs.read((certs:bundle "a.test")))
    local ok, e = pcall(certs.import, certs, "a.test", (pem:gsub(" CERT", " X509 CERT")), key)
    assert.is_false(ok)
    assert.truthy(e.hint:find "openssl x509")
  end)

  it("with another chain are another bundle", function()
    local pem, key = make { "a.test" }
    certs:import("a.test", pem, key)
    local _, mark = certs:bundle "a.test"
    pem, key = chain("-newkey", "rsa:2048")
    certs:import("a.test", pem:match "^.-END CERTIFICATE%-%-%-%-%-", key)
    local _, alone = certs:bundle "a.test"
    certs:import("a.test", pem, key)
    local _, whole = certs:bundle "a.test"
    assert.is_true(mark ~= alone and alone ~= whole)
  end)

  it("that are old already aren't asked for again at once", function()
    local asked = 0
    answer = function()
      asked = asked + 1
      return make({ "a.test" }, { not_before = clock.now() - 80 * DAY, not_after = clock.now() + 12 * DAY })
    end
    certs:start()
    w:until_true(function() return asked == 1 and row().serial end)
    assert.is_true(row().next_at - clock.now() > 47 * HOUR)
    answer = function() return make({ "a.test" }, { not_after = clock.now() + 2000 }) end
    certs:rotate "a.test"
    assert.is_true(row().next_at - clock.now() > d.options.acme_retry - 1000)
  end)

  it("with more names than were asked for are renewed for those that were", function()
    local asked
    answer = function(wish)
      asked = wish.names
      return make(#wish.names == 1 and { "a.test", "more.test" } or { "a.test" })
    end
    for _ = 1, 2 do certs:rotate "a.test" end
    assert.same({ "a.test" }, asked)
    assert.same({ "a.test" }, certs:show("a.test").names)
  end)

  it("that were imported meanwhile aren't overwritten by one that was asked for", function()
    local held = certs.lock:hold "a.test"
    local asked = false
    answer = function()
      asked = true
      return make { "a.test" }
    end
    local rotation = task.spawn("rotation", certs.rotate, certs, "a.test")
    local pem, key = make { "a.test" }
    d.store:commit { { "UPDATE certificate SET kind = 'own', next_at = NULL" } }
    getmetatable(held).__close(held)
    rotation:join()
    assert.is_false(asked)
    certs:import("a.test", pem, key)
    d.recipes = { files = function() -- an import while `order` looks for its recipe
      d.store:commit { { "UPDATE certificate SET kind = 'own', next_at = NULL" } }
    end }
    d.store:commit { { "UPDATE certificate SET kind = 'acme'" } }
    certs:order("a.test", { app_name = "shop", recipe = "dns" })
    assert.same({ "own", false }, { row().kind, asked })
    assert.is_nil(row().hook)
  end)

  it("that a proxy refuses are told of, and all is as it was", function()
    answer = function() return make { "a.test" } end
    certs:rotate "a.test"
    local path, was = w.dir .. "/certs/a.test.pem", row()
    local before = fs.read(path)
    refuses = function() return fs.read(path) ~= before end
    local pem, key = make { "a.test" }
    local ok, e = pcall(certs.import, certs, "a.test", pem, key)
    assert.same({ false, "proxy_refused" }, { ok, e.code })
    assert.same(was, row())
    assert.equal(before, fs.read(path))
    assert.equal(2, #recertified) -- with the one of before again
    assert.equal("proxy_refused", rotate_fails().code)
    assert.equal(before, fs.read(path))
    assert.same({ 1, was.serial }, { row().failures, row().serial })
    assert.is_nil(w:row "SELECT 1 FROM event WHERE kind = 'cert.imported'")
    pem, key = make { "b.test" }
    refuses = function() return true end
    assert.is_false(pcall(certs.import, certs, "b.test", pem, key))
    assert.is_nil(d.store:get "SELECT * FROM certificate WHERE name = 'b.test'")
    assert.same({ "a.test.pem" }, fs.list(w.dir .. "/certs"))
  end)

  it("are asked for while a proxy refuses what it is to show", function()
    local asked = 0
    answer = function()
      asked = asked + 1
      err.raise("cert_failed", "it is down")
    end
    refuses = function() return true end
    certs:start()
    w:until_true(function() return asked == 1 end)
  end)

  it("of one's own may be from a clock that is an hour ahead, not two", function()
    local pem, key = make({ "a.test" }, { not_before = clock.now() + 59 * 60 * 1000 })
    assert.equal("own", certs:import("a.test", pem, key).source)
    pem, key = make({ "a.test" }, { not_before = clock.now() + 2 * HOUR })
    local ok, e = pcall(certs.import, certs, "a.test", pem, key)
    assert.is_false(ok)
    assert.truthy(e.message:find "valid from" and e.hint:find "clock")
  end)

  it("are taken from the file where it says something else than the database", function()
    answer = function() return make { "a.test" } end
    certs:rotate "a.test"
    local path = certs:bundle "a.test"
    local pem, key = make { "a.test" }
    fs.write(path, pem .. key)
    certs:start()
    w:until_true(function() return row().serial == cert.read(pem)[1].serial end)
  end)

  it("cover a name as browsers take it", function()
    assert.is_true(check.covers({ "*.a.test" }, "x.a.test"))
    for _, host in ipairs { "a.test", "x.y.a.test", "xa.test" } do
      assert.is_falsy(check.covers({ "*.a.test" }, host))
    end
    assert.is_true(check.covers({ "*.a.test" }, "*.a.test"))
    assert.equal("*.a.test", check.name "*.A.test.")
    for _, name in ipairs { "*", "*.", "a.*.test", "*a.test", "../a" } do
      assert.is_false(pcall(check.name, name), name)
    end
  end)
end)

describe("the host's own authority", function()
  local dir

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
  end)

  after_each(function() fs.remove(dir, { recursive = true }) end)

  local function new() return authority.new { dir = dir, instance = "3fa2" } end

  local function made_by(a)
    local leaf = a:make "a.test"
    return cert.read(leaf .. fs.read(dir .. "/root.crt"))[1].issued_by_next
  end

  it("is one, whoever asks for it at the same time", function()
    local a, callers, leaves = new(), {}, {}
    for i = 1, 8 do callers[i] = task.spawn("caller", function() leaves[i] = a:make(i .. ".test") end) end
    for _, caller in ipairs(callers) do caller:join() end
    local crt = fs.read(dir .. "/root.crt")
    cert.fits(crt, fs.read(dir .. "/root.key"))
    for i = 1, 8 do assert.is_true(cert.read(leaves[i] .. crt)[1].issued_by_next) end
    assert.is_true(made_by(new()))
  end)

  it("is made anew where its key is another's, or no longer one, and what there was is kept", function()
    for _, text in ipairs { (select(2, make { "a.test" })), "garbage" } do
      assert.is_true(made_by(new()))
      fs.write(dir .. "/root.key", text)
      assert.is_true(made_by(new()))
      assert.equal(text, fs.read(dir .. "/root.key.broken"))
    end
  end)
end)

describe("what an authority says", function()
  it("is told in its own words, with the time it names", function()
    local said = [[
uacme: failed to create new order at https://ca.test/new-order
uacme: the server reported the following error:
{
    "type": "urn:ietf:params:acme:error:rateLimited",
    "detail": "too many certificates (5) already issued, retry after 2026-01-31 12:00:00 UTC: see https://ca.test/docs",
    "status": 429
}
]]
    local kind, detail, at = acme.refusal(said)
    assert.equal("rateLimited", kind)
    assert.truthy(detail:find "^too many certificates")
    assert.equal("2026-01-31T12:00:00.000Z", clock.format(at))
  end)

  it("of a challenge is told too, and a failed connection", function()
    local kind, detail = acme.refusal [[
uacme: challenge https://ca.test/chall failed with status invalid
uacme: the server reported the following error:
{ "type": "http-01", "status": "invalid", "error": {
  "type": "urn:ietf:params:acme:error:connection", "detail": "Timeout during connect" } }
uacme: failed to authorize order at https://ca.test/order]]
    assert.equal("connection", kind)
    assert.equal("Timeout during connect", detail)
    kind, detail = acme.refusal("uacme: curl_get: GET https://ca.test/dir failed: Couldn't connect to server\n"
      .. "uacme: curl_get: waiting")
    assert.is_nil(kind)
    assert.equal("GET https://ca.test/dir failed: Couldn't connect to server", detail)
    assert.equal("it said nothing", select(2, acme.refusal ""))
  end)
end)

describe("the program that asks an authority", function()
  local dir, a, saved, ran

  -- Calls `name` of fs once it is known that the directory it is to act in is root's alone.
  local function only_in_ours(name)
    saved[name] = fs[name]
    fs[name] = function(path, ...)
      if path:find("/acme%-%x+/") then assert.equal(0, fs.stat(path:match "^(.*)/").uid, name .. " " .. path) end
      return saved[name](path, ...)
    end
  end

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    ran, saved = {}, { run = process.run }
    only_in_ours "write"
    only_in_ours "chown"
    process.run = function(o)
      local work = o.cwd
      local names = { "/", "/private", "/private/key.pem" }
      if o.argv[#o.argv] == "wanted.csr" then names[4] = "/wanted.csr" end
      for _, name in ipairs(names) do assert.equal(o.uid, fs.stat(work .. name).uid, name) end
      assert.equal(0, fs.stat(work .. "/hook").uid)
      ran[#ran + 1] = o
      saved.write(work .. "/wanted-cert.pem", "the chain")
      return { status = 0, stderr = "" }
    end
    a = acme.new { directory = "https://ca.test/dir", email = "a@b.test", keys = dir .. "/keys", run = dir,
      well_known = dir .. "/well_known" }
  end)

  after_each(function()
    process.run, fs.write, fs.chown = saved.run, saved.write, saved.chown
    fs.remove(dir, { recursive = true })
  end)

  it("finds all it needs, and nothing is done as root where it can put a link", function()
    local chain, key = a:issue { names = { "a.test" } }
    assert.equal("the chain", chain)
    assert.truthy(key:find "PRIVATE KEY")
    assert.equal(2, #ran) -- the account's first
    a:issue { names = { "a.test" } }
    assert.equal(3, #ran)
    assert.same({ "keys", "well_known" }, fs.list(dir))
  end)

  it("is another user each time, and shares what is shown with the others", function()
    for _ = 1, 2 do a:issue { names = { "a.test" } } end
    assert.not_equal(ran[2].uid, ran[3].uid)
    assert.equal(ran[2].gid, ran[3].gid)
    local shown = fs.stat(dir .. "/well_known")
    assert.same({ 0, ran[3].gid, 1021 }, { shown.uid, shown.gid, shown.mode })
  end)
end)
