-- The proxy as its users meet it: a real Caddy, real requests, routes that come and go under load.

local cert = require "cert"
local clock = require "clock"
local fs = require "fs"
local http = require "http"
local json = require "json"
local process = require "process"
local task = require "task"
local proxy = require "nd.service.proxy"

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local edge = dofile(here .. "/lib/edge.lua")
local bin, wait_for, code_of = edge.bin, edge.wait_for, edge.code_of

local DAY = 24 * 3600 * 1000

describe("host names", function()
  it("are made lower case and lose the root's dot", function()
    assert.equal("shop.example.com", proxy.host "Shop.Example.COM.")
    assert.equal("localhost", proxy.host "localhost")
    assert.equal("xn--bcher-kva.example", proxy.host "xn--bcher-kva.example")
    assert.equal(("a"):rep(63) .. ".b", proxy.host(("a"):rep(63) .. ".b"))
  end)

  it("that aren't any are refused, with what to do instead", function()
    for _, bad in ipairs { "", ".", "a..b", ".a", "-a.b", "a-.b", "a_b.c", "a b", "a/b", "../a",
      "*", "*.a.b", "a.b:80", "http://a.b", "https://a.b/c", "bücher.example", "1.2.3.4", "123",
      ("a"):rep(64), ("a."):rep(127) .. "ab", "a\nb", "a\0b", "{a}", "[::1]", "a%2e" } do
      assert.equal("bad_host", (code_of(proxy.host, bad)), bad)
    end
    local _, err = code_of(proxy.host, "bücher.example")
    assert.truthy(err.hint:find("punycode", 1, true))
    assert.equal("bad_host", (code_of(proxy.host, nil)))
  end)
end)

