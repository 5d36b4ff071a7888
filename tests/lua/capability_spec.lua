-- capability_spec.lua - what a recipe says that it needs, and what it is refused.

local capability = require "nd.effect.capability"
local effects = require "nd.effect"

describe("a recipe's needs", function()
  local function refused(needs, name, ...)
    local ok, e = pcall(capability.check, capability.read(needs), effects.find(name), { ... })
    return not ok and e.code or nil, e
  end

  local function get(needs, url) return refused(needs, "http.request", { url = url }) end

  it("are its app and images, where it says nothing", function()
    assert.is_nil(refused(nil, "app.start", "web", { id = "x" }))
    assert.is_nil(refused(nil, "docker.pull", "web:v1"))
    assert.is_nil(refused(nil, "time.sleep", 1))
    assert.equal("capability", (get(nil, "http://a.example")))
  end)

  it("are what it says and time, where it says something", function()
    assert.equal("capability", (refused({ "http" }, "app.live", "web")))
    assert.equal("capability", (refused({}, "docker.pull", "web:v1")))
    assert.equal("capability", (refused({ "docker" }, "health.wait", { release = 1 })))
    assert.is_nil(refused({ "app" }, "app.live", "web"))
    assert.is_nil(refused({}, "time.now"))
    assert.is_nil(refused({}, "task.cancel", {}))
  end)

  it("name the hosts that it may ask", function()
    local needs = { "http:hooks.example.com", "http:10.0.0.1:8080" }
    for _, url in ipairs { "http://hooks.example.com", "https://HOOKS.example.com/x?y", "http://hooks.example.com:99/",
      "http://10.0.0.1:8080/" } do
      assert.is_nil(get(needs, url), url)
    end
    for _, url in ipairs { "http://example.com", "http://hooks.example.com.evil.org",
      "http://evil.org/hooks.example.com",
      "http://hooks.example.com@evil.org/", "http://evil.org?hooks.example.com", "http://evil.org#@hooks.example.com",
      "http://hooks.example.com\\@evil.org", "http://10.0.0.1/", "http://10.0.0.1:80801/", "ftp://hooks.example.com",
      "http:///hooks.example.com", "", "http://user:pass@hooks.example.com/" } do
      assert.equal("capability", (get(needs, url)), url)
    end
    assert.equal("capability", (refused(needs, "http.request", "http://hooks.example.com")))
    assert.is_nil(get({ "http" }, "http://anywhere.example:1/"))
  end)

  it("are told by the error", function()
    local _, e = get({ "app" }, "https://hooks.example.com/deploys")
    assert.matches('"http:hooks.example.com"', e.hint, 1, true)
  end)

  it("have to be known", function()
    for _, needs in ipairs { { "root" }, { "http:" }, { "http://a" }, { "http:a/b" }, { "http:a:b" }, { 5 }, "docker",
      { docker = true } } do
      local ok, e = pcall(capability.read, needs)
      assert.is_false(ok)
      assert.equal("bad_recipe", e.code)
    end
  end)
end)
