-- cli_offline_spec.lua - ndctl without a daemon: help, versions, usage errors, the prompt.

local fs = require "fs"
local process = require "process"

local bin = os.getenv("ND_BIN_DIR") .. "/ndctl"

local function run(words, options)
  options = options or {}
  local argv = { bin, table.unpack(words) }
  return process.run { argv = argv, cwd = options.cwd, stdin = options.stdin,
    env = options.env or { LANG = "C" }, timeout_ms = 20000 }
end

local function temporary()
  local dir = os.tmpname()
  os.remove(dir)
  fs.mkdir(dir, 448)
  return dir
end

describe("ndctl without a daemon", function()
  it("prints its version", function()
    local r = run { "version" }
    assert.equal(0, r.status)
    assert.matches("^ndctl %d+%.%d+%.%d+\n$", r.stdout)
    assert.equal(r.stdout, run({ "--version" }).stdout)
  end)

  it("explains itself and each command", function()
    assert.matches("Exit status: 0 done", run({ "help" }).stdout)
    assert.matches("Usage: ndctl deploy %[IMAGE%]", run({ "deploy", "--help" }).stdout)
    assert.matches("Usage: ndctl runs watch ID", run({ "help", "runs", "watch" }).stdout)
    assert.matches("Commands:\n  list", run({ "runs", "-h" }).stdout)
  end)

  it("exits 2 on mistakes of usage and names what was meant", function()
    for _, try in ipairs {
      { {}, "Usage: ndctl" },
      { { "delpoy" }, "did you mean ndctl deploy" },
      { { "approve", "x" }, "did you mean ndctl runs approve?" },
      { { "runs", "lits" }, "did you mean ndctl runs list" },
      { { "deploy", "--imge", "x" }, "did you mean %-%-image" },
      { { "stop" }, "APP is missing" },
      { { "status", "--host", "nonsense" }, "isn't an address" },
      { { "status", "--host", "http://box:8371" }, "everybody on the way .*https://box:8371" },
      { { "logs", "web", "--since", "soon" }, "duration or a time" },
      { { "deploy", "img" }, "which app" },
      { { "deploy", "--app", "web" }, "which image" },
      { { "deploy", "img", "--app", "web", "--env", "A=1" }, "%-%-env%-var A=1" },
      { { "token", "create" }, "%-%-name is missing" },
      { { "deploy", "img", "--app", "web", "--strategy" }, "needs a value" },
      { { "recipe", "new", "Bad Name" }, "isn't a recipe's name" },
    } do
      local r = run(try[1])
      assert.equal(2, r.status, table.concat(try[1], " "))
      assert.matches(try[2], r.stderr)
      assert.equal("", r.stdout)
    end
  end)

  it("exits 7 where nothing listens, and says what to do", function()
    local r = run { "status", "--host", "unix:///nonexistent/nd.sock" }
    assert.equal(7, r.status)
    assert.matches("no daemon listens on /nonexistent/nd.sock", r.stderr)
    assert.matches("hint: start it", r.stderr)
    r = run { "status", "--host", "http://127.0.0.1:1", "--json" }
    assert.equal(7, r.status)
    assert.matches('"code": ?"unreachable"', r.stdout)
    assert.matches("http://127.0.0.1:1:", run({ "status", "--host", "127.0.0.1:1" }).stderr)
    assert.matches("https://127.0.0.1.nip.invalid:1:", run({ "status", "--host", "127.0.0.1.nip.invalid:1" }).stderr)
  end)

  it("makes a recipe to begin with, once", function()
    local dir = temporary()
    local r = run({ "recipe", "new", "canary" }, { cwd = dir })
    assert.equal(0, r.status, r.stderr)
    assert.matches("return recipe {", fs.read(dir .. "/canary/recipe.lua"))
    assert.matches("# canary", fs.read(dir .. "/canary/README.md"))
    assert.equal(5, run({ "recipe", "new", "canary" }, { cwd = dir }).status)
    fs.remove(dir, { recursive = true })
  end)

  it("names a nextdeploy.lua's mistakes before it asks anyone", function()
    local dir = temporary()
    fs.write(dir .. "/nextdeploy.lua", 'return { app = "web", imgae = "x" }')
    local r = run({ "deploy" }, { cwd = dir })
    assert.equal(2, r.status)
    assert.matches("unknown key 'imgae'", r.stderr)
    assert.matches("did you mean image", r.stderr)
    fs.write(dir .. "/nextdeploy.lua", 'return { app = "web", image = "x" }')
    r = run({ "deploy" }, { cwd = dir })
    assert.equal(2, r.status)
    assert.matches("ndctl deploy %-%-yes", r.stderr)
    fs.remove(dir, { recursive = true })
  end)
end)
