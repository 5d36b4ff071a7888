-- Parameters: what a recipe declares, what it gets, and what a person reads who got one wrong.

local support = require "tests.lua.recipe_support"

local function with(declared, given, body)
  local source = "return recipe { params = { %s }, run = function(p) %s end }"
  return support.run(source:format(declared, body or "return p"), { params = given })
end

local function value(declared, given, body)
  local run = with(declared, given, body)
  assert.equal("done", run.result.type, run.result.error and run.result.error.message)
  return run.result.value
end

local function problem(declared, given)
  local run = with(declared, given)
  assert.equal("failed", run.result.type)
  assert.equal("bad_params", run.result.error.code)
  assert.is_nil(run.header)
  return run.result.error.message, run.result.error
end

describe("parameters", function()
  it("are told in the header, in the order in which they were written", function()
    local run = support.run([[return recipe { summary = "s", needs = { "docker" },
      params = {
        zebra = param.app { required = true, doc = "which" },
        apple = param.duration "30s",
        mango = param.choice { "a", "b", default = "a" },
      }, run = print }]], { mode = "header" })
    assert.equal("s", run.header.summary)
    assert.equal("docker", run.header.needs[1])
    local names = {}
    for i, p in ipairs(run.header.params) do
      names[i] = p.name .. ":" .. p.type
    end
    assert.equal("zebra:app apple:duration mango:choice", table.concat(names, " "))
    assert.is_true(run.header.params[1].required)
    assert.equal("which", run.header.params[1].doc)
    assert.equal("30s", run.header.params[2].default)
    assert.equal("b", run.header.params[3].choices[2])
    assert.is_nil(run.result)
    assert.equal(0, run.status.status)
  end)

  it("are durations in seconds and sizes in bytes, however they are written", function()
    assert.same({ a = 5400, b = 0.25, c = 7, d = 90, e = 536870912, f = 2000000000, g = 12 },
      value("a = param.duration '1h30m', b = param.duration '250ms', c = param.duration(7), "
        .. "d = param.duration {}, e = param.size '512MiB', f = param.size '2GB', "
        .. "g = param.size(12)", { d = "90" }))
  end)

  it("can be given as text, as from the command line", function()
    local v = value("i = param.integer(1), b = param.boolean(true), n = param.number(1), "
      .. "l = param.list {}, h = param.health {}", {
      i = "5", b = "no", n = "1.5", l = "a,b", h = "/healthz",
    })
    assert.equal(5, v.i)
    assert.is_false(v.b)
    assert.equal(1.5, v.n)
    assert.same({ "a", "b" }, { v.l[1], v.l[2] })
    assert.equal("/healthz", v.h.path)
  end)

  it("of health take the default's fields directly, and leave out what isn't given", function()
    local v = value("h = param.health { path = '/', interval = '1s', deadline = '60s' }", {})
    assert.same({ path = "/", interval = 1, deadline = 60 }, v.h)
    assert.is_nil(value("h = param.health { doc = 'x' }", {}).h)
    assert.same({ "true", "5" }, value("h = param.health {}", { h = { command = { "true", "5" } } },
      "return p.h.command"))
  end)

  it("that are missing, wrong or unknown are named with what is expected", function()
    assert.equal('the parameter "app" is missing: the name of an app (lower-case letters, digits '
      .. 'and dashes)', problem("app = param.app { required = true }", {}))
    assert.equal('the parameter "d" is "soon", but should be a duration such as "30s", "5m" or '
      .. '"1h30m"', problem("d = param.duration '5s'", { d = "soon" }))
    assert.equal('the parameter "n" is 11, but should be an integer from 1 to 10',
      problem("n = param.integer { default = 1, min = 1, max = 10 }", { n = 11 }))
    assert.equal('the parameter "c" is "gren", but should be one of "blue", "green" '
      .. '(did you mean "green"?)', problem("c = param.choice { 'blue', 'green' }", { c = "gren" }))
    local message, e = problem("health = param.health {}, settle = param.duration '0s'",
      { helth = 1 })
    assert.equal('there is no parameter "helth" (did you mean "health"?)', message)
    assert.equal("the recipe takes: health, settle", e.hint)
    assert.matches('without the field "intervall" %(did you mean "interval"%?%)',
      problem("h = param.health {}", { h = { intervall = 1 } }))
    assert.matches("only one of path, tcp, command and up",
      problem("h = param.health {}", { h = { path = "/", tcp = true } }))
  end)

  it("are all complained about at once", function()
    local _, e = problem("a = param.app { required = true }, b = param.boolean(false)",
      { b = "maybe", c = 1 })
    assert.equal(3, #e.data.problems)
  end)

  it("that are declared wrongly make the recipe wrong", function()
    local function wrong(declared)
      local e = with(declared, {}).result.error
      assert.equal("bad_recipe", e.code)
      return e.message
    end
    assert.matches('has no option "requird" %(did you mean "required"%?%)',
      wrong("a = param.app { requird = true }"))
    assert.matches('its default is "soon"', wrong("a = param.duration 'soon'"))
    assert.matches("needs its choices", wrong("a = param.choice {}"))
    assert.matches('"a" isn\'t declared', wrong("a = 5"))
  end)
end)
