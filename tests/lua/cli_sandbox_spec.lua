-- cli_sandbox_spec.lua - ndctl recipe run --sandbox: a file runs locked in, and its exit status says
-- which limit ended it.

local fs = require "fs"
local json = require "json"
local support = require "tests.lua.cli_support"

describe("ndctl recipe run --sandbox", function()
  local dir

  before_each(function() dir = support.dir() end)
  after_each(function() fs.remove(dir, { recursive = true }) end)

  local function run(source, ...)
    fs.write(dir .. "/file.lua", source)
    return support.ndctl({ "recipe", "run", "--sandbox", dir .. "/file.lua", ... }, { timeout_ms = 60000 })
  end

  it("prints what a chunk prints and returns", function()
    local r = run 'print("hello", 1) log("there") time.sleep("10ms") return { sum = 1 + 1 }'
    assert.equal(0, r.status, r.stderr)
    assert.equal('hello\t1\nthere\n{"sum":2}\n', (r.stdout:gsub("hello  1", "hello\t1")))
    r = run("return recipe { params = {}, run = function(p) return p.who end }", "--param", "who=me", "--json")
    assert.equal("me", json.decode(r.stdout).value)
  end)

  it("says which limit ended it", function()
    for source, status in pairs {
      ['error("no")'] = 1, ['fail("no")'] = 1, ["return +"] = 2, ["docker.pull('x')"] = 3,
      ["while true do end"] = 6, ["pcall(function() while true do end end)"] = 6,
      ["local t = {} while true do t[#t + 1] = ('x'):rep(1 << 20) .. #t end"] = 8,
    } do
      local r = run(source, "--cpu", "1", "--memory", "16m")
      assert.equal(status, r.status, source .. ": " .. r.stderr)
      assert.equal("", r.stdout)
    end
    local r = run('time.sleep("60s")', "--timeout", "200ms")
    assert.equal(6, r.status, r.stderr)
    for _, name in ipairs { "os", "io", "debug", "package" } do
      assert.equal(1, run("return " .. name .. ".exit()").status)
    end
    assert.equal(2, support.ndctl({ "recipe", "run", dir .. "/file.lua" }).status)
    assert.equal(4, support.ndctl({ "recipe", "run", "--sandbox", dir .. "/nothing.lua" }).status)
  end)
end)
