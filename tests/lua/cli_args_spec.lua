-- cli_args_spec.lua - the command line is read as it is written, and mistakes are named.

package.loaded.term = package.loaded.term or {
  isatty = function() return false end, size = function() end, version = "0",
}

local args = require "ndctl.lib.args"

local row = {
  name = "try", path = "try",
  args = { { "image", optional = true } },
  options = {
    { "app", short = "a" },
    { "env-var", short = "e", type = "map" },
    { "port", type = "int", least = 1, most = 65535 },
    { "drain", type = "duration" },
    { "tls", type = "choice", choices = { "auto", "off" } },
    { "wait", type = "flag", negatable = true, default = true },
    { "follow", short = "f", type = "flag" },
    { "tag", type = "list" },
  },
}

local function usage_error(words, of)
  local ok, err = pcall(args.parse, of or row, words)
  assert.is_false(ok)
  assert.equal("usage", err.code)
  return err
end

describe("the command line", function()
  it("takes options before, between and after the arguments", function()
    local o, a = args.parse(row, { "--app", "web", "img:v1", "-e", "A=1", "-eB=x=y", "--json" })
    assert.equal("web", o.app)
    assert.same({ A = "1", B = "x=y" }, o.env_var)
    assert.equal("img:v1", a.image)
    assert.is_true(o.json)
    assert.is_true(o.wait)
  end)

  it("takes --name=value, short options together, and --no-", function()
    local o = args.parse(row, { "--port=80", "-qfa", "web", "--no-wait", "--tag=a", "--tag", "b" })
    assert.equal(80, o.port)
    assert.is_true(o.quiet)
    assert.is_true(o.follow)
    assert.equal("web", o.app)
    assert.is_false(o.wait)
    assert.same({ "a", "b" }, o.tag)
  end)

  it("ends options at --", function()
    local _, a = args.parse(row, { "--", "--odd" })
    assert.equal("--odd", a.image)
  end)

  it("names the nearest option to an unknown one", function()
    local err = usage_error { "--prot", "80" }
    assert.equal("unknown option --prot of ndctl try", err.message)
    assert.equal("did you mean --port?", err.hint)
    usage_error { "-x" }
  end)

  it("refuses values of the wrong type", function()
    assert.matches("whole number", usage_error({ "--port", "http" }).message)
    assert.matches("from 1 to 65535", usage_error({ "--port", "0" }).message)
    assert.matches("duration", usage_error({ "--drain", "5" }).message)
    assert.matches("one of auto, off", usage_error({ "--tls", "of" }).message)
    assert.equal("did you mean off?", usage_error({ "--tls", "of" }).hint)
    assert.matches("NAME=VALUE", usage_error({ "-e", "A" }).message)
    assert.matches("takes no value", usage_error({ "--follow=1" }).message)
    assert.matches("is empty", usage_error({ "--app", "" }).message)
  end)

  it("says what is missing or too much", function()
    assert.matches("needs a value", usage_error({ "--app" }).message)
    assert.matches("needs a value", usage_error({ "--app", "--json" }).message)
    assert.matches("one argument too many", usage_error({ "a", "b" }).message)
    local strict = { name = "s", path = "s", args = { { "app" } },
      options = { { "name", required = true } } }
    assert.matches("APP is missing", usage_error({ "--name", "x" }, strict).message)
    assert.matches("%-%-name is missing", usage_error({ "web" }, strict).message)
  end)

  it("keeps a recipe's parameters apart from options", function()
    local free = { name = "recipe", path = "run recipe", free = "params", args = { { "recipe" } },
      options = { { "app" } } }
    local o, a = args.parse(free, { "bluegreen", "--app", "web", "--image", "x:1", "--drain=5s",
      "--force", "--json" })
    assert.equal("bluegreen", a.recipe)
    assert.same({ image = "x:1", drain = "5s", force = true }, o.params)
    assert.equal("web", o.app)
    assert.is_true(o.json)
  end)

  it("gives help whatever else is missing", function()
    local o = args.parse({ name = "s", path = "s", args = { { "app" } } }, { "-h" })
    assert.is_true(o.help)
  end)
end)

describe("every command", function()
  local commands = require "ndctl.lib.commands"
  local help = require "ndctl.help"

  -- Splits a line of a shell; words with blanks are in double quotes.
  local function words_of(line)
    local words = {}
    local plain = line:gsub('"([^"]*)"', function(word) return (word:gsub(" ", "\1")) end)
    for word in plain:gmatch("%S+") do words[#words + 1] = word:gsub("\1", " ") end
    return words
  end

  it("has a summary, examples that parse, and a help text that fits", function()
    local count = 0
    commands.each(function(command)
      count = count + 1
      assert.truthy(command.summary, command.path)
      assert.is_true(#command.examples > 0, command.path .. " has no example")
      assert.is_true(command.run ~= nil or command.commands ~= nil, command.path)
      for _, example in ipairs(command.examples) do
        local words = words_of(example[1])
        assert.equal("ndctl", words[1])
        local top = commands.get(words[2])
        local child = top.commands and commands.child(top, words[3] or "")
        local found = help.find { words[2], (child or not top.run) and top.commands and words[3] or nil }
        local first = found.path:find(" ") and 4 or 3
        args.parse(found, table.move(words, first, #words, 1, {}))
      end
      for _, line in ipairs(help.of(command)) do
        assert.is_true(#line <= 100, ("%s: %s"):format(command.path, line))
      end
    end)
    assert.is_true(count > 20)
    assert.is_true(#help.overview() > 20)
  end)

  it("spells its options once", function()
    commands.each(function(command)
      local seen = {}
      for _, list in ipairs { args.globals, command.options or {} } do
        for _, option in ipairs(list) do
          assert.is_nil(seen[option[1]], command.path .. " --" .. option[1])
          seen[option[1]] = true
          if option.short then
            assert.is_nil(seen["-" .. option.short], command.path .. " -" .. option.short)
            seen["-" .. option.short] = true
          end
        end
      end
    end)
  end)

  it("is found by a near name", function()
    local ok, err = pcall(help.find, { "statsu" })
    assert.is_false(ok)
    assert.equal("did you mean ndctl status?", err.hint)
    ok, err = pcall(help.find, { "runs", "wacth" })
    assert.is_false(ok)
    assert.equal("did you mean ndctl runs watch?", err.hint)
  end)
end)
