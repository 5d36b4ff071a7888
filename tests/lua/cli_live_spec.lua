-- cli_live_spec.lua - a run is shown as it happens, on a terminal and off it.

local livelib = require "ndctl.lib.live"

-- A display whose clock stands still and whose output is collected.
local function display(options)
  local d = { now = 0, written = {} }
  d.live = livelib.new {
    tty = options.tty, utf8 = options.utf8, paint = options.paint,
    now = function() return d.now end,
    width = function() return options.columns or 60, options.rows or 24 end,
    write = function(s) d.written[#d.written + 1] = s end,
  }
  function d.take()
    local s = table.concat(d.written)
    d.written = {}
    return s
  end
  function d.event(kind, data) return d.live:frame { kind = kind, data = data } end
  return d
end

describe("a run off a terminal", function()
  it("is a line a step, in ASCII, without control characters", function()
    local d = display {}
    d.event("effect.asked", { n = 1, name = "docker.pull", label = "pull web:v2" })
    d.live:tick()
    assert.equal("", d.take())
    d.event("effect.answered", { n = 1, ok = true, ms = 1234 })
    d.event("effect.asked", { n = 2, name = "health.wait", label = "wait\27[2J until healthy" })
    d.event("effect.answered", { n = 2, ok = false, ms = 60000,
      error = { code = "unhealthy", message = "never answered" } })
    d.event("run.undo", { label = "remove release 2", ok = true })
    d.event("run.log", { text = "hello" })
    assert.is_true(d.event("run.ended", { state = "failed" }))
    d.live:stop()
    assert.equal(table.concat({
      "ok       1.2s  pull web:v2",
      "failed  1m00s  wait until healthy: never answered",
      "undone         remove release 2",
      "log            hello",
      "",
    }, "\n"), d.take())
  end)

  it("says every ten seconds that a step lasts", function()
    local d = display {}
    d.event("effect.asked", { n = 1, name = "docker.pull", label = "pull web:v2" })
    d.event("effect.progress", { n = 1, text = "3 of 7 layers", done = 1, total = 4 })
    d.now = 9000
    d.live:tick()
    assert.equal("", d.take())
    d.now = 10500
    d.live:tick()
    assert.equal("...     10.5s  pull web:v2  3 of 7 layers  25%\n", d.take())
    d.now = 12000
    d.live:tick()
    assert.equal("", d.take())
  end)

  it("leaves out the steps that only keep the books", function()
    local d = display {}
    d.event("effect.asked", { n = 1, name = "time.now", label = "now" })
    d.event("effect.answered", { n = 1, ok = true, ms = 0 })
    d.event("effect.asked", { n = 2, name = "app.live", label = "" })
    d.event("effect.answered", { n = 2, ok = true, ms = 0 })
    d.live:stop()
    assert.equal("", d.take())
  end)

  it("tells a step once, however often it is heard of", function()
    local d = display {}
    d.event("effect.asked", { n = 1, name = "docker.pull", label = "pull" })
    local run = { effects = { { n = 1, name = "docker.pull", label = "pull", state = "answered",
      ok = true, asked_at = "2026-01-01T00:00:00.000Z",
      answered_at = "2026-01-01T00:00:02.500Z" } } }
    d.live:sync(run, 0)
    d.event("effect.answered", { n = 1, label = "pull", ok = true, ms = 2500 })
    d.live:sync(run, 0)
    assert.equal("ok       2.5s  pull\n", d.take())
  end)
end)

describe("a run on a terminal", function()
  it("redraws the steps in progress and scrolls up the finished ones", function()
    local d = display { tty = true }
    d.event("effect.asked", { n = 1, name = "docker.pull", label = "pull web:v2" })
    d.now = 500
    d.live:draw()
    assert.equal("  |   0.5s  pull web:v2\n", d.take())
    d.event("effect.asked", { n = 2, name = "app.start", label = "start" })
    d.event("effect.answered", { n = 1, ok = true, ms = 700 })
    d.now = 700
    d.live:draw()
    assert.equal("\r\27[1A\27[J  +   0.7s  pull web:v2\n  |   0.2s  start\n", d.take())
    d.live:set_state("the daemon doesn't answer, trying again")
    assert.equal("\r\27[1A\27[J  |   0.2s  start\n"
      .. "  |   0.0s  the daemon doesn't answer, trying again\n", d.take())
    d.live:stop()
    assert.equal("\r\27[2A\27[J", d.take())
  end)

  it("never writes a line that the terminal would wrap, nor more than fit", function()
    local d = display { tty = true, utf8 = true, columns = 40, rows = 5 }
    for n = 1, 9 do
      d.event("effect.asked", { n = n, name = "x", label = ("a long label "):rep(9) })
    end
    d.live:draw()
    local lines = 0
    for line in d.take():gmatch("([^\n]*)\n") do
      lines = lines + 1
      assert.is_true(utf8.len(line) <= 40, line)
    end
    assert.equal(3, lines)
  end)

  it("has marks in UTF-8 and colours where they are wanted", function()
    local d = display { tty = true, utf8 = true,
      paint = function(s, colour) return "<" .. colour .. s .. ">" end }
    d.event("effect.answered", { n = 1, label = "pull", ok = true, ms = 100 })
    d.event("effect.answered", { n = 2, label = "start", ok = false, ms = 100,
      error = { code = "cancelled", message = "cancelled" } })
    d.live:stop()
    assert.equal("  <green✓>   0.1s  pull\n  <dim–>   0.1s  start\n", d.take())
  end)
end)
