-- Tasks: how trusted Lua waits, is cancelled, and passes values on.
local task = require "task"
local json = require "json"

describe("task", function()
  it("runs others while one sleeps", function()
    local order = {}
    local slow = task.spawn("slow", function() task.sleep(20) order[#order + 1] = "slow" end)
    local fast = task.spawn("fast", function() order[#order + 1] = "fast" end)
    slow:join()
    fast:join()
    assert.same({ "fast", "slow" }, order)
  end)

  it("hands results and errors to whoever joins", function()
    assert.same({ 1, nil, 3 }, { task.spawn("t", function() return 1, nil, 3 end):join() })
    local bad = task.spawn("bad", function() error(task.error { code = "x", message = "no" }) end)
    local ok, e = pcall(bad.join, bad)
    assert.is_false(ok)
    assert.equal("x", e.code)
    assert.matches("no %(x%)", tostring(e))
  end)

  it("raises `cancelled` where a task waits, and lets its clean-up wait", function()
    local seen = {}
    local t = task.spawn("t", function()
      local guard <close> = setmetatable({}, { __close = function()
        task.sleep(5)
        seen[#seen + 1] = "closed"
      end })
      local ok, e = pcall(task.sleep, 60000)
      seen[#seen + 1] = ok == false and e.code
      task.sleep(1)
      return guard and "done"
    end)
    task.sleep(1)
    t:cancel()
    assert.equal("done", t:join())
    assert.same({ "cancelled", "closed" }, seen)
  end)

  it("never starts a task that was cancelled before its first turn", function()
    local ran = false
    local t = task.spawn("t", function() ran = true end)
    t:cancel()
    assert.is_false(pcall(t.join, t))
    assert.is_false(ran)
  end)

  it("wakes all who wait for a signal, or says that none came", function()
    local s, woken = task.signal(), 0
    local a = task.spawn("a", function() if s:wait() then woken = woken + 1 end end)
    local b = task.spawn("b", function() if s:wait(1000) then woken = woken + 1 end end)
    task.sleep(1)
    s:notify()
    a:join() b:join()
    assert.equal(2, woken)
    assert.is_false(s:wait(5))
  end)

  it("gives up joining after a time-out", function()
    local t = task.spawn("long", function() task.sleep(60000) end)
    local ok, e = pcall(t.join, t, 5)
    assert.is_false(ok)
    assert.equal("timeout", e.code)
    t:cancel()
    t:wait()
    assert.is_false(t:alive())
  end)

  it("ends a task that holds the loop", function()
    local t = task.spawn("hog", function() while true do end end)
    local ok, e = pcall(t.join, t)
    assert.is_false(ok)
    assert.matches("held the loop", tostring(e))
  end)

  it("ends none that was slow and then waited", function()
    local t = task.spawn("slow", function()
      for _ = 1, 3 do
        local till = os.clock() + 0.4
        while os.clock() < till do end
        task.sleep(1)
      end
      return "done"
    end)
    assert.equal("done", t:join())
  end)

  it("keeps nothing of a task for the next one", function()
    for n = 1, 50 do
      local t = task.spawn("t" .. n, function(...)
        task.sleep(0)
        return select("#", ...), ...
      end, n)
      assert.same({ 1, n }, { t:join() })
      local failing = task.spawn("f" .. n, function() error { code = "no" .. n } end)
      local _, e = pcall(failing.join, failing)
      assert.equal("no" .. n, e.code)
    end
  end)
end)

describe("json", function()
  it("keeps integers, empty arrays and the order of names", function()
    local text = '{"a":[],"b":{},"c":9007199254740993,"d":1.5,"e":[1,null,"x"],"f":1.0}'
    assert.equal(text, json.encode(json.decode(text)))
    assert.equal("integer", math.type(json.decode("[1]")[1]))
  end)

  it("refuses what RFC 8259 refuses, and duplicate names", function()
    for _, bad in ipairs { '{"a":1,"a":2}', "[1,]", "{a:1}", "", "[01]", "nul", ("["):rep(100) } do
      local ok, e = pcall(json.decode, bad)
      assert.is_false(ok, bad)
      assert.equal("bad_json", e.code)
    end
  end)

  it("drops null members, writes bytes that aren't UTF-8 as U+FFFD", function()
    assert.is_nil(json.decode('{"a":null}').a)
    assert.equal('"a\u{fffd}b"', json.encode("a\xffb"))
    assert.equal('"\\u0001\\"\\\\\\n"', json.encode("\1\"\\\n"))
  end)

  it("writes a text that is JSON already as it is", function()
    assert.equal('{"a":{"b": 1},"c":[2]}', json.encode { a = json.raw '{"b": 1}', c = { json.raw "2" } })
  end)

  it("sorts the names of objects of any size", function()
    local t, names = {}, {}
    for n = 1, 100 do
      t[("k%03d"):format(n * 37 % 101)] = n
    end
    for name in json.encode(t):gmatch '"(k%d+)"' do names[#names + 1] = name end
    local sorted = table.move(names, 1, #names, 1, {})
    table.sort(sorted)
    assert.equal(100, #names)
    assert.same(sorted, names)
  end)

  it("refuses cycles, functions and infinities", function()
    local t = {}
    t.t = t
    for _, bad in ipairs { t, { f = print }, { n = 1 / 0 }, { [true] = 1 } } do
      assert.is_false(pcall(json.encode, bad))
    end
  end)
end)
