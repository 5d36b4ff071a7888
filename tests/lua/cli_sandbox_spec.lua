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

  it("says which limit ended it, each by a name and a status of its own", function()
    local bomb = "local t = {} while true do t[#t + 1] = ('x'):rep(1 << 20) .. #t end"
    for _, case in ipairs {
      { 'error("no")', 1, "recipe_error" }, { 'fail("no")', 1, "recipe_failed" }, { "return +", 2, "recipe_syntax" },
      { "docker.pull('x')", 3, "no_daemon" },
      { bomb, 8, "recipe_memory", "--memory", "16m" },
      { ("pcall(function() %s end)"):format(bomb), 8, "recipe_memory", "--memory", "16m" },
      { "while true do end", 9, "recipe_cpu", "--cpu", "1" },
      { "while true do pcall(function() while true do end end) end", 9, "recipe_cpu", "--cpu", "1" },
      { "while true do end", 6, "recipe_timeout", "--timeout", "300ms" },
      { 'time.sleep("60s")', 6, "recipe_timeout", "--timeout", "200ms" },
      { "for _ = 1, 51 do uuid() end", 10, "too_many_effects", "--effects", "50" },
      { "while true do pcall(uuid) end", 10, "too_many_effects" },
      { "for _ = 1, 50 do uuid() end", 0, nil, "--effects", "50" },
      { "for _ = 1, 99 do log(('x'):rep(99)) uuid() end", 11, "too_much_log", "--logs", "4k" },
      { "while true do pcall(log, ('x'):rep(9999)) pcall(uuid) end", 11, "too_much_log" },
    } do
      local r = run(case[1], "--json", table.unpack(case, 4))
      assert.equal(case[2], r.status, case[1] .. ": " .. r.stderr)
      assert.equal(case[3], json.decode(r.stdout).code, case[1])
    end
    for _, name in ipairs { "os", "io", "debug", "package" } do
      assert.equal(1, run("return " .. name .. ".exit()").status)
    end
    assert.equal(2, support.ndctl({ "recipe", "run", dir .. "/file.lua" }).status)
    assert.equal(4, support.ndctl({ "recipe", "run", "--sandbox", dir .. "/nothing.lua" }).status)
  end)
end)
