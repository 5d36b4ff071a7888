-- The module `http` against a server that says what it is told to.
local clock = require "clock"
local http = require "http"
local task = require "task"

local dir = io.popen("mktemp -d"):read("l")
local socket, script = dir .. "/h.sock", dir .. "/script"
local fake

local function serve(text)
  local file = assert(io.open(script, "w"))
  file:write("on * *\n", text, "\n")
  file:close()
end

local function get(options)
  options = options or {}
  options.url = options.url or "http://localhost/x"
  options.unix = socket
  return options
end

local function code_of(fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok)
  assert(type(e) == "table", tostring(e))
  return e.code
end

describe("http", function()
  setup(function()
    serve("reply 200 text/plain ok")
    local bin = os.getenv("ND_BIN_DIR") or "build/debug/bin"
    fake = assert(io.popen(("%s/nd-fake %s %s >/dev/null"):format(bin, socket, script), "w"))
    local deadline = clock.monotonic() + 5000
    while not pcall(http.request, get()) do
      assert(clock.monotonic() < deadline, "nd-fake did not start")
      task.sleep(5)
    end
  end)

  teardown(function()
    fake:close()
    os.execute("rm -rf '" .. dir .. "'")
  end)

  it("gives status, headers by lower-case name, and body", function()
    serve("send HTTP/1.1 418 T\\r\\nX-A: 1\\r\\nx-a: 2\\r\\nContent-Length: 5\\r\\n\\r\\na\\0b\\r\\n\nkeep")
    local r = http.request(get())
    assert.equal(418, r.status)
    assert.equal("1, 2", r.headers["x-a"])
    assert.equal("a\0b\r\n", r.body)
  end)

  it("sends method, headers and body", function()
    os.remove(script .. ".log")
    serve("reply 200 text/plain ok")
    http.request(get { method = "PATCH", headers = { ["X-A"] = "b", Host = "" }, body = "12345" })
    local log = io.open(script .. ".log"):read("a")
    assert.matches("^PATCH /x HTTP/1.1\r\n", log)
    assert.matches("\r\nX%-A: b\r\n", log)
    assert.matches("\r\nHost:\r\n", log)
    assert.matches("\r\nContent%-Length: 5\r\n", log)
  end)

  it("refuses what could smuggle a second request", function()
    assert.has_error(function() http.request(get { headers = { a = "b\r\nc: d" } }) end)
    assert.has_error(function() http.request(get { headers = { ["a b"] = "c" } }) end)
    assert.has_error(function() http.request(get { method = "GET /\r\n" }) end)
    assert.has_error(function() http.request(get { url = "http://a/ HTTP/1.1" }) end)
    assert.has_error(function() http.request(get { url = "file:///etc/passwd" }) end)
  end)

  it("streams a body as it comes", function()
    serve("send HTTP/1.1 200 OK\\r\\n\\r\\none\nwait 30\nsend two\n")
    local r = http.stream(get())
    assert.equal("one", (r.body:recv(5000)))
    assert.equal("two", (r.body:recv(5000)))
    assert.is_nil(r.body:recv(5000))
  end)

  it("slows a fast sender down to a slow reader, and loses nothing", function()
    serve("send HTTP/1.1 200 OK\\r\\n\\r\\n\nflood 400000 0123456789")
    local r = http.stream(get())
    task.sleep(100)
    local bytes = 0
    for piece in function() return r.body:recv(5000) end do bytes = bytes + #piece end
    assert.equal(4000000, bytes)
  end)

  it("is left by a reader that closes, and ended by one that is cancelled", function()
    serve("send HTTP/1.1 200 OK\\r\\n\\r\\none\nhang")
    local r = http.stream(get())
    r.body:close()
    assert.is_nil(r.body:recv())
    serve("hang")
    for _, fn in ipairs { http.request, http.stream } do
      local t = task.spawn("t", fn, get())
      task.sleep(10)
      t:cancel()
      assert.equal("cancelled", code_of(t.join, t))
    end
  end)

  it("names what went wrong", function()
    serve("hang")
    assert.equal("http_timeout", code_of(http.request, get { timeout_ms = 30 }))
    assert.equal("http_timeout", code_of(http.stream, get { timeout_ms = 30 }))
    serve("send nonsense\\r\\n")
    assert.equal("http_protocol", code_of(http.request, get()))
    serve("close")
    assert.equal("http_closed", code_of(http.request, get()))
    serve("send HTTP/1.1 200 OK\\r\\n\\r\\n\nflood 1000 0123456789")
    assert.equal("http_too_large", code_of(http.request, get { max_bytes = 100 }))
    assert.equal("http_connect", code_of(http.request, { url = "http://127.0.0.1:1/" }))
    serve("send HTTP/1.1 200 OK\\r\\nContent-Length: 9\\r\\n\\r\\nshort")
    local r = http.stream(get())
    assert.equal("short", (r.body:recv(5000)))
    assert.equal("http_closed", code_of(r.body.recv, r.body, 5000))
  end)
end)
