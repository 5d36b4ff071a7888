-- TLS at the server's door, and our own clients on it: requests, streams, WebSockets, pins, client
-- certificates, certificates that are exchanged, and what isn't TLS at all.
local fs = require "fs"
local http = require "http"
local process = require "process"
local server = require "server"
local task = require "task"
local tls = require "tls"
local ws = require "ws"

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local spec = dofile(here .. "/lib/spec.lua")
local raised, until_true = spec.raised, spec.until_true

local function run(argv, stdin)
  return process.run { argv = argv, env = { PATH = os.getenv "PATH" }, stdin = stdin, timeout_ms = 20000 }
end

describe("tls", function()
  local dir, s, port, url, pin, handler
  local function file(name) return dir .. "/" .. name end
  local function pair(name, names)
    local files = { cert = file(name .. ".pem"), key = file(name .. ".key") }
    tls.self_signed { cert = files.cert, key = files.key, names = names or { "localhost", "127.0.0.1" } }
    return files
  end

  local function listen(files, limits)
    s = server.listen({ address = "127.0.0.1", port = 0, tls = files, limits = limits }, function(req)
      return handler(req)
    end)
    port = select(2, s:address())
    url = ("https://127.0.0.1:%d"):format(port)
  end

  local function openssl(words, stdin)
    return run({ "openssl", "s_client", "-connect", "127.0.0.1:" .. port, table.unpack(words) }, stdin)
  end

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    fs.mkdir(dir, 448)
    local files = pair("one")
    pin = tls.pin(files.cert)
    handler = function(req)
      return { body = ("%s %s %d %s"):format(req.method, req.path, #req.body, req.tls) }
    end
    listen(files)
  end)

  after_each(function()
    s:close(0)
    fs.remove(dir, { recursive = true })
  end)

  it("makes a key for its owner alone, and a pin that OpenSSL agrees with", function()
    assert.equal(384, fs.stat(file "one.key").mode)
    local r = run { "sh", "-c", "openssl x509 -in " .. file "one.pem" .. " -pubkey -noout | openssl pkey -pubin "
      .. "-outform der | openssl dgst -sha256 -binary | base64" }
    assert.equal("sha256//" .. r.stdout:gsub("%s", ""), pin)
    local text = run { "openssl", "x509", "-in", file "one.pem", "-noout", "-text" }.stdout
    assert.matches("prime256v1", text)
    assert.matches("DNS:localhost, IP Address:127.0.0.1", text, 1, true)
    assert.equal(0, run({ "openssl", "verify", "-CAfile", file "one.pem", "-verify_ip", "127.0.0.1",
      file "one.pem" }).status)
  end)

  it("answers requests small and large, many on one connection", function()
    for i = 1, 20 do
      local r = http.request { url = url .. "/" .. i, pin = pin, method = "POST", body = ("x"):rep(i * 20000),
        headers = { Authorization = "Bearer t" } }
      assert.equal(("POST /%d %d true"):format(i, i * 20000), r.body)
    end
    handler = function() return { body = ("0123456789abcdef"):rep(200000) } end
    assert.is_true(http.request({ url = url .. "/", pin = pin }).body == ("0123456789abcdef"):rep(200000))
    handler = function() return { stream = function(write) for _ = 1, 500 do write(("y"):rep(10000)) end end } end
    assert.equal(5000000, #http.request({ url = url .. "/", pin = pin }).body)
  end)

  it("is trusted by its pin, or by who signed it, and by nothing else", function()
    assert.equal("http_tls", raised(http.request, { url = url .. "/" }).code)
    assert.equal("http_tls", raised(http.request, { url = url .. "/", pin = "sha256//" .. ("A"):rep(43) .. "=" }).code)
    assert.equal(200, http.request({ url = url .. "/", ca = file "one.pem" }).status)
    assert.equal(200, http.request({ url = ("https://localhost:%d/"):format(port), ca = file "one.pem" }).status)
    pair("two", { "elsewhere.example" })
    s:set_tls { cert = file "two.pem", key = file "two.key" }
    assert.equal("http_tls", raised(http.request, { url = ("https://localhost:%d/"):format(port), ca = file "two.pem",
      method = "POST" }).code)
  end)

  it("carries WebSockets, both ways and large", function()
    handler = function()
      return { upgrade = function(w)
        for data, kind in function() return w:recv() end do w:send(data, kind == "binary") end
      end }
    end
    local wss = ("wss://127.0.0.1:%d/"):format(port)
    for _, trust in ipairs { { pin = pin }, { ca = file "one.pem" } } do
      local w = ws.connect { url = wss, pin = trust.pin, ca = trust.ca }
      for _, size in ipairs { 0, 1, 100, 16384, 70000, 900000 } do
        w:send(("z"):rep(size))
        assert.equal(size, #w:recv(5000))
      end
      w:close()
    end
    assert.equal("ws_tls", raised(ws.connect, { url = wss }).code)
    assert.equal("ws_tls", raised(ws.connect, { url = wss, pin = "sha256//" .. ("A"):rep(43) .. "=" }).code)
    assert.equal("tls_bad_pin", raised(ws.connect, { url = wss, pin = "sha1//x" }).code)
    handler = function() return { status = 401, body = "no" } end
    assert.equal(401, raised(ws.connect, { url = wss, pin = pin }).data.status)
  end)

  it("exchanges its certificate without a gap", function()
    local held
    handler = function()
      held = true
      task.sleep(300)
      return { body = "old" }
    end
    local old = task.spawn("old", function() return http.request { url = url .. "/", pin = pin } end)
    until_true(function() return held end)
    local files = pair("two")
    local new = tls.pin(files.cert)
    s:set_tls(files)
    handler = function() return { body = "new" } end
    assert.equal("new", http.request({ url = url .. "/", pin = new, method = "POST" }).body)
    assert.equal("http_tls", raised(http.request, { url = url .. "/", pin = pin, method = "POST" }).code)
    assert.equal("old", old:join(5000).body)
    fs.write(files.cert, "nonsense")
    assert.equal("tls_bad_certificate", raised(s.set_tls, s, files).code)
    pair("three")
    assert.equal("tls_bad_key", raised(s.set_tls, s, { cert = file "three.pem", key = file "one.key" }).code)
    assert.equal("new", http.request({ url = url .. "/", pin = new, method = "POST" }).body)
  end)

  it("demands certificates of clients where it is told to", function()
    s:close(0)
    -- One that signs itself is its own authority.
    local function client_pair(name)
      local r = run { "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-days", "2", "-subj", "/CN=" .. name, "-keyout", file(name .. ".key"), "-out", file(name .. ".pem") }
      assert.equal(0, r.status, r.stderr)
      return { cert = file(name .. ".pem"), key = file(name .. ".key") }
    end
    local client = client_pair "client"
    listen { cert = file "one.pem", key = file "one.key", ca = client.cert }
    local e = raised(http.request, { url = url .. "/", pin = pin })
    assert.truthy(e.code == "http_tls" or e.code == "http_closed" or e.code == "http_protocol", e.code)
    assert.equal(200, http.request({ url = url .. "/", pin = pin, cert = client.cert, key = client.key }).status)
    local stranger = client_pair "stranger"
    e = raised(http.request, { url = url .. "/", pin = pin, cert = stranger.cert, key = stranger.key })
    assert.truthy(e.code == "http_tls" or e.code == "http_closed" or e.code == "http_protocol", e.code)
    assert.equal("tls_bad_ca", raised(s.set_tls, s, { cert = file "one.pem", key = file "one.key",
      ca = file "one.key" }).code)
  end)

  it("speaks TLS 1.2 and 1.3 with modern ciphers and http/1.1, and nothing older", function()
    assert.matches("TLSv1.3", openssl({ "-tls1_3" }, "").stdout, 1, true)
    assert.matches("ECDHE%-ECDSA%-AES256%-GCM", openssl({ "-tls1_2" }, "").stdout)
    for _, words in ipairs { { "-tls1_1" }, { "-tls1" }, { "-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA" },
      { "-alpn", "h2" } } do
      assert.not_equal(0, openssl(words, "").status, table.concat(words, " "))
    end
    assert.matches("ALPN protocol: http/1.1", openssl({ "-alpn", "h2,http/1.1" }, "").stdout, 1, true)
  end)

  it("drops what isn't TLS, what is broken off, and what is slow", function()
    s:close(0)
    listen({ cert = file "one.pem", key = file "one.key" }, { head_ms = 200, handshakes = 8 })
    assert.truthy(raised(http.request, { url = ("http://127.0.0.1:%d/"):format(port) }).code:find "^http_")
    local slow = {}
    for i = 1, 6 do -- of 8, an address may have 2
      slow[i] = task.spawn("slow", function()
        return run({ "bash", "-c", ("exec 3<>/dev/tcp/127.0.0.1/%d; cat <&3"):format(port) })
      end)
    end
    until_true(function() return s:connections() > 0 end)
    for i = 1, 6 do slow[i]:join(5000) end
    until_true(function() return s:connections() == 0 end)
    assert.equal(200, http.request({ url = url .. "/", pin = pin }).status)
  end)
end)
