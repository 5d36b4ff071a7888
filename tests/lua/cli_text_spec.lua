-- cli_text_spec.lua - what ndctl writes for people is right, and harmless to a terminal.

local tables = require "ndctl.lib.table"
local text = require "ndctl.lib.text"

describe("ndctl's texts", function()
  it("carry no control characters of strangers to the terminal", function()
    assert.equal("ab", text.clean("a\27[2Jb"))
    assert.equal("title", text.clean("\27]0;evil\7title"))
    assert.equal("xy", text.clean("x\r\ny\27["))
    assert.equal("é!", text.clean("é\xc2\x9b!"))
    assert.equal("\27[31mred\27[0m", text.clean_keeping_colour("\27[31mred\27[2J"))
    assert.equal("a\tb", text.clean_keeping_colour("a\tb\8"))
  end)

  it("are cut to the terminal's columns, wide characters included", function()
    assert.equal("abcd…", text.fit("abcdefgh", 5))
    assert.equal("ab...", text.fit("abcdefgh", 5, true))
    assert.equal("日…", text.fit("日本語", 4))
    assert.equal("abc", text.fit("abc", 3))
    assert.equal(6, text.width("日本語"))
    assert.equal(2, text.width("\xff\xfe"))
  end)

  it("say durations and ages as a person would", function()
    assert.equal("0.3s", text.duration(300))
    assert.equal("59.9s", text.duration(59900))
    assert.equal("1m00s", text.duration(59960))
    assert.equal("3m05s", text.duration(185000))
    assert.equal("2h10m", text.duration(7800000))
    local now = text.parse_time("2026-01-31T12:00:00Z")
    assert.equal("just now", text.ago(now - 10, now))
    assert.equal("40s ago", text.ago(now - 40000, now))
    assert.equal("5m ago", text.ago("2026-01-31T11:55:00Z", now))
    assert.equal("in 5m", text.ago("2026-01-31T12:05:00.000Z", now))
    assert.equal("-", text.ago(nil, now))
  end)

  it("read RFC 3339 with fractions and zones", function()
    assert.equal(0, text.parse_time("1970-01-01T00:00:00Z"))
    assert.equal(951827696789, text.parse_time("2000-02-29T12:34:56.789Z"))
    assert.equal(text.parse_time("2026-03-01T00:00:00Z"),
      text.parse_time("2026-03-01T02:00:00+02:00"))
    assert.is_nil(text.parse_time("yesterday"))
  end)

  it("read durations", function()
    assert.equal(5400000, text.parse_duration("1h30m"))
    assert.equal(500, text.parse_duration("500ms"))
    assert.is_nil(text.parse_duration("5"))
    assert.is_nil(text.parse_duration(""))
    assert.is_nil(text.parse_duration("5 m"))
  end)

  it("find the name that was meant", function()
    assert.equal("deploy", text.nearest("delpoy", { "destroy", "deploy", "stop" }))
    assert.equal("--image", text.nearest("--imge", { "--app", "--image" }))
    assert.is_nil(text.nearest("xyzzy", { "deploy", "stop" }))
  end)

  it("align tables and leave gaps visible", function()
    assert.same({
      "APP   N",
      "web  12",
      "a-b   -",
    }, tables.render({ { "APP", "app" }, { "N", "n", right = true } },
      { { app = "web", n = 12 }, { app = "a-b" } }))
  end)
end)
