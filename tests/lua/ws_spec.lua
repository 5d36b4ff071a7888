-- WebSockets, both ends: our server's handlers and our client, over TCP and unix sockets.
local server = require "server"
local ws = require "ws"
local http = require "http"
local task = require "task"
local crypto = require "crypto"

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local spec = dofile(here .. "/lib/spec.lua")
local raised, until_true = spec.raised, spec.until_true

describe("ws", function()
  local s, url, conversation, ended

  local function listen(limits)
    s = server.listen({ address = "127.0.0.1", port = 0, limits = limits }, function(req)
      if not req.websocket then
        return { status = 418, body = "tea" }
      end
      if req.path == "/refused" then
        return { status = 401, body = '{"code":"no_token"}' }
      end
      return { upgrade = function(w)
        local ok, err = pcall(conversation, w, req)
        ended = ok and "returned" or err
        if not ok then error(err) end
      end }
    end)
    local _, port = s:address()
    url = ("ws://127.0.0.1:%d"):format(port)
  end

  before_each(function()
    ended = nil
    listen()
    conversation = function(w)
      while true do
        local data, kind = w:recv()
        if not data then return end
        w:send(data, kind == "binary")
      end
    end
  end)

  after_each(function()
    s:close(0)
  end)

  it("carries text and binary, of every length that frames tell apart", function()
    local c = ws.connect { url = url .. "/echo?x=1" }
    for _, length in ipairs { 0, 1, 125, 126, 127, 65535, 65536, 1024 * 1024 } do
      local data = ("a"):rep(length)
      c:send(data)
      local got, kind = c:recv(5000)
      assert.is_true(got == data)
      assert.equal("text", kind)
    end
    c:send("\0\255", true)
    local got, kind = c:recv(5000)
    assert.equal("\0\255", got)
    assert.equal("binary", kind)
    c:close()
    local none, code = c:recv(5000)
    assert.is_nil(none)
    assert.equal(1000, code)
    until_true(function() return ended end)
    assert.equal("returned", ended)
  end)

  it("tells both sides the code and the reason", function()
    local seen
    conversation = function(w)
      local _, code, reason = w:recv()
      seen = { code, reason }
    end
    local c = ws.connect { url = url }
    c:close(4001, "enough")
    local _, code = c:recv(5000)
    assert.equal(4001, code)
    until_true(function() return seen end)
    assert.same({ 4001, "enough" }, seen)
  end)

  it("says 1011 when the handler fails", function()
    conversation = function() error(task.error { code = "ws_closed", message = "quietly" }) end
    local c = ws.connect { url = url }
    local none, code = c:recv(5000)
    assert.is_nil(none)
    assert.equal(1011, code)
  end)

  it("says 1000 when the handler returns", function()
    conversation = function(w) w:send("bye") end
    local c = ws.connect { url = url }
    assert.equal("bye", (c:recv(5000)))
    local _, code = c:recv(5000)
    assert.equal(1000, code)
  end)

  it("says 1001 when the server shuts down", function()
    local c = ws.connect { url = url }
    c:send("x")
    c:recv(5000)
    task.spawn("closer", function() s:close(5000) end)
    local _, code = c:recv(5000)
    assert.equal(1001, code)
  end)

  it("says 1009 when a message is too big", function()
    local c = ws.connect { url = url }
    c:send(("x"):rep(1024 * 1024 + 1))
    local _, code = c:recv(5000)
    assert.equal(1009, code)
  end)

  it("says 1007 when text isn't UTF-8", function()
    local c = ws.connect { url = url }
    c:send("\xff\xfe")
    local _, code = c:recv(5000)
    assert.equal(1007, code)
  end)

  it("raises in send after the close, and times out in recv", function()
    local c = ws.connect { url = url }
    assert.equal("timeout", raised(c.recv, c, 20).code)
    c:close()
    assert.equal("ws_closed", raised(c.send, c, "x").code)
    local ok, why = c:try_send("x")
    assert.is_false(ok)
    assert.equal("closed", why)
    assert.is_nil((c:recv(5000)))
  end)

  it("holds back a sender whose peer doesn't read", function()
    local sent, message = 0, ("x"):rep(64 * 1024)
    conversation = function(w)
      for _ = 1, 400 do
        w:send(message)
        sent = sent + 1
      end
    end
    local c = ws.connect { url = url }
    local before
    repeat
      before = sent
      task.sleep(50)
    until sent == before
    assert.is_true(sent < 400)
    for _ = 1, 400 do
      assert.equal(#message, #c:recv(5000))
    end
    assert.is_nil((c:recv(5000)))
    assert.equal(400, sent)
  end)

  it("carries much both ways at once, where each side reads while it sends", function()
    local count, message, got = 400, ("x"):rep(64 * 1024), {}
    local function both_ways(w, name)
      local sender = task.spawn(name, function()
        for _ = 1, count do w:send(message) end
      end)
      for n = 1, count do
        w:recv(5000)
        got[name] = n
      end
      sender:join(5000)
    end
    conversation = function(w) both_ways(w, "server") end
    both_ways(ws.connect { url = url }, "client")
    until_true(function() return ended end)
    assert.same({ server = count, client = count }, got)
  end)

  it("lets a sender drop messages instead of waiting", function()
    local outcome
    conversation = function(w)
      local n = 0
      repeat
        local ok, why = w:try_send(("x"):rep(64 * 1024))
        n = n + 1
        outcome = why
      until not ok or n > 1000
      outcome = outcome .. (w:buffered() > 0 and " waiting" or "")
      w:recv()
    end
    local c = ws.connect { url = url }
    until_true(function() return outcome end)
    assert.equal("full waiting", outcome)
    c:close()
  end)

  it("cancels a handler that waits for something else when the peer leaves", function()
    local began
    conversation = function()
      began = true
      task.sleep(10000)
    end
    local c = ws.connect { url = url }
    until_true(function() return began end)
    c:close()
    until_true(function() return ended end)
    assert.equal("cancelled", ended.code)
  end)

  it("serves many at once", function()
    local all = {}
    for i = 1, 50 do
      all[i] = ws.connect { url = url }
      all[i]:send("n" .. i)
    end
    for i = 1, 50 do
      assert.equal("n" .. i, (all[i]:recv(5000)))
      all[i]:close()
    end
    for i = 1, 50 do
      assert.is_nil((all[i]:recv(5000)))
    end
  end)

  it("keeps an idle connection alive by pings, and notices a dead one", function()
    s:close(0)
    listen { ping_ms = 40 }
    local c = ws.connect { url = url }
    task.sleep(300)
    c:send("still there")
    assert.equal("still there", (c:recv(5000)))
    c:close()
  end)

  it("connects over a unix socket, with headers", function()
    local path = "/tmp/nd-spec-" .. crypto.uuid() .. ".sock"
    local seen
    local u = server.listen({ unix = path }, function(req)
      seen = req
      return { upgrade = function(w) w:send(req.headers.authorization) end }
    end)
    local c = ws.connect { unix = path, path = "/ws/x?y=z",
      headers = { Authorization = "Bearer t" } }
    assert.equal("Bearer t", (c:recv(5000)))
    assert.equal("/ws/x", seen.path)
    assert.equal("z", seen.query.y)
    assert.equal("unix", seen.peer.kind)
    c:close()
    u:close(0)
  end)

  it("is refused with the answer's status and body", function()
    local err = raised(ws.connect, { url = url .. "/refused" })
    assert.equal("ws_refused", err.code)
    assert.equal(401, err.data.status)
    assert.equal('{"code":"no_token"}', err.data.body)
  end)

  it("names why it can't connect", function()
    local function code(options)
      options.timeout_ms = 200
      local err = raised(ws.connect, options)
      return type(err) == "table" and err.code or err
    end
    assert.equal("ws_connect", code { url = "ws://127.0.0.1:1/" })
    assert.equal("ws_connect", code { unix = "/nonexistent/s" })
    assert.equal("ws_dns", code { url = "ws://no-such-host.invalid/" })
    for _, options in ipairs { {}, { url = "http://a" }, { url = "ws://" }, { url = "ws://a b" },
      { url = "ws://a:0" }, { unix = "/s", path = "x" }, { url = "ws://a", unix = "/s" },
      { url = "ws://a", headers = { ["a\nb"] = "c" } } } do
      assert.equal("string", type(raised(ws.connect, options)))
    end
  end)

  it("gives up on a server that never answers", function()
    conversation = nil
    local silent = server.listen({ address = "127.0.0.1", port = 0 }, function()
      task.sleep(10000)
    end)
    local _, port = silent:address()
    local err = raised(ws.connect, { url = "ws://127.0.0.1:" .. port, timeout_ms = 50 })
    assert.equal("ws_timeout", err.code)
    silent:close(0)
  end)

  it("can be abandoned while it connects", function()
    local silent = server.listen({ address = "127.0.0.1", port = 0 }, function()
      task.sleep(10000)
    end)
    local _, port = silent:address()
    local t = task.spawn("client", function()
      ws.connect { url = "ws://127.0.0.1:" .. port }
    end)
    task.sleep(20)
    t:cancel()
    assert.equal("cancelled", raised(t.join, t, 1000).code)
    silent:close(0)
  end)

  it("leaves plain requests alone, and asks for version 13", function()
    local base = url:gsub("^ws", "http")
    assert.equal(418, http.request { url = base .. "/" }.status)
    local r = http.request { url = base .. "/", headers = { Connection = "Upgrade",
      Upgrade = "websocket", ["Sec-WebSocket-Version"] = "8",
      ["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ==" } }
    assert.equal(426, r.status)
    assert.equal("13", r.headers["sec-websocket-version"])
  end)
end)
