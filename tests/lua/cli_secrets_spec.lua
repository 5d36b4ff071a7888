-- cli_secrets_spec.lua - `ndctl secrets` against a scripted daemon: values leave encrypted or not at all, from
-- wherever they come, and come back to their owner alone.

local age = require "age"
local dotenv = require "ndctl.lib.dotenv"
local fs = require "fs"
local json = require "json"
local support = require "tests.lua.cli_support"

describe("ndctl secrets", function()
  local d, identity, dir, stored

  before_each(function()
    local recipient
    identity, recipient = age.keygen()
    stored = {}
    dir = support.dir()
    d = support.daemon {
      ["GET /secrets/agent-key"] = { payload = { recipient = recipient } },
      ["POST /secrets/sync"] = function(_, seen)
        local payload = json.array {}
        for name, text in pairs(seen.body.secrets) do
          stored[name] = age.decrypt({ identity }, text)
          payload[#payload + 1] = { name = name, version = 1, changed = true }
        end
        return { payload = payload }
      end,
    }
  end)

  after_each(function()
    d:close()
    fs.remove(dir, { recursive = true })
  end)

  local function ndctl(words, options)
    options = options or {}
    options.host = d.host
    options.env = options.env or {}
    options.env.HOME = dir
    return support.ndctl({ "secrets", table.unpack(words) }, options)
  end

  it("sends what it was given, encrypted, wherever that comes from", function()
    fs.write(dir .. "/file", "bytes\0\n", 384)
    local ways = {
      { { "set", "A", "s3cr3t" }, nil, "s3cr3t" },
      { { "set", "A", "" }, nil, "" },
      { { "set", "A", "--from-stdin" }, "line\n", "line" },
      { { "set", "A", "--from-stdin" }, "two\nlines\r\n", "two\nlines" },
      { { "set", "A", "--from-file", dir .. "/file" }, nil, "bytes\0\n" },
      { { "set", "A", "--from-command", "printf '%s\\n' \"$HOME\"" }, nil, dir },
      { { "set", "A", "--from-stdin", "--empty" }, "", "" },
      { { "import", "-" }, "A=x\n", "x" },
    }
    for _, way in ipairs(ways) do
      stored = {}
      local r = ndctl(way[1], { stdin = way[2] })
      assert.equal(0, r.status, r.stderr)
      assert.equal("A: version 1\n", r.stdout)
      assert.equal(way[3], stored.A)
    end
    for _, request in ipairs(d.requests) do
      if request.body then assert.matches("^%-%-%-%-%-BEGIN AGE", request.body.secrets.A) end
    end
  end)

  it("says when what runs gets a new version", function()
    local version = 1
    d.routes["POST /secrets/sync"] = function()
      return { payload = json.array { { name = "A", version = version, changed = true } } }
    end
    assert.is_nil(ndctl({ "set", "A", "x" }).stderr:find "restart")
    version = 2
    local r = ndctl { "set", "A", "x", "--app", "shop" }
    assert.equal("A: version 2\n", r.stdout)
    assert.matches("ndctl restart shop.*ndctl secrets push shop", r.stderr)
    assert.equal("", ndctl({ "set", "A", "x", "--quiet" }).stderr)
  end)

  it("asks a password manager on this machine", function()
    fs.mkdir(dir .. "/bin")
    for _, name in ipairs { "op", "bw", "vault" } do
      fs.write(dir .. "/bin/" .. name, "#!/bin/sh\necho \"${0##*/} $*\"\n", 493)
    end
    local env = { PATH = dir .. "/bin:" .. os.getenv "PATH" }
    for ref, said in pairs { ["op://v/i/f"] = "op read --no-newline op://v/i/f", ["bw:site"] = "bw get password site",
      ["bw:notes:site"] = "bw get notes site", ["vault:kv/shop#key"] = "vault kv get -field=key kv/shop" } do
      local r = ndctl({ "set", "A", "--from", ref }, { env = env })
      assert.equal(0, r.status, r.stderr)
      assert.equal(said, stored.A)
    end
    local r = ndctl { "set", "A", "--from", "nobody" }
    assert.equal(2, r.status)
    assert.matches("op://VAULT/ITEM/FIELD", r.stderr)
  end)

  it("refuses what looks like an accident", function()
    local bad = {
      { { "set", "A", "--from-stdin" }, "", 2, "is empty" },
      { { "set", "A", "--from-command", "echo s3cr3t; exit 3" }, nil, 1, "exit status 3" },
      { { "set", "A", "s3cr3t", "--from-stdin" }, "s3cr3t", 2, "one place only" },
      { { "set", "A" }, "s3cr3t", 2, "no terminal" },
      { { "set", "A", "--from-file", "/nowhere" }, nil, 2, "can't read /nowhere" },
      { { "set", "A", "x", "--recipient", "s3cr3t" }, nil, nil, "recipient" },
      { { "import", "-" }, "A=1\nB s3cr3t\n", 2, "stdin:2: isn't NAME=VALUE" },
      { { "import", "-" }, "# nothing\n", 2, "no variables" },
    }
    for _, case in ipairs(bad) do
      local r = ndctl(case[1], { stdin = case[2] })
      assert.is_true(r.status ~= 0 and (not case[3] or r.status == case[3]), r.stderr)
      assert.matches(case[4], r.stderr, 1, true)
      assert.is_nil(d:asked "POST /secrets/sync")
    end
  end)

  it("encrypts to its owner too, who alone reads it back", function()
    local recipient = ndctl({ "owner", "--quiet" }).stdout:match "%S+"
    assert.equal(384, fs.stat(dir .. "/.config/ndctl/identity.txt").mode & 511)
    assert.equal(recipient, ndctl({ "owner", "--quiet" }).stdout:match "%S+")
    local other_identity, other = age.keygen()
    assert.equal(0, ndctl({ "owner", other }).status)
    assert.equal(2, #json.decode(ndctl({ "owner", "--json" }).stdout).recipients)
    ndctl { "set", "A", "s3cr3t" }
    local copy = d:asked("POST /secrets/sync").body.copies.A
    assert.equal("s3cr3t", age.decrypt({ other_identity }, copy))
    d.routes["GET /secrets/A"] = { payload = { name = "A", version = 1, bytes = 6, project = "default",
      environment = "production", created_at = "2026-01-31T12:00:00.000Z", created_by = "x", copy = copy } }
    assert.equal("s3cr3t", ndctl({ "get", "A", "--reveal" }).stdout)
    assert.equal("true", d:asked("GET /secrets/A").query.reveal)
    fs.write(dir .. "/mine", "# mine\n" .. other_identity .. "\n", 384)
    assert.equal("s3cr3t", ndctl({ "get", "A", "--reveal", "--identity", dir .. "/mine" }).stdout)
    assert.equal("s3cr3t", json.decode(ndctl({ "get", "A", "--reveal", "--json" }).stdout).value)
    fs.write(dir .. "/mine", age.keygen() .. "\n", 384)
    local r = ndctl { "get", "A", "--reveal", "--identity", dir .. "/mine" }
    assert.equal("", r.stdout)
    assert.is_true(r.status ~= 0)
  end)

  it("asks for secrets of an app in the order of a deploy", function()
    local config = require "ndctl.lib.config"
    local body = config.body(
      config.parse '{ app = "a", secrets = { "A", KEY = "file" } }')
    assert.same({ "A", "KEY:file" }, body.secrets)
    assert.has_error(function() config.parse '{ app = "a", secrets = { A = 1 } }' end)
  end)
end)

describe("a .env file", function()
  local function values(source) return (dotenv.parse(source, "x")) end

  it("is read as people write it", function()
    assert.same({ A = "1", B = "a b", C = "", D = "#no comment", E = "x#y", F = "$HOME" },
      values "\239\187\191A=1\r\n  B = a b   # c\nC=\nD='#no comment'\nE=x#y\nexport F=$HOME")
    assert.same({ A = 'x\ny"\\$\t', B = [[a\n"b]], C = "l1\nl2" }, values [[
A="x\ny\"\\\$\t" # c
B='a\n"b'
C="l1
l2"]])
    assert.same({}, values "\n# nothing\n\n")
    assert.same({ A = "2" }, values "A=1\nA=2")
  end)

  it("is refused with the line that is wrong", function()
    for source, line in pairs { ["A=1\nB"] = 2, ["A=1\n\nB='x\ny"] = 3, ["1A=x"] = 1, ['A="x" y'] = 1,
      ["A-B=1"] = 1 } do
      local ok, e = pcall(values, source)
      assert.is_false(ok)
      assert.matches("^x:" .. line .. ":", e.message)
    end
  end)
end)
