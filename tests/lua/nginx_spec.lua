-- nginx as its users meet it, and hosts that move between the proxies: real programs, real requests.

local cert = require "cert"
local clock = require "clock"
local crypto = require "crypto"
local fs = require "fs"
local http = require "http"
local json = require "json"
local process = require "process"
local task = require "task"
local proxy = require "nd.service.proxy"

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local edge = dofile(here .. "/lib/edge.lua")
local wait_for, code_of = edge.wait_for, edge.code_of

local PATH = { PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" }
local LINGER = 700 -- ms

describe("nginx", function()
  local dir, p, http_port, https_port, caddy_port, caddy_tls_port, port_a, port_b, port_none
  local children, events = {}, {}

  local function get(host, path, headers, port)
    headers = headers or {}
    headers.Host = host
    return http.request { url = ("http://127.0.0.1:%d%s"):format(port or http_port, path or "/"),
      headers = headers, timeout_ms = 12000 }
  end

  local function curl(host, ...)
    return process.run { argv = { "curl", "-s", "--max-time", "8", "--resolve",
      host .. ":" .. https_port .. ":127.0.0.1", "--cacert",
      dir .. "/state/proxy/data/pki/authorities/local/root.crt", ... } }
  end

  local function https(host) return "https://" .. host .. ":" .. https_port .. "/" end

  local function new(o)
    o = o or {}
    return proxy.new { instance = "3fa2", state_dir = dir .. "/state", run_dir = dir .. "/run",
      address = "127.0.0.1", default = "nginx", http_port = caddy_port, https_port = caddy_tls_port,
      nginx_http_port = o.http_port or http_port, nginx_https_port = https_port, linger = LINGER,
      on_event = function(kind, data) events[#events + 1] = { kind = kind, data = data } end }
  end

  local function conf() return dir .. "/state/proxy/nginx/nginx.conf" end

  local function nginx(...)
    return process.run { argv = { "nginx", "-c", conf(), ... }, env = PATH, timeout_ms = 20000 }
  end

  local function start_nginx()
    local r = nginx()
    assert(r.status == 0, r.stderr)
    wait_for("nginx", function() return p:sync "nginx" == "up" end)
  end

  local function stop_nginx()
    nginx("-s", "stop")
    wait_for("its end", function() return not fs.exists(dir .. "/run/nginx/nginx.pid") end)
  end

  local function revision() return get("127.0.0.1", "/.nextdeploy/id").body end

  local function stop(name)
    if not children[name] then return end
    children[name]:cancel()
    children[name]:wait()
    children[name] = nil
  end

  local function load(port, ...)
    return task.spawn("load", process.run, { argv = { edge.bin .. "/nd-load", "--json", "--url",
      "http://127.0.0.1:" .. port .. "/", "--host", "a.test", ... }, timeout_ms = 30000 })
  end

  setup(function()
    dir = os.tmpname()
    os.remove(dir)
    fs.mkdir(dir, 493) -- 0755: its workers are nobody
    http_port, https_port, caddy_port, caddy_tls_port, port_a, port_b, port_none = edge.ports(7)
    p = new()
    p:write_config()
    children.a, children.b = edge.app(port_a, "a"), edge.app(port_b, "b")
    start_nginx()
  end)

  teardown(function()
    nginx("-s", "stop")
    for _, name in ipairs { "a", "b", "late", "caddy" } do stop(name) end
    fs.remove(dir, { recursive = true })
  end)

  before_each(function()
    p:set_all { ["a.test"] = { at = "127.0.0.1:" .. port_a, tls = "off", proxy_type = "nginx" } }
    p:set_marks("maintenance", {})
    events = {}
  end)

  it("serves a host once it is set, and no longer when it is removed", function()
    assert.equal("a\n", get("a.test").body)
    p:set("b.test", "127.0.0.1:" .. port_b, "off")
    assert.equal("b\n", get("b.test").body)
    p:remove "b.test"
    assert.equal(404, get("b.test").status)
    assert.same({ { host = "a.test", at = "127.0.0.1:" .. port_a, tls = "off",
      proxy_type = "nginx" } }, p:list())
  end)

  it("is reloaded for what changes, and for nothing else", function()
    local before = revision()
    p:set("a.test", "127.0.0.1:" .. port_a, "off")
    p:start() -- a daemon that restarts
    local other = new()
    other:set_all { ["a.test"] = { at = "127.0.0.1:" .. port_a, tls = "off" } }
    other:start()
    p:mark("maintenance", "a.test", true)
    p:mark("maintenance", "a.test", false)
    assert.equal(before, revision())
    p:set("b.test", "127.0.0.1:" .. port_b, "off")
    assert.not_equal(before, revision())
  end)

  it("finds a host however it is written, and no host in a pattern or a path", function()
    for _, host in ipairs { "A.Test", "a.test.", "a.test:8080", "A.TEST.:99" } do
      assert.equal("a\n", get(host).body, host)
    end
    for _, host in ipairs { "*", "a*", "..", ".", "a.test..", "-", "$server_name", "_",
      "../plain/a.test", "%61.test" } do
      local r = get(host)
      assert.truthy(r.status == 404 or r.status == 400, host .. " " .. r.status)
    end
    local r = get "nobody.test"
    assert.equal(404, r.status)
    assert.truthy(r.body:find("hint:", 1, true))
  end)

  it("tells the app who asked, and believes no client about it", function()
    local r = get("a.test:99", "/head", { ["X-Forwarded-For"] = "6.6.6.6",
      ["X-Forwarded-Proto"] = "https", ["X-Forwarded-Host"] = "evil.test" })
    local head = r.body:lower()
    assert.truthy(head:find("x-forwarded-for: 127.0.0.1", 1, true), head)
    assert.truthy(head:find("x-forwarded-proto: http\r", 1, true), head)
    assert.truthy(head:find("x-forwarded-host: a.test:99", 1, true), head)
    assert.truthy(head:find("\nhost: a.test:99", 1, true), head)
    assert.falsy(head:find("6.6.6.6", 1, true))
    assert.truthy(head:find("connection: close", 1, true), "the app must close first")
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

  it("cuts no WebSocket and loses no new request while hosts come and go", function()
    local running = load(http_port, "--new", "2", "--slow", "1", "--slow-ms", "500", "--ws", "3", "--seconds", "3")
    for i = 1, 8 do p:set("host" .. i .. ".test", "127.0.0.1:" .. port_b, "off") end
    assert.equal("b\n", get("host1.test").body)
    for i = 1, 8 do p:remove("host" .. i .. ".test") end
    local report = json.decode(running:join(30000).stdout)
    assert.equal(0, report.failed)
    assert.equal(0, report.cut)
    assert.equal(3, report.kinds.ws.ok)
    assert.truthy(report.kinds.new.ok > 100)
  end)

  it("hands on each event of a stream when it comes, and takes bodies without end", function()
    local go, heard = dir .. "/go", dir .. "/heard"
    children.late = edge.background("streaming app", { "python3", "-c", [[
import http.server, os, sys, time
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b"data: 1\n\n")
        while not os.path.exists(sys.argv[2]): time.sleep(0.01)
        self.wfile.write(b"data: 2\n\n")
        self.close_connection = True
    def do_PUT(self):
        left = size = int(self.headers["Content-Length"])
        while left: left -= len(self.rfile.read(min(left, 1 << 16)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%d" % size)
        self.close_connection = True
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
]], tostring(port_none), go })
    p:set("sse.test", "127.0.0.1:" .. port_none, "off")
    local url = "http://127.0.0.1:" .. http_port .. "/"
    wait_for("the app", function()
      return http.request { url = url, method = "PUT", headers = { Host = "sse.test" }, body = "x" }.body == "1"
    end)
    local listener = edge.background("listener", { "curl", "-sN", "--max-time", "8", "-o", heard,
      "-H", "Host: sse.test", url })
    wait_for("the first event", function() return fs.read(heard) == "data: 1\n\n" end)
    fs.write(go, "")
    wait_for("the second event", function() return fs.read(heard) == "data: 1\n\ndata: 2\n\n" end)
    listener:wait()
    fs.write(dir .. "/large", ("x"):rep(1 << 25))
    assert.equal(tostring(1 << 25), process.run { argv = { "curl", "-s", "--max-time", "8", "-T", dir .. "/large",
      "-H", "Host: sse.test", url } }.stdout)
    stop "late"
  end)

  it("says so when nothing answers", function()
    p:set("late.test", "127.0.0.1:" .. port_none, "off")
    local r = get "late.test"
    assert.equal(502, r.status)
    assert.truthy(r.body:find("nothing answers for late.test", 1, true))
  end)

  it("sends a POST no second time to an app that died of it", function()
    local seen = dir .. "/seen"
    fs.write(seen, "")
    children.late = edge.background("rude app", { "python3", "-c", [[
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen(9)
while True:
    c, _ = s.accept()
    line = c.recv(65536).split(b"\r\n")[0]
    open(sys.argv[2], "ab").write(line + b"\n")
    c.close()
]], tostring(port_none), seen })
    p:set("rude.test", "127.0.0.1:" .. port_none, "off")
    wait_for("the app", function() return get("rude.test").status == 502 and #fs.read(seen) > 0 end)
    local before = #fs.read(seen)
    local r = http.request { url = "http://127.0.0.1:" .. http_port .. "/once", method = "POST",
      headers = { Host = "rude.test" }, body = "x", timeout_ms = 8000 }
    assert.equal(502, r.status)
    assert.equal("POST /once HTTP/1.1\n", fs.read(seen):sub(before + 1))
    stop "late"
  end)

  it("shows who comes that a host is under maintenance", function()
    p:set("s.test", "127.0.0.1:" .. port_b, "internal")
    for _, host in ipairs { "a.test", "s.test" } do
      p:mark("maintenance", host, true)
      local r = get(host)
      assert.equal(503, r.status)
      assert.equal("60", r.headers["retry-after"])
      assert.truthy(r.body:find("maintenance", 1, true))
    end
    assert.equal("503", curl("s.test", "-o", "/dev/null", "-w", "%{http_code}", https "s.test").stdout)
    p:mark("maintenance", "a.test", false)
    assert.equal("a\n", get("a.test").body)
  end)

  it("serves tls = internal over HTTP/2 with a certificate of ours, and sends http there", function()
    p:set("s.test", "127.0.0.1:" .. port_a, "internal")
    local r = curl("s.test", https "s.test")
    assert.equal("a\n", r.stdout, r.stderr)
    r = get("s.test", "/x?y=1")
    assert.equal(308, r.status)
    assert.equal("https://s.test:" .. https_port .. "/x?y=1", r.headers.location)
    r = curl("s.test", "--http2", "-w", "%{http_version}", https "s.test" .. "head")
    assert.equal("2", r.stdout:match "[^\n]*$")
    assert.truthy(r.stdout:lower():find("\nhost: s.test", 1, true), r.stdout)
    local body = dir .. "/body"
    fs.write(body, ("x"):rep(1000000))
    r = curl("s.test", "--http2", "--data-binary", "@" .. body, "-o", dir .. "/echoed", https "s.test" .. "echo")
    assert.equal(0, r.status, r.stderr)
    assert.equal(1000000, fs.stat(dir .. "/echoed").size)
    for _, host in ipairs { "a.test", "nobody.test" } do
      assert.not_equal(0, curl(host, https(host)).status)
    end
    p:set("s.test", "127.0.0.1:" .. port_a, "off")
    assert.equal("a\n", get("s.test").body)
  end)

  it("is put back when it refuses a host, and says nginx's own words", function()
    local before = revision()
    fs.write(dir .. "/state/proxy/nginx/hosts/zz.conf", "nonsense;\n", 420)
    local code, e = code_of(p.set, p, "b.test", "127.0.0.1:" .. port_b, "off")
    assert.equal("proxy_refused", code)
    assert.truthy(e.message:find('unknown directive "nonsense"', 1, true), e.message)
    assert.truthy(e.message:find("zz.conf", 1, true))
    assert.truthy(e.hint)
    assert.is_false(fs.exists(dir .. "/state/proxy/nginx/hosts/b.test.conf"))
    assert.equal(before, revision())
    assert.equal("a\n", get("a.test").body)
    fs.remove(dir .. "/state/proxy/nginx/hosts/zz.conf")
    p:set("b.test", "127.0.0.1:" .. port_b, "off")
    assert.equal("b\n", get("b.test").body)
  end)

  it("shows the certificate of before when it refuses another, and takes the next", function()
    local now, path = clock.now(), dir .. "/own.pem"
    local function good()
      local pem, key = cert.make { common_name = "own.test", names = { "own.test" }, not_before = now,
        not_after = now + 90 * 24 * 3600 * 1000 }
      return pem .. key
    end
    local function shown()
      local r = process.run { argv = { "openssl", "s_client", "-connect", "127.0.0.1:" .. https_port,
        "-servername", "own.test" }, stdin = "", timeout_ms = 8000 }
      return cert.read(r.stdout)[1].serial
    end
    local function serial(bundle) return cert.read(bundle)[1].serial end
    local driver, first, last = p:driver "nginx", good(), good()
    local bundle = driver.bundle
    driver.bundle = function() return path, crypto.sha256(fs.read(path)) end
    fs.write(path, first)
    p:set("own.test", "127.0.0.1:" .. port_a, "auto")
    local weak = process.run { argv = { "openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes", "-subj",
      "/CN=own.test", "-keyout", "-" } }.stdout
    fs.write(path, weak)
    local code, e = code_of(driver.recertify, driver, { "own.test" })
    assert.equal("proxy_refused", code)
    assert.truthy(e.message:find "key too small", e.message)
    assert.equal(serial(first), shown())
    for _, text in ipairs { first, last } do
      fs.write(path, text)
      driver:recertify { "own.test" }
      assert.equal(serial(text), shown())
    end
    driver.bundle = bundle
    p:remove "own.test"
  end)

  it("is put back when a reload doesn't take", function()
    local other = new { http_port = port_a } -- an app listens there
    other:write_config()
    assert.equal("refused", other:sync "nginx")
    assert.truthy(other:problem("nginx").message:find("Address already in use", 1, true),
      other:problem("nginx").message)
    assert.equal("a\n", get("a.test").body)
    p = new()
    p:set_all { ["a.test"] = { at = "127.0.0.1:" .. port_a, tls = "off" } }
    p:write_config()
    assert.equal("up", p:sync "nginx")
    p:require_up "nginx"
  end)

  it("keeps the routes for when it comes up", function()
    stop_nginx()
    local code, e = code_of(p.require_up, p, "nginx")
    assert.equal("proxy_down", code)
    assert.equal("start it: nginx -c " .. conf(), e.hint)
    local check = p:check()[1]
    assert.equal("proxy.nginx", check.name)
    assert.is_false(check.ok)
    p:set("c.test", "127.0.0.1:" .. port_b, "off")
    start_nginx()
    assert.equal("b\n", get("c.test").body)
    assert.is_true(p:check()[1].ok)
  end)

  describe("beside Caddy", function()
    setup(function()
      children.caddy = edge.background("caddy", { "caddy", "run", "--config",
        dir .. "/state/proxy/caddy.json" }, { PATH = os.getenv "PATH", HOME = dir })
      wait_for("Caddy", function() return p:sync "caddy" == "up" end)
    end)

    local function on(kind)
      local ok, r = pcall(get, "a.test", "/", nil, kind == "caddy" and caddy_port or http_port)
      return ok and r.status == 200
    end

    local function ends_connection(port) return (get("a.test", "/", nil, port).headers.connection or ""):lower() end

    it("takes a host over, which the other forgets only later", function()
      local at = "127.0.0.1:" .. port_a
      assert.equal("keep-alive", ends_connection(http_port))
      p:set("a.test", at, "off", "caddy")
      assert.is_true(on "caddy" and on "nginx")
      assert.equal("close", ends_connection(http_port))
      assert.not_equal("close", ends_connection(caddy_port))
      wait_for("the end of nginx's", function() return not on "nginx" end)
      wait_for("the event", function() return events[1] and events[#events].kind == "proxy.moved" end)
      assert.is_true(on "caddy")
      p:set("a.test", at, "off", "nginx")
      p:set("a.test", at, "off", "caddy") -- and back before the time is up
      p:set("a.test", at, "off", "nginx")
      assert.is_true(on "caddy" and on "nginx")
      assert.equal("close", ends_connection(caddy_port))
      assert.equal("keep-alive", ends_connection(http_port))
      local ws = json.decode(load(caddy_port, "--ws", "2", "--seconds", "1"):join(10000).stdout)
      assert.equal(0, ws.failed + ws.cut)
      wait_for("the end of Caddy's", function() return not on "caddy" end)
      assert.is_true(on "nginx")
      p:set("a.test", at, "off", "none")
      wait_for("the end of nginx's", function() return not on "nginx" end)
    end)

    it("goes on with a move that a restart of the daemon interrupted", function()
      local at = "127.0.0.1:" .. port_a
      p:set("a.test", at, "off", "caddy")
      p.mover:cancel() -- as the end of its process does
      p.mover:wait()
      local other = new()
      other:set_all { ["a.test"] = { at = at, tls = "off", proxy_type = "caddy" } }
      assert.is_true(on "caddy" and on "nginx")
      other:sync "caddy"
      wait_for("the end of nginx's", function() return not on "nginx" end)
      p = other
    end)

    it("is not taken over from by a proxy that doesn't run", function()
      local at = "127.0.0.1:" .. port_a
      p:set("a.test", at, "off", "caddy")
      wait_for("the end of nginx's", function() return not on "nginx" end)
      stop_nginx()
      p:sync "nginx"
      p:set("a.test", at, "off", "nginx")
      task.sleep(2 * LINGER)
      assert.is_true(on "caddy")
      start_nginx()
      wait_for("the end of Caddy's", function() return not on "caddy" end)
      assert.is_true(on "nginx")
    end)

    it("serves a host with the same authority, so that its clients trust both", function()
      p:set("s.test", "127.0.0.1:" .. port_a, "internal", "caddy")
      local function from(port)
        return process.run { argv = { "curl", "-s", "--max-time", "8", "--resolve",
          ("s.test:%d:127.0.0.1"):format(port), "--cacert",
          dir .. "/state/proxy/data/pki/authorities/local/root.crt",
          ("https://s.test:%d/"):format(port) } }.stdout
      end
      assert.equal("a\n", from(caddy_tls_port))
      p:set("s.test", "127.0.0.1:" .. port_a, "internal", "nginx")
      assert.equal("a\n", from(https_port))
    end)
  end)
end)