describe("the proxy", function()
  local dir, p, http_port, https_port, port_a, port_b, port_none
  local children = {}

  local function get(host, path, headers, timeout)
    headers = headers or {}
    headers.Host = host
    return http.request { url = "http://127.0.0.1:" .. http_port .. (path or "/"),
      headers = headers, timeout_ms = timeout or 8000 }
  end

  local function curl(host, ...)
    return process.run { argv = { "curl", "-s", "--max-time", "8", "--resolve",
      host .. ":" .. https_port .. ":127.0.0.1", "--cacert",
      dir .. "/proxy/data/pki/authorities/local/root.crt", ... } }
  end

  local function https(host) return "https://" .. host .. ":" .. https_port .. "/" end

  local function new(o)
    o = o or {}
    return proxy.new { instance = "3fa2", state_dir = dir, run_dir = dir, address = "127.0.0.1",
      http_port = o.http_port or http_port, https_port = o.https_port or https_port }
  end

  local function start_caddy()
    local config = dir .. "/proxy/caddy.json"
    children.caddy = edge.background("caddy", { "caddy", "run", "--config", config },
      { PATH = os.getenv "PATH", HOME = dir })
    wait_for("Caddy", function() return p:sync "caddy" == "up" end)
  end

  local function stop(name)
    if not children[name] then return end
    children[name]:cancel()
    children[name]:wait()
    children[name] = nil
  end

  setup(function()
    dir = os.tmpname()
    os.remove(dir)
    fs.mkdir(dir)
    http_port, https_port, port_a, port_b, port_none = edge.ports(5)
    p = new()
    p:write_config()
    for name, port in pairs { a = port_a, b = port_b } do
      children[name] = edge.app(port, name)
    end
    start_caddy()
  end)

  teardown(function()
    for _, name in ipairs { "caddy", "a", "b", "load" } do stop(name) end
    fs.remove(dir, { recursive = true })
  end)

  before_each(function()
    p:set_all {}
    p:set("a.test", "127.0.0.1:" .. port_a, "off")
  end)

  it("serves a host the moment it is set, and no longer when it is removed", function()
    assert.equal("a\n", get("a.test").body)
    p:set("b.test", "127.0.0.1:" .. port_b, "off")
    assert.equal("b\n", get("b.test").body)
    p:remove("b.test")
    assert.equal(404, get("b.test").status)
    assert.same({ { host = "a.test", at = "127.0.0.1:" .. port_a, tls = "off",
      proxy_type = "caddy" } }, p:list())
  end)

  it("finds a host however it is written", function()
    for _, host in ipairs { "A.Test", "a.test.", "a.test:8080", "A.TEST.:99" } do
      assert.equal("a\n", get(host).body, host)
    end
  end)

  it("answers 404 with a hint for a host nobody has", function()
    local r = get "nobody.test"
    assert.equal(404, r.status)
    assert.truthy(r.body:find("hint:", 1, true))
    assert.truthy(r.body:find("nobody.test", 1, true))
  end)

  it("says 503 rather than answer nothing where a stranger put a file", function()
    fs.mkdir(dir .. "/proxy/routes/plain/junk.test")
    fs.write(dir .. "/proxy/routes/plain/junk.test/1:1x", "", 420)
    assert.equal(503, get("junk.test").status)
  end)

  it("isn't led astray by a host that is a pattern or a path", function()
    for _, host in ipairs { "*", "a*", "[ab].test", "..", ".", "..:80", "a.test..", "-",
      "{env.HOME}", "../plain/a.test", "a.test/../a.test", "%61.test" } do
      local r = get(host)
      assert.truthy(r.status == 404 or r.status == 400, host .. " " .. r.status)
      assert.not_equal("a\n", r.body)
    end
  end)

  it("tells the app who asked, and believes no client about it", function()
    local r = get("a.test", "/head", { ["X-Forwarded-For"] = "6.6.6.6",
      ["X-Forwarded-Proto"] = "https", ["X-Forwarded-Host"] = "evil.test" })
    local head = r.body:lower()
    assert.truthy(head:find("x-forwarded-for: 127.0.0.1", 1, true), head)
    assert.truthy(head:find("x-forwarded-proto: http\r", 1, true), head)
    assert.truthy(head:find("x-forwarded-host: a.test", 1, true), head)
    assert.falsy(head:find("6.6.6.6", 1, true))
    assert.truthy(head:find("connection: close", 1, true), "the app must close first")
    assert.falsy((r.headers.server or ""):find("Caddy", 1, true))
  end)

  it("passes large answers and bodies unharmed", function()
    assert.equal(5000000, #get("a.test", "/size?bytes=5000000").body)
    local body = ("x"):rep(500000)
    for _ = 1, 100 do
      local r = http.request { url = "http://127.0.0.1:" .. http_port .. "/echo", method = "POST",
        headers = { Host = "a.test" }, body = body, timeout_ms = 8000 }
      assert.equal(#body, #r.body)
    end
  end)

  it("never misses a host whose app changes", function()
    local missed, running = {}, true
    local asker = task.spawn("asker", function()
      while running do
        local r = get "a.test"
        if r.body ~= "a\n" and r.body ~= "b\n" then missed[#missed + 1] = r.status .. r.body end
      end
    end)
    for i = 1, 20 do
      p:set("a.test", "127.0.0.1:" .. (i % 2 == 1 and port_b or port_a), "off")
    end
    running = false
    asker:join(10000)
    assert.same({}, missed)
    assert.equal("a\n", get("a.test").body)
  end)

  it("cuts no WebSocket and fails no request while hosts come and go", function()
    local load = task.spawn("load", process.run, { argv = { bin .. "/nd-load", "--json", "--url",
      "http://127.0.0.1:" .. http_port .. "/", "--host", "a.test", "--get", "2", "--post", "1",
      "--ws", "3", "--seconds", "2" }, timeout_ms = 20000 })
    for i = 1, 100 do
      p:set("host" .. i .. ".test", "127.0.0.1:" .. port_b, i % 3 == 0 and "internal" or "off")
    end
    assert.equal("b\n", get("host1.test").body)
    p:start() -- a daemon that restarts finds the configuration it wants
    for i = 1, 100 do p:remove("host" .. i .. ".test") end
    local report = json.decode(load:join(20000).stdout)
    assert.equal(0, report.failed)
    assert.equal(0, report.cut)
    assert.equal(3, report.kinds.ws.ok)
    assert.truthy(report.kinds.get.ok > 100)
  end)

  it("shows who comes that a host is under maintenance, and reloads nothing for it", function()
    p:mark("maintenance", "a.test", true)
    local r = get "A.Test."
    assert.equal(503, r.status)
    assert.equal("60", r.headers["retry-after"])
    assert.truthy(r.body:find("maintenance", 1, true))
    p:mark("maintenance", "a.test", false)
    assert.equal("a\n", get("a.test").body)
    p:set_marks("maintenance", { ["a.test"] = true })
    assert.equal(503, get("a.test").status)
    p:set_marks("maintenance", {})
    assert.equal("a\n", get("a.test").body)
  end)

  it("waits longer for an app that is paused", function()
    p:set("late.test", "127.0.0.1:" .. port_none, "off")
    p:mark("paused", "late.test", true)
    local late = task.spawn("late", get, "late.test", nil, nil, 12000)
    task.sleep(3500) -- longer than a host is waited for that isn't paused
    children.load = edge.app(port_none, "late")
    assert.equal("late\n", late:join(12000).body)
    p:remove "late.test"
    stop "load"
    wait_for("its end", function()
      return not pcall(http.request, { url = "http://127.0.0.1:" .. port_none .. "/" })
    end)
  end)

  it("waits for an app that is being switched, and says so when nothing comes", function()
    p:set("late.test", "127.0.0.1:" .. port_none, "off")
    local late = task.spawn("late", get, "late.test")
    task.sleep(300)
    children.load = edge.app(port_none, "late")
    assert.equal("late\n", late:join(8000).body)
    stop "load"
    wait_for("its end", function()
      return not pcall(http.request, { url = "http://127.0.0.1:" .. port_none .. "/" })
    end)
    local r = get "late.test"
    assert.equal(502, r.status)
    assert.truthy(r.body:find("nothing answers for late.test", 1, true))
  end)

  it("serves tls = internal with a certificate of its own, and sends http there", function()
    p:set("s.test", "127.0.0.1:" .. port_a, "internal")
    local r = curl("s.test", https "s.test")
    assert.equal("a\n", r.stdout, r.stderr)
    r = get("s.test", "/x?y=1")
    assert.equal(308, r.status)
    assert.equal("https://s.test:" .. https_port .. "/x?y=1", r.headers.location)
    r = curl("s.test", "--http2", "-o", "/dev/null", "-w", "%{http_version}", https "s.test")
    assert.equal("2", r.stdout)
    p:set("s.test", "127.0.0.1:" .. port_a, "off")
    assert.equal("a\n", get("s.test").body)
    assert.not_equal("a\n", curl("s.test", https "s.test").stdout)
  end)

  it("makes no certificate for a host that has none", function()
    for _, host in ipairs { "a.test", "nobody.test" } do
      assert.not_equal(0, curl(host, https(host)).status)
      assert.is_false(fs.exists(dir .. "/proxy/data/certificates/local/" .. host))
    end
  end)

  it("answers its own questions to this host alone", function()
    local own = "http://127.0.0.1:" .. http_port
    p:set("s.test", "127.0.0.1:" .. port_a, "internal")
    for domain, status in pairs { ["s.test"] = 200, ["a.test"] = 404, ["*.test"] = 404, [""] = 404,
      ["../tls/s.test"] = 404, ["s.test/"] = 404 } do
      local r = http.request { url = own .. "/.nextdeploy/ask?domain=" .. domain }
      assert.equal(status, r.status, domain)
    end
    assert.equal("3fa2", http.request { url = own .. "/.nextdeploy/id" }.body)
  end)

  it("takes a new configuration, and keeps the old one when the new can't work", function()
    local other = new { https_port = port_none }
    assert.equal("up", other:sync "caddy")
    assert.equal("a\n", get("a.test").body)
    assert.is_false(p:check()[1].ok) -- doctor says so, and leaves it
    assert.is_true(other:check()[1].ok)
    assert.equal("up", p:sync "caddy")
    local bad = new { https_port = port_a } -- the app listens there
    bad.drivers.caddy.address = "192.0.2.77" -- not an address of this host
    assert.equal("refused", bad:sync "caddy")
    local code, err = code_of(bad.require_up, bad, "caddy")
    assert.equal("proxy_refused", code)
    assert.truthy(err.hint)
    assert.equal("a\n", get("a.test").body)
    p:require_up "caddy"
  end)

  describe("with certificates of the user's own", function()
    local driver, own

    local function bundle(...)
      local now = clock.now()
      local pem, key = cert.make { common_name = ..., names = { ... }, not_before = now, not_after = now + 90 * DAY }
      return pem .. key
    end

    local function shown(host)
      local r = process.run { argv = { "openssl", "s_client", "-connect", "127.0.0.1:" .. https_port,
        "-servername", host }, stdin = "", timeout_ms = 8000 }
      return cert.read(r.stdout)[1]
    end

    before_each(function()
      driver, own = p:driver "caddy", dir .. "/proxy/data/own"
      p:set("own.test", "127.0.0.1:" .. port_a, "auto")
    end)

    after_each(function() driver:set_own {} end)

    it("starts with one that is broken, and mends it", function()
      local good = bundle "own.test"
      driver:set_own { { name = "own.test", bundle = good } }
      local name = fs.list(own)[1]
      for what, text in pairs { [name] = good:gsub("MII", "M!I"), ["empty.pem"] = "", ["half.pem.new"] = "",
        [name .. "~"] = good, ["no_key.pem"] = good:match "^.-END CERTIFICATE%-%-%-%-%-\n" } do
        fs.write(own .. "/" .. what, text)
      end
      local again = new()
      again:write_config()
      assert.is_nil(again:driver("caddy"):config().apps.tls.certificates)
      assert.same({ "half.pem.new", name .. "~" }, fs.list(own))
      driver:set_own { { name = "own.test", bundle = good } }
      assert.equal("up", driver.state)
      assert.equal(cert.read(good)[1].serial, shown("own.test").serial)
    end)

    it("refuses one that Caddy can't read, and takes a good one after it", function()
      local good, other = bundle "own.test", bundle "own.test"
      local r = process.run { argv = { "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
        "ec_paramgen_curve:secp256k1", "-nodes", "-subj", "/CN=own.test", "-addext", "subjectAltName=DNS:own.test",
        "-keyout", "-" } }
      driver:set_own { { name = "own.test", bundle = good } }
      local code, e = code_of(driver.set_own, driver, { { name = "own.test", bundle = r.stdout } })
      assert.equal("proxy_refused", code)
      assert.truthy(e.message:find "elliptic curve", e.message)
      assert.equal(cert.read(good)[1].serial, shown("own.test").serial)
      driver:set_own { { name = "own.test", bundle = other } }
      assert.equal("up", driver.state)
      assert.equal(cert.read(other)[1].serial, shown("own.test").serial)
    end)

    it("shows another chain of the same certificate", function()
      local leaf, chain = bundle "own.test", bundle "own.test"
      driver:set_own { { name = "own.test", serial = "01", bundle = leaf } }
      driver:set_own { { name = "own.test", serial = "01", bundle = leaf:gsub("%-%-%-%-%-BEGIN EC",
        chain:match "^.-END CERTIFICATE%-%-%-%-%-\n" .. "%0", 1) } }
      local r = process.run { argv = { "openssl", "s_client", "-showcerts", "-connect", "127.0.0.1:" .. https_port,
        "-servername", "own.test" }, stdin = "", timeout_ms = 8000 }
      assert.equal(2, #cert.read(r.stdout))
    end)
  end)

  it("says so when Caddy isn't there, and routes still wait for it", function()
    stop "caddy"
    wait_for("its end", function()
      return not pcall(http.request, { url = "http://127.0.0.1:" .. http_port .. "/" })
    end)
    local code, err = code_of(p.require_up, p, "caddy")
    assert.equal("proxy_down", code)
    assert.truthy(err.hint:find("caddy run", 1, true))
    assert.is_false(p:check()[1].ok)
    p:set("c.test", "127.0.0.1:" .. port_b, "off")
    start_caddy()
    assert.equal("b\n", get("c.test").body)
    assert.is_true(p:check()[1].ok)
  end)
end)
