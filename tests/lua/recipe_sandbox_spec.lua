-- What a recipe's Lua offers and withholds, and that it is the same in every process.

local engine = require "tests.lua.lib.engine"
local support = require "tests.lua.recipe_support"
local value, failure, run = support.value, support.failure, support.run

local it_compiles = engine.luajit and it or function() end
local it_is_lua54 = engine.luajit and function() end or it

describe("the Lua of a recipe", function()
  it("has no way outside", function()
    assert.equal("", value [[
      local found = {}
      for _, name in ipairs { "os", "io", "debug", "package", "loadfile", "dofile", "warn" } do
        found[#found + 1] = _G[name] and name
      end
      return table.concat(found, " ")]])
    assert.is_true(value "return string.dump == nil")
  end)

  it("offers just what .luacheckrc tells editors", function()
    local names = value [[
      local names = {}
      for name in pairs(_G) do names[#names + 1] = name end
      return names]]
    local config = {}
    assert(loadfile(os.getenv("ND_SOURCE_DIR") .. "/.luacheckrc", "t",
      setmetatable(config, { __index = function(t, k) t[k] = {} return t[k] end })))()
    local told = {}
    for _, name in ipairs(config.files["recipes/**/*.lua"].read_globals) do
      told[name] = true
    end
    for name in ("_G _VERSION assert collectgarbage coroutine error getmetatable ipairs load math "
      .. "next pairs pcall print rawequal rawget rawlen rawset require select setmetatable string "
      .. "table tonumber tostring type utf8 xpcall"):gmatch("%S+") do
      told[name] = true
    end
    if engine.luajit then
      told.utf8, told.bit = nil, true
    end
    for _, name in ipairs(names) do
      assert.is_true(told[name], name .. " is there but not told")
      told[name] = nil
    end
    assert.same({}, told)
  end)

  it("loads text, never bytecode", function()
    assert.equal(3, value "return load('return 1 + 2')()")
    assert.equal(7, value "return load('return x', 'chunk', 'bt', { x = 7 })()")
    assert.matches(engine.luajit and "wrong mode" or "binary chunk",
      value "return select(2, load('\\27Lua', 'x', 'b'))")
  end)

  it("requires the recipe's own files, JSON and the library, nothing else", function()
    assert.equal(5, value("return require('lib.numbers').five", {
      files = { ["lib/numbers.lua"] = "return { five = 5 }" },
    }))
    assert.equal('{"a":[1,2]}', value "return require('cjson').encode { a = { 1, 2 } }")
    assert.equal("function", value "return type(require('nd.recipe.units').duration)")
    local e = failure "require 'socket'"
    assert.matches("no module \"socket\"", e.message, 1, true)
    assert.matches("requires itself", failure("require 'a'", {
      files = { ["a.lua"] = "require 'a'" },
    }).message)
  end)

  it_is_lua54("is whole where it isn't kept from something", function() -- tests/lua/lua54_spec.lua has Lua's tests
    for _, case in ipairs {
      -- randomseed tells what it used, and takes it again
      "local x, y = math.randomseed() local r = math.random(0) math.randomseed(x, y) return math.random(0) == r",
      -- a mode is heeded
      "local f, e = load('return 1', 'x', 'b') return not f and e:find 'attempt to load a text chunk' ~= nil",
      -- what a reader raises comes back as it was raised
      "local f, e = load(function() error 'no' end) return not f and type(e) == 'string' and e:find 'no' ~= nil",
      "local t = {} local f, e = load(function() error(t) end) return not f and e == t",
      -- messages name the function and the line
      "return select(2, pcall(setmetatable, 1, {})):find(\"bad argument #1 to 'setmetatable'\", 1, true) ~= nil",
      "return select(2, pcall(string.gsub, 's', 's', setmetatable)):find(\"'setmetatable'\", 1, true) ~= nil",
      "local t = setmetatable({}, { __metatable = 1 }) local _, e = pcall(function() setmetatable(t, {}) end)"
        .. " return e:find('^recipe.lua:%d+: cannot change a protected metatable') ~= nil",
      "return select(2, pcall(load, {})):find(\"bad argument #1 to 'load'\", 1, true) ~= nil",
      -- a coroutine that failed says so once more when it is closed
      "local co = coroutine.create(error) coroutine.resume(co, 7) local ok, e = coroutine.close(co)"
        .. " return ok == false and e == 7 and coroutine.close(co)",
      "local main = coroutine.running() "
        .. "local _, e = coroutine.wrap(function() return pcall(coroutine.close, main) end)() "
        .. "return e:find 'normal' ~= nil",
      -- the libraries are modules too
      "return require 'string' == string and require 'math' == math and require 'coroutine' == coroutine",
      -- the end of a traversal is a nil
      "return select('#', next({ 1 }, 1)) == 1 and select('#', next({})) == 1",
    } do
      assert.is_true(value(case), case)
    end
  end)

  it("refuses weak tables and finalizers", function()
    assert.matches("__mode", failure "setmetatable({}, { __mode = 'k' })".message)
    assert.matches("__gc", failure "setmetatable({}, { __gc = print })".message)
    assert.matches("count", failure "collectgarbage('count')".message)
    assert.equal(0, value "return collectgarbage()")
  end)

  it("shows no addresses", function()
    assert.equal("table: 0x00000001 table: 0x00000001 function: 0x00000002 0x00000001 x", value [[
      local t = {}
      return string.format("%s %s %s %p %s", t, tostring(t), function() end, t, "x")]])
    assert.matches("^function: builtin: 0x%x+$", value "return tostring(print and string.rep)")
    assert.equal("(null)", value "return (string.format('%p', 1):gsub('0x00000000', '(null)'))")
    assert.equal("pretty", value [[
      local t = setmetatable({}, { __tostring = function() return "pretty" end })
      return string.format("%s", t)]])
    assert.equal("  7|0x1f|%|\"q\"", value "return string.format('%3d|%#x|%%|%q', 7, 31, 'q')")
  end)

  it("logs what is printed", function()
    local _, r = value "print('a', 1, nil) log('b', 2)"
    assert.same({ "a\t1\tnil", "b 2" }, r.logs)
  end)

  it("survives a recipe that redefines its globals", function()
    assert.equal(1, value [[
      pairs, error, setmetatable, string.format = nil, nil, nil, nil
      return (task.all(function() return 1 end, function() docker.pull("a") end))]])
  end)
end)

describe("pairs and next", function()
  it("give numbers, strings, booleans, then objects as they were made", function()
    assert.equal("-3 1 1.5 2 1e+300 10a a b z false true ", value [[
      local t = { z = 1, b = 1, a = 1, ["10a"] = 1, [2] = 1, [1] = 1, [1.5] = 1, [-3] = 1,
        [true] = 1, [false] = 1, [1e300] = 1 }
      local out = ""
      for k in pairs(t) do out = out .. tostring(k) .. " " end
      return out]])
    assert.equal("first second third ", value [[
      local first, second, third = {}, function() end, coroutine.create(print)
      local names = { [first] = "first", [second] = "second", [third] = "third" }
      local out = ""
      for _, name in pairs(names) do out = out .. name .. " " end
      return out]])
  end)

  it("can change and remove what they visit", function()
    assert.equal("a=1 b=2 c=3 | ", value [[
      local t, out = { a = 1, b = 2, c = 3 }, ""
      for k, v in pairs(t) do
        t[k] = nil
        out = out .. k .. "=" .. v .. " "
      end
      out = out .. "| "
      for k in next, t do out = out .. k end
      return out]])
  end)

  it("skip what was removed before they came to it", function()
    assert.equal("a", value [[
      local t, out = { a = 1, b = 2 }, ""
      for k in pairs(t) do out = out .. k t.b = nil end
      return out]])
  end)

  it("agree with each other, step by step and nested", function()
    assert.is_true(value [[
      local t = {}
      for i = 1, 200 do t["k" .. i * 7919 % 1000] = i end
      local a, b = {}, {}
      for k in pairs(t) do a[#a + 1] = k end
      for k in next, t do
        b[#b + 1] = k
        for _ in next, { x = 1, y = 2, [k] = 3 } do end
      end
      local k, n = next(t), 0
      while k do n = n + 1 k = next(t, k) end
      return table.concat(a) == table.concat(b) and n == #a and next({}) == nil]])
  end)

  it("honour __pairs", function()
    assert.equal(42, value [[
      local t = setmetatable({}, { __pairs = function() return function(_, k)
        if not k then return 42 end end end })
      for k in pairs(t) do return k end]])
  end)
end)

describe("table.sort", function()
  it("keeps equal elements in their order", function()
    assert.equal("a1 c1 e1 b2 d2", value [[
      local t = { { "a", 1 }, { "b", 2 }, { "c", 1 }, { "d", 2 }, { "e", 1 } }
      table.sort(t, function(x, y) return x[2] < y[2] end)
      for i, x in ipairs(t) do t[i] = x[1] .. x[2] end
      return table.concat(t, " ")]])
  end)

  it("sorts numbers, strings and long lists; an order that makes no sense is no error", function()
    assert.equal("1 2 3 10",
      value "local t = { 3, 10, 2, 1 } table.sort(t) return table.concat(t, ' ')")
    assert.is_true(value [[
      local t = {}
      for i = 1, 1000 do t[i] = i * 7919 % 1009 end
      table.sort(t)
      for i = 2, #t do if t[i - 1] > t[i] then return false end end
      table.sort(t, function() return true end)
      return #t == 1000]])
    assert.matches("compare", failure "table.sort { 1, 'a' }".message)
  end)
end)

describe("a run", function()
  local source = [[
    local t, out = {}, {}
    for i = 1, 50 do t[tostring(math.random(1e9))] = { i } end
    for k, v in pairs(t) do out[#out + 1] = k .. tostring(v) end
    math.randomseed()
    out[#out + 1] = math.random()
    out[#out + 1] = tostring(function() end)
    table.sort(out, function(a, b) return #tostring(a) < #tostring(b) end)
    for i, v in ipairs(out) do out[i] = tostring(v) end
    return table.concat(out, ",")]]

  it("does the same in three processes", function()
    local first = value(source)
    assert.equal(first, (value(source)))
    assert.equal(first, (value(source)))
  end)

  -- What runs once is interpreted, and a loop that has gone round a hundred times is compiled.
  it_compiles("computes the same in a loop as in a line that runs once", function()
    assert.equal("", value [[
      local expressions = {
        "a + b", "a - b", "a * b", "a / b", "a % b", "a ^ b", "a ^ 2", "a ^ 0.5", "2 ^ b", "-a", "a % 7", "a / 3",
        "a * 0", "0 - a", "math.floor(a)", "math.ceil(a)", "math.sqrt(a)", "math.abs(a)", "math.log(a)",
        "math.exp(a)", "math.sin(a)", "math.min(a, b)", "math.max(a, b)", "math.max(a, b, 0)", "math.modf(a)",
        "a < b", "a == b", "tostring(a)", "('%.3f'):format(a)", "a .. ''", "tonumber(a .. '')",
        "('x'):rep(b == 2 and 3 or 1) .. a", "(a .. ''):byte(1)", "(a .. ''):sub(2, 3)",
        "select('#', a, b)", "#{ a, b }",
      }
      local A, B = {}, {}
      local special = { 0, -0.0, 1, -1, 2, 0.5, -0.5, 1 / 0, -1 / 0, 0 / 0, 1e308, 5e-324, 2 ^ 31, 2 ^ 53, 7, 10 }
      for _, a in ipairs(special) do
        for _, b in ipairs(special) do
          A[#A + 1], B[#B + 1] = a, b
        end
      end
      for _, a in ipairs { -199834526, -262181624515, -11588126644349 } do
        A[#A + 1], B[#B + 1] = a, 2
      end
      for i = 1, 200 do
        A[#A + 1] = (math.random() - 0.5) * 10 ^ math.random(-5, 20)
        B[#B + 1] = math.floor((math.random() - 0.5) * 1e13)
      end
      local function show(v)
        return type(v) == "number" and (v ~= v and "nan" or ("%a"):format(v)) or tostring(v)
      end
      local wrong = {}
      for _, expression in ipairs(expressions) do
        local text = "local A, B, out = ... for i = 1, #A do local a, b = A[i], B[i] out[i] = ("
          .. expression .. ") end"
        local often, compiled, once = load(text), {}, {}
        for _ = 1, 3 do often(A, B, compiled) end
        for i = 1, #A do
          load(text)({ A[i] }, { B[i] }, once)
          if show(once[1]) ~= show(compiled[i]) then
            wrong[#wrong + 1] = ("%s with %s, %s: %s, but %s"):format(expression, A[i], B[i], show(once[1]),
              show(compiled[i]))
            break
          end
        end
      end
      return table.concat(wrong, "\n")]])
  end)

  it_compiles("makes objects in the same order in a loop as in a line that runs once", function()
    assert.equal("ba ba", value [[
      local function order_after(rounds)
        for i = 1, rounds do
          local a
          local b = { i }
          a = { i }
          if i == rounds then
            local order = ""
            for _, name in pairs { [a] = "a", [b] = "b" } do order = order .. name end
            return order
          end
        end
      end
      return order_after(1) .. " " .. order_after(5000)]])
  end)

  it("has other random numbers with another seed", function()
    assert.are_not.equal((value(source, { seed = 1 })), (value(source, { seed = 2 })))
  end)

  it("ends when it needs more memory than it may, whatever it catches", function()
    local r = run([[return recipe { run = function()
      local t = {}
      while true do pcall(function() for i = 1, 1000 do t[#t + 1] = { i, tostring(i) } end end) end
    end }]], { memory = 16 << 20 })
    assert.equal("recipe_memory", r.result.error.code)
    assert.matches("16 MiB", r.result.error.message)
    assert.same({ status = 80, signal = 0 }, r.status)
    for _, body in ipairs {
      "return #string.rep('x', 1e9)",
      "local t = {} while true do t[#t + 1] = ('x'):rep(1e6) .. #t end",
      "local s = 'x' while true do s = s .. s end",
    } do
      r = run("return recipe { run = function() " .. body .. " end }", { memory = 16 << 20 })
      assert.equal("recipe_memory", r.result.error.code, body)
    end
  end)

  it("may use garbage beyond its memory", function()
    assert.equal("200", value([[
      local n = 0
      for i = 1, 200 do n = n + #string.rep("x", 1e6) / 1e6 end
      return string.format('%d', n)]], { memory = 16 << 20 }))
  end)

  it("that loops for ever is ended by its CPU limit, or by whoever started it", function()
    local loop = "return recipe { run = function() while true do pcall(error) end end }"
    local r = run(loop, { cpu_seconds = 1 })
    assert.is_nil(r.result)
    assert.same({ status = 85, signal = 0 }, r.status)
    local ok, err = pcall(run, loop, { timeout = 200 })
    assert.is_false(ok)
    assert.equal("timeout", err.code)
  end)
end)
