-- What a handler sees of a request, and what a client sees of its answer; requests over real
-- sockets, by our own HTTP client and by raw bytes.
local server = require "server"
local http = require "http"
local json = require "json"
local task = require "task"
local clock = require "clock"
local fs = require "fs"
local crypto = require "crypto"

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local spec = dofile(here .. "/lib/spec.lua")
local until_true = spec.until_true

describe("server", function()
  local s, port, handler

  before_each(function()
    s = server.listen({ address = "127.0.0.1", port = 0 }, function(req)
      return handler(req)
    end)
    local _
    _, port = s:address()
  end)

  after_each(function()
    s:close(0)
  end)

  local function url(path)
    return ("http://127.0.0.1:%d%s"):format(port, path)
  end

  it("gives the handler the whole request", function()
    local seen
    handler = function(req)
      seen = req
      return { status = 201, headers = { ["X-One"] = "two", ["Content-Type"] = "text/plain" },
        body = "made" }
    end
    local r = http.request { url = url "/a/./b%20c/../d?x=1&y=a%2Bb+c&x=2&z", method = "POST",
      headers = { ["X-Thing"] = "v" }, body = "some\0body" }
    assert.equal(201, r.status)
    assert.equal("made", r.body)
    assert.equal("two", r.headers["x-one"])
    assert.is_nil(r.headers["server"])
    assert.is_truthy(r.headers["date"])
    assert.equal("POST", seen.method)
    assert.equal("/a/d", seen.path)
    assert.equal("/a/./b%20c/../d?x=1&y=a%2Bb+c&x=2&z", seen.target)
    assert.same({ x = "2", y = "a+b c", z = "" }, seen.query)
    assert.equal("v", seen.headers["x-thing"])
    assert.equal("127.0.0.1:" .. port, seen.headers.host)
    assert.equal("some\0body", seen.body)
    assert.equal("tcp", seen.peer.kind)
    assert.equal("127.0.0.1", seen.peer.address)
    assert.is_false(seen.websocket)
  end)

  it("answers 200 without a body for an empty table", function()
    handler = function() return {} end
    local r = http.request { url = url "/" }
    assert.equal(200, r.status)
    assert.equal("", r.body)
  end)

  it("lets handlers wait, many at a time", function()
    handler = function(req)
      task.sleep(30)
      return { body = req.path }
    end
    local began, tasks = clock.monotonic(), {}
    for i = 1, 20 do
      tasks[i] = task.spawn("client", function()
        return http.request { url = url("/" .. i) }.body
      end)
    end
    for i = 1, 20 do
      assert.equal("/" .. i, tasks[i]:join(5000))
    end
    assert.is_true(clock.monotonic() - began < 500)
  end)

  describe("with a handler that fails", function()
    local function get()
      local r = http.request { url = url "/" }
      return r.status, json.decode(r.body)
    end

    it("answers 500 for a plain error", function()
      handler = function() error("broken on purpose") end
      local status, body = get()
      assert.equal(500, status)
      assert.is_false(body.success)
      assert.equal("lua_error", body.code)
      assert.is_truthy(body.message:find("broken on purpose", 1, true))
    end)

    it("answers with an error object's fields and status", function()
      handler = function()
        error(task.error { code = "no_such_app", message = "there is no app 'x'",
          hint = "ndctl ps", status = 404 })
      end
      local status, body = get()
      assert.equal(404, status)
      assert.same({ success = false, code = "no_such_app", message = "there is no app 'x'",
        hint = "ndctl ps" }, body)
    end)

    it("answers 500 when it returns nothing, or nonsense", function()
      for _, answer in ipairs { false, "text", { status = "fine" }, { status = 99 }, { body = {} },
        { headers = { a = {} } }, { headers = { ["a\r\nb"] = "c" } }, { headers = { a = "b\nc" } },
        { upgrade = function() end }, { headers = 1 } } do
        handler = function() return answer end
        local status, body = get()
        assert.equal(500, status)
        assert.equal("bad_response", body.code)
      end
    end)
  end)

  it("answers HEAD without the body", function()
    handler = function() return { body = "12345" } end
    local r = http.request { url = url "/", method = "HEAD" }
    assert.equal("", r.body)
    assert.equal("5", r.headers["content-length"])
  end)

  it("answers HEAD of a stream without running it", function()
    local ran
    handler = function() return { stream = function() ran = true end } end
    local r = http.request { url = url "/", method = "HEAD" }
    assert.equal(200, r.status)
    assert.equal("chunked", r.headers["transfer-encoding"])
    assert.is_nil(ran)
  end)

  it("refuses bad paths before the handler", function()
    local called
    handler = function() called = true return {} end
    for _, path in ipairs { "/%00", "/%zz", "/a%2", "/?q=%g0" } do
      local r = http.request { url = url(path) }
      assert.equal(400, r.status)
      assert.equal("bad_target", json.decode(r.body).code)
    end
    assert.is_nil(called)
  end)

  it("refuses a body above its limit", function()
    local small <close> = setmetatable({ s = server.listen({ address = "127.0.0.1", port = 0,
      limits = { body = 10 } }, function() return {} end) }, { __close = function(t)
      t.s:close(0)
    end })
    local _, p = small.s:address()
    local u = ("http://127.0.0.1:%d/"):format(p)
    assert.equal(200, http.request { url = u, method = "POST", body = "0123456789" }.status)
    assert.equal(413, http.request { url = u, method = "POST", body = "0123456789a" }.status)
  end)

  describe("streaming", function()
    it("sends pieces as they are written", function()
      local go = task.signal()
      handler = function()
        return { headers = { ["Content-Type"] = "text/plain" }, stream = function(write)
          write("one ")
          go:wait(5000)
          write("two")
        end }
      end
      local r = http.stream { url = url "/" }
      assert.equal(200, r.status)
      assert.equal("one ", (r.body:recv(5000)))
      go:notify()
      assert.equal("two", (r.body:recv(5000)))
      assert.is_nil((r.body:recv(5000)))
    end)

    it("waits for a reader that doesn't read", function()
      local written, chunk = 0, ("x"):rep(64 * 1024)
      handler = function()
        return { stream = function(write)
          for _ = 1, 512 do
            write(chunk)
            written = written + #chunk
          end
        end }
      end
      local r = http.stream { url = url "/" }
      local before
      repeat
        before = written
        task.sleep(50)
      until written == before
      assert.is_true(written < 512 * #chunk)
      local got = 0
      while true do
        local data = r.body:recv(5000)
        if not data then break end
        got = got + #data
      end
      assert.equal(512 * #chunk, got)
      assert.equal(512 * #chunk, written)
    end)

    it("cancels the task when the client leaves", function()
      local ended
      handler = function()
        return { stream = function(write)
          local _, err = pcall(function()
            write("first")
            task.sleep(10000)
          end)
          ended = err
          error(err)
        end }
      end
      local r = http.stream { url = url "/" }
      assert.equal("first", (r.body:recv(5000)))
      r.body:close()
      until_true(function() return ended end)
      assert.equal("cancelled", ended.code)
    end)

    it("cuts the connection when the stream function raises", function()
      handler = function()
        return { stream = function(write)
          write("first")
          error(task.error { code = "cancelled", message = "on purpose" })
        end }
      end
      local r = http.stream { url = url "/" }
      assert.equal("first", (r.body:recv(5000)))
      local ok = pcall(r.body.recv, r.body, 5000)
      assert.is_false(ok)
    end)
  end)

  it("does not cancel a plain handler when its client leaves", function()
    local started, ended
    handler = function()
      started = true
      task.sleep(150)
      ended = true
      return {}
    end
    pcall(http.request, { url = url "/", timeout_ms = 50 })
    until_true(function() return ended end)
    assert.is_true(started)
  end)

  it("finishes what is in flight when it closes, and then is gone", function()
    handler = function()
      task.sleep(100)
      return { body = "late" }
    end
    local t = task.spawn("client", function() return http.request { url = url "/" }.body end)
    until_true(function() return s:connections() == 1 end)
    task.sleep(20)
    s:close(5000)
    assert.equal("late", t:join(1000))
    assert.is_nil(s:address())
    assert.has_error(function() http.request { url = url "/" } end)
    s:close()
  end)

  it("names what it can't listen on", function()
    local function code(options)
      local _, err = pcall(server.listen, options, function() end)
      return type(err) == "table" and err.code or err
    end
    assert.equal("address_in_use", code { address = "127.0.0.1", port = port })
    assert.equal("bad_address", code { address = "nowhere", port = 1 })
    assert.equal("listen_failed", code { unix = "/nonexistent/x/s" })
    assert.equal("path_too_long", code { unix = "/" .. ("x"):rep(200) })
    assert.equal("no_such_group", code { unix = "/tmp/nd-spec-" .. crypto.uuid():sub(1, 8),
      group = "no-such-group" })
    assert.is_truthy(code({}):find("unix", 1, true))
    assert.is_truthy(code({ address = "127.0.0.1", limits = { bodi = 1 } }):find("bodi", 1, true))
  end)

  it("knows who connects to a unix socket", function()
    local path = "/tmp/nd-spec-" .. crypto.uuid() .. ".sock"
    local seen
    local u = server.listen({ unix = path, mode = 384 }, function(req)
      seen = req.peer
      return { body = "hi" }
    end)
    assert.equal(path, (u:address()))
    assert.equal("hi", http.request { url = "http://localhost/", unix = path }.body)
    assert.equal("unix", seen.kind)
    assert.equal(math.type(seen.uid), "integer")
    assert.equal(math.type(seen.pid), "integer")
    u:close(0)
    assert.is_false(fs.exists(path))
  end)
end)
