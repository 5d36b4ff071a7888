-- cli_config_spec.lua - a nextdeploy.lua means what it says, and its mistakes are named.

local config = require "ndctl.lib.config"
local fail = require "ndctl.lib.fail"
local params = require "ndctl.lib.params"

local function mistake(source)
  local ok, err = pcall(config.parse, source)
  assert.is_false(ok)
  assert.equal("config", err.code)
  assert.equal(2, fail.status(err))
  return err
end

describe("nextdeploy.lua", function()
  it("becomes the body of a deploy", function()
    local value = config.parse [[
      return {
        app = "web", image = "web:v1", port = 8080, drain = "5s", params = { x = 1 },
        env = { PORT = 8080, DEBUG = false },
        health = { path = "/up", deadline = "30s" },
        environments = { staging = { domain = "s.example.com", env = { DEBUG = true } } },
      }
    ]]
    assert.same({
      app_name = "web", image = "web:v1", port = 8080, params = { drain = "5s", x = 1 },
      env = { PORT = "8080", DEBUG = "true" },
      health_check = { path = "/up", deadline = "30s" },
      domain = "s.example.com", environment = "staging",
    }, config.body(config.for_environment(value, "staging")))
    assert.equal("false", config.body(config.for_environment(value)).env.DEBUG)
  end)

  it("may be the bare table", function()
    assert.equal("web", config.parse([[{ app = "web" }]]).app)
  end)

  it("names the nearest key to an unknown one", function()
    assert.equal("did you mean domain?", mistake([[return { app = "a", domian = "x" }]]).hint)
    assert.equal("did you mean interval?",
      mistake([[return { app = "a", health = { intervall = "1s" } }]]).hint)
    assert.matches("environments.staging",
      mistake([[return { app = "a", environments = { staging = { imgae = "x" } } }]]).message)
  end)

  it("knows what the daemon's API takes, and nothing else", function()
    require "nd.api.shapes"
    local takes = require("nd.api.schema").components.DeployRequest.properties
    for name, key in pairs(config.keys) do
      if not key.param and name ~= "environments" then
        assert.is_not_nil(takes[key.body or name], name)
      end
    end
    local known = config.keys
    for name in pairs(require("nd.service.app_config").fields) do
      assert.is_not_nil(known[name], name)
    end
  end)

  it("sees nothing of the machine", function()
    mistake [[return { app = os.getenv("HOME") }]]
    mistake [[return { app = require("x") }]]
  end)

  it("names what is wrong with a value", function()
    assert.matches("port: expected a whole number, got \"80\"",
      mistake([[return { app = "a", port = "80" }]]).message)
    assert.matches("drain: expected a duration",
      mistake([[return { app = "a", drain = 5 }]]).message)
    assert.matches("a table of texts",
      mistake([[return { app = "a", env = { A = {} } }]]).message)
    assert.matches("isn't Lua", mistake("return { app = ").message)
    assert.matches("doesn't return a table", mistake("return 1").message)
    assert.matches("names no app", mistake("return {}").message)
  end)
end)

describe("a recipe's parameters", function()
  it("are texts, switches, lists, members and JSON", function()
    assert.same({ hosts = { "a", "b" }, fast = true, drain = "5s", count = "3",
      health = { path = "/up", port = "81" }, probe = { path = "/" } },
      params.read { hosts = { "a", "b" }, fast = true, drain = "5s", count = "3",
        ["health.path"] = "/up", ["health.port"] = "81", probe = '{"path":"/"}' })
  end)
end)

describe("the exit status", function()
  it("follows from the error", function()
    local function status(code, http, run)
      return fail.status { code = code, http = http, run = run }
    end
    assert.equal(2, status("usage"))
    assert.equal(2, status("bad_request", 400))
    assert.equal(3, status("unauthorized", 401))
    assert.equal(3, status("forbidden", 403))
    assert.equal(4, status("app_not_found", 404))
    assert.equal(5, status("run_conflict", 409))
    assert.equal(5, status("host_taken", 409))
    assert.equal(6, status("unhealthy", 502))
    assert.equal(6, status("health_deadline"))
    assert.equal(6, status("docker_timeout", 502))
    assert.equal(7, status("unreachable"))
    assert.equal(1, status("docker_error", 502))
    assert.equal(1, status("declined"))
    assert.equal(4, status("image_not_found", 404))
    assert.equal(6, status("image_not_found", nil, { id = "1" }))
    assert.equal(1, status("run_cancelled", nil, { id = "1" }))
    assert.equal(130, status("cancelled"))
  end)
end)
