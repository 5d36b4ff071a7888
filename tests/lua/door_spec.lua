-- door_spec.lua - what a browser sends for a page that isn't the daemon's own is refused, whatever it asks for.

local door = require "nd.api.door"

describe("the door", function()
  local function opens(headers)
    local ok, e = pcall(door.check, { headers = headers })
    if not ok then assert.equal("forbidden", e.code) end
    return ok
  end

  it("is opened for programs, by any address of this machine", function()
    for _, host in ipairs { "127.0.0.1", "127.0.0.1:8371", "localhost:8371", "LocalHost", "[::1]:8371", "[::1]",
      "192.168.1.5:8371", "[fe80::1:2]:80", "[::ffff:127.0.0.1]:8371" } do
      assert.is_true(opens { host = host }, host)
      assert.is_true(opens { host = host, origin = "http://" .. host, ["sec-fetch-site"] = "same-origin" }, host)
      assert.is_true(opens { host = host, ["sec-fetch-site"] = "none" }, host)
    end
  end)

  it("is shut to names, which can be made to mean this machine", function()
    for _, host in ipairs { "evil.example", "evil.example:8371", "127.0.0.1.evil.example",
      "localhost.evil.example:8371", "evil.localhost", "256.0.0.1", "127.0.0.1:8371:1", "127.0.0.1:",
      "127.0.0.1:123456", "[evil]", "[]", "[1234]", "[::1", "::1", "127.0.0.1 evil", "127.0.0.1,evil.example",
      "1.2.3", "0x7f.1", "2130706433", "a@127.0.0.1", "localhost.", ":8371" } do
      assert.is_false(opens { host = host }, host)
      assert.is_false(opens { host = host, origin = "http://" .. host }, host)
    end
  end)

  it("is opened over TLS by any name, which the certificate has to hold, and to pages of that origin", function()
    local function opens_tls(headers) return (pcall(door.check, { headers = headers, tls = true })) end
    assert.is_true(opens_tls { host = "box.example:8371" })
    assert.is_true(opens_tls { host = "box.example:8371", origin = "https://box.example:8371" })
    for _, origin in ipairs { "http://box.example:8371", "https://evil.example", "null", "https://box.example" } do
      assert.is_false(opens_tls { host = "box.example:8371", origin = origin }, origin)
    end
    assert.is_false(opens_tls { host = "box.example:8371", ["sec-fetch-site"] = "cross-site" })
  end)

  it("is shut to pages of other origins", function()
    for _, origin in ipairs { "http://evil.example", "https://127.0.0.1:8371", "http://127.0.0.1",
      "http://127.0.0.1:3000", "http://localhost:8371", "null", "", "http://127.0.0.1:8371/",
      "http://127.0.0.1:8371.evil.example", "http://127.0.0.1:8371, http://evil.example", "chrome-extension://abc" } do
      assert.is_false(opens { host = "127.0.0.1:8371", origin = origin }, origin)
    end
    assert.is_false(opens { origin = "http://" })
  end)

  it("is shut to what a page embeds or links to", function()
    for _, site in ipairs { "cross-site", "same-site", "", "other" } do
      assert.is_false(opens { host = "127.0.0.1:8371", ["sec-fetch-site"] = site }, site)
    end
  end)
end)
