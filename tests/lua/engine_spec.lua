-- engine = "luajit": how a recipe's text is read for it, what runs it then, and what else may happen.

local clock = require "clock"
local fs = require "fs"
local json = require "json"
local engine = require "nd.engine"
local spec = require "tests.lua.lib.spec"
local support = require "tests.lua.cli_support"

local is_there = fs.exists(os.getenv "ND_BIN_DIR" .. "/nd-worker-luajit")
local it_compiles = is_there and it or function() end

describe("a recipe's engine", function()
  local function start(source, options)
    local w <close> = engine.start(source, options or {}, { type = "start", run = "r",
      files = { ["recipe.lua"] = source }, entry = "recipe.lua", params = {}, seed = 1, mode = "run" })
    local frame = w:recv(5000)
    if frame.type == "header" then
      return frame.recipe.engine, w:recv(5000).value
    end
    return frame.error.code, frame.error.message
  end

  it("is read from the recipe's text, and not from comments", function()
    for text, wanted in pairs {
      ['return recipe { engine = "luajit", run = print }'] = "luajit",
      ["return recipe {\n  run = print,\n  engine='luajit',\n}"] = "luajit",
      ["return recipe { run = print }"] = "lua",
      ['return recipe { engine = "lua", run = print }'] = "lua",
      ['-- engine = "luajit"\nreturn recipe { run = print }'] = "lua",
      ['-- luajit is fast\nreturn recipe {\n  engine = "luajit", -- luajit\n}'] = "luajit",
      ['return recipe { doc = "no luajit", run = print }'] = "lua",
      ['local my_engine = "luajit" return recipe { run = print }'] = "lua",
    } do
      assert.equal(wanted, engine.of(text), text)
    end
  end)

  it("is Lua 5.4 unless it says otherwise", function()
    local name, value = start "return recipe { run = function() return 7 // 2 end }"
    assert.same({ "lua", 3 }, { name, value })
  end)

  it("that there isn't is named, with the nearest that there is", function()
    local code, message = start 'return recipe { engine = "luajti", run = print }'
    assert.equal("bad_recipe", code)
    assert.matches('not "luajti" (did you mean "luajit"?)', message, 1, true)
  end)

  it("is soon read from any text", function()
    for _, text in ipairs { "luajit", "engine ", "engine=", "--[[", "--[==[luajit]=]", "engine = 'luajit\n", "\n" } do
      local began = clock.monotonic()
      assert.equal("lua", engine.of(text:rep(1000000 // #text)))
      assert.is_true(clock.monotonic() - began < 500, text)
    end
  end)

  it("that only running the recipe would tell is refused", function()
    local code, message = start 'return recipe { engine = "lua" .. "jit", run = print }'
    assert.equal("bad_recipe", code)
    assert.matches('let recipe.lua have the line engine = "luajit"', message, 1, true)
    if is_there then
      code, message = start '--[[\n engine = "luajit"\n]] return recipe { run = print }'
      assert.equal("bad_recipe", code)
      assert.matches("the recipe's engine is lua, but its text reads as if it were luajit", message, 1, true)
    end
  end)

  it("that was not built is an error that says what to do", function()
    local e = spec.raised(start, 'return recipe { engine = "luajit" }', { path = "/nonexistent/nd-worker" })
    assert.equal("engine_missing", e.code)
    assert.matches("DND_LUAJIT=ON", e.hint, 1, true)
  end)

  it_compiles("luajit runs it where it says so, also what Lua 5.4 couldn't load", function()
    local name, value = start [[
      local wide = bit.bor(1, 2)
      return recipe { engine = "luajit", run = function() return { _VERSION, wide } end }]]
    assert.equal("luajit", name)
    assert.same({ "Lua 5.1", 3 }, { value[1], value[2] })
    local code, message = start 'return recipe { engine = "luajit", run = function() return 7 // 2 end }'
    assert.equal("recipe_syntax", code)
    assert.matches("recipe.lua:1:", message, 1, true)
  end)

  it_compiles("luajit sends whole numbers as Lua 5.4 does", function()
    local _, value = start [[return recipe { engine = "luajit", run = function()
      return { 1, 3 / 3, 0.5, -7, 2 ^ 31, 2 ^ 53, -0.0, 1e300, json.decode("[3,3.0]")[2] }
    end }]]
    assert.equal("[1,1,0.5,-7,2147483648,9007199254740992,0,1e+300,3]", json.encode(value))
  end)

  it_compiles("luajit is obeyed by ndctl recipe run --sandbox and ndctl recipe test", function()
    local dir = support.dir()
    fs.write(dir .. "/recipe.lua", [[
      return recipe {
        engine = "luajit",
        params = { app = param.app { required = true } },
        run = function(p) return _VERSION .. (p.app or "") end,
      }]])
    local r = support.ndctl { "recipe", "run", "--sandbox", dir .. "/recipe.lua" }
    assert.equal("Lua 5.1\n", r.stdout, r.stderr)
    fs.write(dir .. "/endless.lua", 'return recipe { engine = "luajit", run = function() while true do end end }')
    r = support.ndctl({ "recipe", "run", "--sandbox", dir .. "/endless.lua", "--cpu", "1" }, { timeout_ms = 60000 })
    assert.equal(9, r.status, r.stderr)
    fs.write(dir .. "/recipe.lua", fs.read(os.getenv "ND_SOURCE_DIR" .. "/recipes/bluegreen/recipe.lua")
      :gsub("return recipe {", 'return recipe {\n  engine = "luajit",'))
    r = support.ndctl({ "recipe", "test", dir, "--runs", "60" }, { timeout_ms = 60000 })
    assert.equal(0, r.status, r.stderr .. r.stdout)
    fs.remove(dir, { recursive = true })
  end)
end)
