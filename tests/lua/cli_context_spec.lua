-- cli_context_spec.lua - which daemon a command talks to and with whose token; what is completed;
-- the name that is typed before an app is destroyed.

local fs = require "fs"
local json = require "json"
local support = require "tests.lua.cli_support"

local function app(name)
  return { app_name = name, project = "default", environment = "staging", image = "img:v1",
    status = "running", port = 80, domain = "", updated_at = "2026-01-31T12:00:00.000Z",
    routes = json.array {}, instances = json.array {},
    releases = json.array { { number = 2, state = "live", image = "img:v2" },
      { number = 1, state = "kept", image = "img:v1" } } }
end

describe("ndctl", function()
  local home, daemons

  before_each(function() home, daemons = support.dir(), {} end)

  after_each(function()
    for _, d in ipairs(daemons) do d:close() end
    fs.remove(home, { recursive = true })
  end)

  local function daemon(routes)
    local d = support.daemon(routes or { ["GET /apps"] = { payload = json.array {} } })
    daemons[#daemons + 1] = d
    return d
  end

  local function ndctl(words, env, options)
    options = options or {}
    options.env = { HOME = home }
    for name, value in pairs(env or {}) do options.env[name] = value end
    return support.ndctl(words, options)
  end

  local function ok(words, env, options)
    local r = ndctl(words, env, options)
    assert.equal(0, r.status, table.concat(words, " ") .. ": " .. r.stderr)
    return r.stdout
  end

  local function authorization(d)
    local request = d.requests[#d.requests]
    return request.headers.authorization, request
  end

  it("keeps whom to trust with a host, and trusts no other host by it", function()
    local pin = "sha256//" .. ("A"):rep(43) .. "="
    ok({ "context", "add", "box", "--host", "https://box:8371", "--pin", pin, "--ca", "ca.pem",
      "--client-cert", "/c.pem", "--client-key", "/c.key", "--use" }, { PWD = home })
    local function shown(...) return json.decode(ok { "context", "show", "--json", ... }) end
    assert.same({ pin, home .. "/ca.pem", "/c.pem" }, { shown("box").pin, shown().ca, shown().cert })
    assert.same({}, { shown("--host", "https://other:1").pin, shown("--host", "https://other:1").ca })
    assert.same({ ca = "/other.pem" }, { ca = shown("--ca", "/other.pem").ca, pin = shown("--ca", "/other.pem").pin })
    assert.equal(2, ndctl({ "context", "add", "half", "--host", "https://box:1", "--client-cert", "/c.pem" }).status)
  end)

  it("keeps contexts, for their owner only, and shows no token", function()
    assert.equal("[]\n", ok { "context", "list", "--json" })
    ok { "context", "add", "box", "--host", "unix:///nowhere", "--token", "nd_hidden", "--env", "staging" }
    ok({ "context", "add", "far", "--host", "127.0.0.1:8371", "--token-stdin" }, nil,
      { stdin = "nd_piped\n" })
    local file = home .. "/.config/ndctl/contexts.json"
    assert.equal(384, fs.stat(file).mode & 511) -- 0600
    assert.equal("nd_piped", json.decode(fs.read(file)).contexts.far.token)
    for _, words in ipairs { { "list" }, { "show", "box" }, { "list", "--json" }, { "show", "far", "--json" } } do
      local said = ok { "context", table.unpack(words) }
      assert.is_nil(said:find("nd_", 1, true), said)
    end
    assert.matches("%* +box", ok { "context", "list" }) -- the first one is in use
    ok { "context", "use", "far" }
    assert.matches("%* +far", ok { "context", "list" })
    assert.equal(5, ndctl({ "context", "add", "far", "--host", "/sock" }).status)
    ok { "context", "add", "far", "--host", "/sock", "--replace" }
    local r = ndctl { "context", "use", "fra" }
    assert.equal(4, r.status)
    assert.matches("did you mean far", r.stderr)
    assert.equal(2, ndctl({ "context", "add", "no", "--host", "nonsense" }).status)
    ok { "context", "remove", "far" }
    assert.equal("box", json.decode(ok { "context", "list", "--json" })[1].name)
    assert.equal("default", json.decode(ok { "context", "show", "--json" }).from)
    fs.write(file, "{", 384)
    r = ndctl { "context", "list" }
    assert.equal(2, r.status)
    assert.matches("is damaged", r.stderr)
  end)

  it("takes flags before variables before the context, and sends a token to its own host only", function()
    local one, two = daemon(), daemon()
    ok { "context", "add", "one", "--host", one.host, "--token", "nd_one", "--env", "staging",
      "--project", "shop" }
    ok { "context", "add", "two", "--host", two.host, "--token", "nd_two" }

    ok { "apps" }
    local token, request = authorization(one)
    assert.equal("Bearer nd_one", token)
    assert.same({ project = "shop", environment = "staging", limit = "500" }, request.query)

    ok({ "apps" }, { NDCTL_CONTEXT = "two" })
    assert.equal("Bearer nd_two", authorization(two))
    ok({ "apps", "--context", "one" }, { NDCTL_CONTEXT = "two", NDCTL_HOST = two.host,
      NDCTL_TOKEN = "nd_variable" })
    assert.equal("Bearer nd_one", authorization(one))
    ok({ "apps" }, { NDCTL_TOKEN = "nd_variable" })
    assert.equal("Bearer nd_variable", authorization(one))
    ok({ "apps" }, { NDCTL_HOST = two.host })
    assert.is_nil((authorization(two)))
    ok { "apps", "--host", two.host }
    assert.is_nil((authorization(two)))
    ok({ "apps", "--host", two.host, "--token", "nd_flag" }, { NDCTL_TOKEN = "nd_variable" })
    assert.equal("Bearer nd_flag", authorization(two))
    local r = ndctl { "apps", "--context", "three" }
    assert.equal(4, r.status)
    assert.matches("no context 'three'", r.stderr)
  end)

  it("completes commands, options and live names, and is silent when it can't", function()
    local d = daemon {
      ["GET /apps"] = { payload = json.array { app "web", app "worker", app "api" } },
      ["GET /apps/web"] = { payload = app "web" },
      ["GET /runs"] = { payload = json.array { { id = "06fcsxwd3a", app = "web",
        recipe = "bluegreen", state = "done" } } },
      ["GET /recipes"] = { payload = json.array { { name = "canary", summary = "Some. More." } } },
      ["GET /recipes/canary"] = { payload = { params = { { name = "app", type = "app" },
        { name = "step", type = "int" } } } },
    }
    local function candidates(shell, line, host)
      local words = { "__complete", shell }
      for word in (line .. " "):gmatch("(%S*) ") do words[#words + 1] = word end
      local r = ndctl(words, { NDCTL_HOST = host or d.host })
      assert.equal("", r.stderr)
      local found = {}
      for value in r.stdout:gmatch("([^\t\n]+)[^\n]*\n") do found[#found + 1] = value end
      table.sort(found)
      return table.concat(found, " ")
    end
    assert.equal("status stop", candidates("zsh", "st"))
    assert.equal("web worker", candidates("zsh", "status w"))
    assert.equal("", candidates("zsh", "status web "))
    assert.equal("web worker", candidates("fish", "logs --tail 5 w"))
    assert.equal("list", candidates("bash", "runs li"))
    assert.equal("06fcsxwd3a", candidates("bash", "runs show "))
    assert.equal("1 2", candidates("bash", "rollback web --to "))
    assert.equal("canary", candidates("bash", "run recipe "))
    assert.equal("--step", candidates("bash", "run recipe canary --st"))
    assert.equal("--state=failed", candidates("zsh", "runs list --state=f"))
    assert.equal("failed", candidates("bash", "runs list --state = f"))
    assert.equal("--no-wait", candidates("zsh", "deploy --no-w"))
    assert.equal("staging", candidates("zsh", "status --env "))
    assert.equal(":files", candidates("zsh", "deploy --file x"))
    assert.equal("zsh", candidates("zsh", "completion z"))
    assert.equal("watch", candidates("zsh", "help runs w"))
    assert.equal("", candidates("zsh", "exec web sta")) -- what it runs is the container's business
    assert.equal("", candidates("zsh", "nonsense "))
    assert.equal("", candidates("zsh", "status ", "unix:///nowhere"))
    assert.equal("", candidates("zsh", "status ", "http://127.0.0.1:1"))
  end)

  it("destroys an app whose name is typed, and no other way by accident", function()
    local d = daemon { ["GET /apps/web"] = { payload = app "web" },
      ["DELETE /apps/web"] = { payload = { app_name = "web" } } }
    local env = { NDCTL_HOST = d.host }
    for answer, status in pairs { ["yes"] = 1, ["y"] = 1, [""] = 1, ["wbe"] = 1 } do
      local r = ndctl({ "destroy", "web" }, env, { terminal = true, stdin = answer .. "\n" })
      assert.equal(status, r.status, answer)
      assert.matches("declined; nothing was changed", r.stdout)
    end
    assert.equal(2, ndctl({ "destroy", "web" }, env).status)
    assert.equal(2, ndctl({ "destroy", "web", "--confirm", "wbe" }, env).status)
    assert.is_nil(d:asked "DELETE /apps/web")
    local r = ndctl({ "destroy", "web" }, env, { terminal = true, stdin = "web\n" })
    assert.equal(0, r.status, r.stdout)
    ok({ "destroy", "web", "--confirm", "web" }, env)
  end)
end)
