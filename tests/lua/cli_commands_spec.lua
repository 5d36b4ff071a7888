-- cli_commands_spec.lua - every command against a scripted daemon: what it asks for, what it
-- prints, and the exit status of every way to fail.

local fs = require "fs"
local json = require "json"
local support = require "tests.lua.cli_support"

local RUN = "0199a0b2-0000-7000-8000-000000000001"

local function app(changes)
  local status = {
    app_name = "web", project = "default", environment = "production", image = "web:v2",
    digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    status = "running", port = 80, domain = "web.example.com", release = 2, previous = 1,
    updated_at = "2026-01-31T12:00:00.000Z", strategy = "bluegreen",
    service_address = "10.93.0.5:80", run_id = RUN,
    routes = { { domain = "web.example.com", tls = "internal", proxy_type = "caddy" } },
    instances = { { id = 7, name = "nd-web-2-1", container_id = ("ab"):rep(32), release = 2,
      process = "web", index = 1, state = "running", address = "10.93.1.3", restarts = 0,
      started_at = "2026-01-31T12:00:00.000Z" } },
  }
  for key, value in pairs(changes or {}) do status[key] = value end
  return status
end

local function app_with_releases()
  return app { releases = {
    { number = 2, state = "live", image = "web:v2", live_at = "2026-01-31T12:00:00.000Z" },
    { number = 1, state = "kept", image = "web:v1", live_at = "2026-01-30T12:00:00.000Z",
      keep_until = "2026-01-31T12:05:00.000Z", drain = { cut = 2, peers = { "10.0.0.9:1", "x" } } },
  } }
end

local function run_of(changes)
  local run = {
    id = RUN, app = "web", project = "default", environment = "production", recipe = "bluegreen",
    state = "done", owner = "root", started_at = "2026-01-31T12:00:00.000Z",
    ended_at = "2026-01-31T12:00:02.400Z", params = { app = "web", image = "web:v2" },
    effects = { { n = 1, name = "docker.pull", label = "pull web:v2", state = "answered", ok = true,
      asked_at = "2026-01-31T12:00:00.000Z", answered_at = "2026-01-31T12:00:01.200Z" } },
  }
  for key, value in pairs(changes or {}) do run[key] = value end
  return run
end

-- What every run needs: its events told at once, the run and the app to be read.
local function run_routes(run, more)
  local routes = {
    ["WS /ws/events"] = function(ws)
      local seq = 0
      local function tell(kind, data)
        seq = seq + 1
        ws:send(json.encode { seq = seq, time = "2026-01-31T12:00:00.000Z", kind = kind,
          app = "web", run = RUN, data = data })
      end
      tell("effect.asked", { n = 1, name = "docker.pull", label = "pull web:v2" })
      tell("effect.answered", { n = 1, name = "docker.pull", label = "pull web:v2", ok = true,
        ms = 1200 })
      tell("run.ended", { state = run.state })
      ws:recv()
    end,
    ["GET /runs/" .. RUN] = { payload = run },
    ["GET /apps/web"] = { payload = app_with_releases() },
    ["POST /deploy"] = { status = 202, payload = app { status = "updating" } },
    ["POST /runs"] = { status = 202, payload = run_of { state = "running" } },
  }
  for name, route in pairs(more or {}) do routes[name] = route end
  return routes
end

describe("ndctl", function()
  local d

  local function daemon(routes)
    d = support.daemon(routes)
    return d
  end

  local function ndctl(words, options)
    options = options or {}
    options.host = d.host
    return support.ndctl(words, options)
  end

  after_each(function()
    if d then d:close() end
    d = nil
  end)

  -- Answers everything with one refusal; a WebSocket too.
  local function refusing(status, code)
    local refusal = { status = status, code = code, message = "said " .. code, hint = "try that" }
    return daemon(setmetatable({}, { __index = function() return refusal end }))
  end

  it("gives each refusal its exit status", function()
    for _, case in ipairs {
      { 400, "bad_request", 2 }, { 401, "unauthorized", 3 }, { 403, "forbidden", 3 },
      { 404, "app_not_found", 4 }, { 409, "run_conflict", 5 }, { 409, "host_taken", 5 },
      { 422, "unhealthy", 6 }, { 504, "docker_timeout", 6 }, { 502, "docker_unreachable", 1 },
      { 500, "internal", 1 },
    } do
      refusing(case[1], case[2])
      assert.equal(case[3], ndctl({ "status" }).status, case[2])
      d:close()
    end
  end)

  it("says a refusal and its hint on stderr, whatever the command", function()
    refusing(409, "run_conflict")
    for _, words in ipairs {
      { "status" }, { "status", "web" }, { "ps" }, { "deploy", "img", "--app", "web" },
      { "stop", "web" }, { "restart", "web" },
      { "swap", "web" }, { "rollback", "web" }, { "runs", "list" }, { "runs", "show", "x" },
      { "runs", "watch", "x" }, { "runs", "cancel", "x" }, { "recipe", "list" },
      { "token", "create", "--name", "n" }, { "token", "list" }, { "doctor" },
      { "destroy", "web", "--yes" }, { "token", "rm", "x", "--yes" }, { "logs", "web" },
      { "events" }, { "version", "--daemon" }, { "run", "recipe", "r", "--app", "web" },
    } do
      local r = ndctl(words)
      local said = table.concat(words, " ") .. ": " .. r.stderr
      assert.equal(5, r.status, said)
      assert.matches("ndctl: said run_conflict\nhint: try that\n$", r.stderr, nil, nil, said)
      assert.equal("", r.stdout)
    end
  end)

  it("deploys: sends what was said, shows each step, sums up", function()
    daemon(run_routes(run_of()))
    local r = ndctl { "deploy", "web:v2", "--app", "web", "--port", "8080", "-e", "A=1",
      "-e", "B=x=y",
      "--strategy", "blue-green", "--health-check", "/api/health", "--replicas", "2",
      "--drain", "5s",
      "--domain", "web.example.com", "--env", "staging", "--project", "shop" }
    assert.equal(0, r.status, r.stderr)
    assert.same({
      app_name = "web", image = "web:v2", port = 8080, env = { A = "1", B = "x=y" },
      strategy = "bluegreen", health_check = "/api/health", replicas = 2,
      domain = "web.example.com", environment = "staging", project = "shop",
      params = { drain = "5s" },
    }, d:asked("POST /deploy").body)
    assert.matches("ok       1.2s  pull web:v2\n", r.stderr)
    assert.matches("web is live: release 2 of web:v2 %(sha256:0123456789ab%), in 2.4s", r.stdout)
    assert.matches("url       https://web.example.com", r.stdout)
    assert.matches("address   10.93.0.5:80", r.stdout)
    assert.matches("previous  release 1, kept until 2026%-01%-31T12:05:00.000Z", r.stdout)
    assert.matches("drained   2 connections cut: 10.0.0.9:1, x", r.stdout)
    assert.is_nil((r.stdout .. r.stderr):find("[\27\128-\255]"))
  end)

  it("returns at once with --no-wait, the run's id on stdout", function()
    daemon(run_routes(run_of()))
    local r = ndctl { "deploy", "web:v2", "--app", "web", "--no-wait" }
    assert.equal(0, r.status)
    assert.equal(RUN .. "\n", r.stdout)
    assert.matches("ndctl runs watch " .. RUN, r.stderr, 1, true)
    assert.is_nil(d:asked("WS /ws/events"))
  end)

  it("tells why a deploy failed: error, probes, logs, what still serves, what to do", function()
    local failure = { code = "unhealthy", message = "release 3 was not healthy within 60s",
      hint = "look at the probes", data = {
        probes = { { time = "12:00:01", result = "GET /: connection refused", count = 3 } },
        logs = {} } }
    for i = 1, 60 do failure.data.logs[i] = "line " .. i end
    daemon(run_routes(run_of { state = "failed", error = failure, effects = {
      { n = 1, name = "health.wait", label = "wait until healthy", state = "answered", ok = false,
        error = failure, at = "recipe.lua:20", asked_at = "2026-01-31T12:00:00.000Z",
        answered_at = "2026-01-31T12:01:00.000Z" } } }))
    local r = ndctl { "deploy", "web:v3", "--app", "web" }
    assert.equal(6, r.status)
    assert.equal("", r.stdout)
    assert.matches("Failed: release 3 was not healthy within 60s %(unhealthy%)", r.stderr)
    assert.matches("step  wait until healthy, at recipe.lua:20", r.stderr)
    assert.matches("12:00:01  GET /: connection refused %(3 times%)", r.stderr)
    assert.matches("Last 50 log lines", r.stderr)
    assert.matches("  | line 60\n", r.stderr, 1, true)
    assert.is_nil(r.stderr:find("| line 10\n", 1, true))
    assert.matches("web still serves release 2", r.stderr)
    assert.matches("hint: look at the probes", r.stderr)
  end)

  it("exits 6 for each kind of bad release, and 1 for a fault of the host", function()
    for code, status in pairs { unhealthy = 6, image_not_found = 6, docker_refused = 6,
      deadline = 6, docker_unreachable = 1, recipe_failed = 1 } do
      daemon(run_routes(run_of { state = "failed", error = { code = code, message = "m" } }))
      assert.equal(status, ndctl({ "deploy", "i", "--app", "web" }).status, code)
      d:close()
    end
  end)

  it("polls the run where there are no WebSockets", function()
    local asked = 0
    daemon(run_routes(run_of(), {
      ["WS /ws/events"] = false,
      ["GET /runs/" .. RUN] = function()
        asked = asked + 1
        return { payload = run_of { state = asked < 3 and "running" or "done" } }
      end,
    }))
    local r = ndctl { "deploy", "web:v2", "--app", "web" }
    assert.equal(0, r.status, r.stderr)
    assert.matches("ok       1.2s  pull web:v2", r.stderr)
  end)

  it("goes on where it was when the daemon comes back", function()
    local connections = 0
    daemon(run_routes(run_of(), {
      ["WS /ws/events"] = function(ws, request)
        connections = connections + 1
        if connections == 1 then
          assert.equal("0", request.query.since)
          ws:send(json.encode { seq = 41, kind = "effect.asked", run = RUN,
            data = { n = 1, name = "docker.pull", label = "pull web:v2" } })
          ws:close(1001, "restarting")
          return
        end
        assert.equal("41", request.query.since)
        ws:send(json.encode { seq = 42, kind = "run.ended", run = RUN, data = { state = "done" } })
        ws:recv()
      end,
      ["GET /runs/" .. RUN] = function()
        return { payload = run_of { state = connections < 2 and "running" or "done" } }
      end,
    }))
    local r = ndctl { "runs", "watch", RUN }
    assert.equal(0, r.status, r.stderr)
    local _, times = r.stderr:gsub("pull web:v2", "")
    assert.equal(1, times, r.stderr)
  end)

  it("runs a recipe by name with its parameters", function()
    daemon(run_routes(run_of()))
    local r = ndctl { "run", "recipe", "bluegreen", "--app", "web", "--image", "web:v2",
      "--drain=5s", "--param", "keep=1m" }
    assert.equal(0, r.status, r.stderr)
    assert.same({ recipe = "bluegreen", app_name = "web",
      params = { image = "web:v2", drain = "5s", keep = "1m" } }, d:asked("POST /runs").body)
    assert.equal(2, ndctl({ "run", "recipe", "bluegreen", "--image", "web:v2" }).status)
  end)

  it("sends a recipe's folder along when it is a path", function()
    daemon(run_routes(run_of()))
    local dir = support.dir()
    fs.mkdir(dir .. "/mine/lib", 448)
    fs.write(dir .. "/mine/recipe.lua", "return recipe {}")
    fs.write(dir .. "/mine/lib/x.lua", "return 1")
    fs.write(dir .. "/mine/notes.txt", "no")
    local r = ndctl({ "run", "recipe", "./mine", "--app", "web" }, { cwd = dir })
    assert.equal(0, r.status, r.stderr)
    assert.same({ name = "mine", files = { ["recipe.lua"] = "return recipe {}",
      ["lib/x.lua"] = "return 1" } }, d:asked("POST /runs").body.recipe)
    r = ndctl({ "run", "recipe", "./yours", "--app", "web" }, { cwd = dir })
    assert.equal(4, r.status)
    fs.remove(dir, { recursive = true })
  end)

  it("shows a plan and does nothing", function()
    daemon { ["POST /deploy"] = { payload = { recipe = "bluegreen", app_name = "web",
      lines = { "pull web:v3", "start release 3" }, undos = { "remove release 3" },
      changes = { { field = "image", from = "web:v2", to = "web:v3" },
        { field = "env", from = { A = "1", B = "2" }, to = { B = "3" } } }, same = false } } }
    local r = ndctl { "deploy", "web:v3", "--app", "web", "--plan" }
    assert.equal(1, r.status)
    assert.equal(table.concat({
      "Plan for web by bluegreen:", "   1. pull web:v3", "   2. start release 3",
      "If it fails before the switch:", "   -  remove release 3",
      "Changes:", "   ~ image  web:v2 -> web:v3", "   - env.A  1", "   ~ env.B  2 -> 3", "",
    }, "\n"), r.stdout)
    assert.equal("true", d:asked("POST /deploy").query.plan)
  end)

  it("says by the exit status of a plan whether anything would change", function()
    local answer = { payload = { recipe = "scale", app_name = "web", lines = { "look" }, undos = {},
      changes = {}, same = true } }
    daemon { ["POST /scale"] = function() return answer end }
    local r = ndctl { "scale", "web", "2", "--plan" }
    assert.equal(0, r.status)
    assert.matches("Nothing would change", r.stdout)
    answer.payload.same = false -- a loop of which the plan saw the beginning
    assert.equal(1, ndctl({ "scale", "web", "2", "--plan", "--json" }).status)
    answer = { status = 404, code = "app_not_found", message = "there is no app 'web'" }
    assert.equal(2, ndctl({ "scale", "web", "2", "--plan" }).status)
    assert.equal(4, ndctl({ "scale", "web", "2" }).status)
    assert.equal(2, ndctl({ "run", "recipe", "./nowhere", "--app", "web", "--plan" }).status)
  end)

  it("asks before it deploys from a nextdeploy.lua; no is not 0", function()
    local planned = { recipe = "bluegreen", app_name = "web", lines = { "pull web:v2" } }
    daemon(run_routes(run_of(), {
      ["POST /deploy"] = function(request)
        return { payload = request.query.plan and planned or app { status = "updating" } }
      end,
    }))
    local dir = support.dir()
    fs.write(dir .. "/nextdeploy.lua", [[return { app = "web", image = "web:v2", port = 80,
      health = { path = "/", deadline = "9s" } }]])
    local function ask(answer)
      return ndctl({ "deploy" }, { cwd = dir, stdin = answer, terminal = true })
    end
    local r = ask("n\n")
    assert.equal(1, r.status, r.stdout)
    assert.matches("1. pull web:v2", r.stdout)
    assert.matches("Deploy web%? %[y/N%]", r.stdout)
    assert.matches("declined; nothing was changed", r.stdout)
    assert.equal(1, #d.requests)
    r = ask("y\n")
    assert.equal(0, r.status, r.stdout)
    assert.matches("web is live", r.stdout)
    d.requests = {}
    r = ndctl({ "deploy", "--yes", "--port", "81", "--health-check", "/up" }, { cwd = dir })
    assert.equal(0, r.status, r.stderr)
    assert.same({ app_name = "web", image = "web:v2", port = 81,
      health_check = { path = "/up", deadline = "9s" } }, d:asked("POST /deploy").body)
    fs.remove(dir, { recursive = true })
  end)

  it("prints the API's payload with --json, and the refusal as it came", function()
    daemon { ["GET /status"] = { payload = { app() } } }
    local r = ndctl { "status", "--json" }
    assert.same({ app() }, json.decode(r.stdout))
    d:close()
    daemon { ["GET /status"] = { status = 404, code = "app_not_found", message = "no app x" } }
    r = ndctl { "ps", "x", "--json" }
    assert.equal(4, r.status)
    local refusal = json.decode(r.stdout)
    assert.is_false(refusal.success)
    assert.equal("app_not_found", refusal.code)
  end)

  it("says when the daemon is more than one release away", function()
    daemon { ["GET /status"] = { payload = json.array {} } }
    d.version = "7.0.0"
    assert.matches("the daemon is 7.0.0", ndctl({ "status" }).stderr)
    d.version = ndctl({ "version" }).stdout:match("[%d.]+")
    assert.is_nil(ndctl({ "status" }).stderr:find("daemon is"))
  end)

  it("lists apps, instances, runs, recipes and tokens in tables", function()
    daemon {
      ["GET /status"] = { payload = { app() } },
      ["GET /apps/web"] = { payload = app_with_releases() },
      ["GET /runs"] = { payload = { run_of() } }, ["GET /runs/" .. RUN] = { payload = run_of() },
      ["GET /recipes"] = { payload = { { name = "bluegreen", summary = "Blue." } } },
      ["GET /tokens"] = { payload = { { name = "ci", role = "deployer" } } },
    }
    local r = ndctl { "status" }
    assert.matches("^APP +STATUS +RELEASE +IMAGE", r.stdout)
    assert.matches("\nweb +running +2 +web:v2 +10.93.0.5:80 +https://web.example.com", r.stdout)
    r = ndctl { "status", "web" }
    assert.matches("^web: running\n", r.stdout)
    assert.matches("nd%-web%-2%-1 +2 +running +10.93.1.3 +0", r.stdout)
    assert.matches("1 +kept +web:v1", r.stdout)
    assert.matches("web +nd%-web%-2%-1 +abababababab +web +2 +running", ndctl({ "ps" }).stdout)
    assert.matches("000000000001 +web +bluegreen +done", ndctl({ "runs", "list" }).stdout)
    assert.matches("1 +pull web:v2 +answered +1.2s", ndctl({ "runs", "show", RUN }).stdout)
    assert.matches("bluegreen +Blue%.", ndctl({ "recipe", "list" }).stdout)
    assert.matches("ci +deployer", ndctl({ "token", "list" }).stdout)
  end)

  it("prints a new token as the last line, and sends it from then on", function()
    daemon {
      ["POST /tokens"] = { payload = { name = "ci", role = "admin", token = "nd_secret" } },
      ["GET /status"] = { payload = json.array {} },
    }
    local r = ndctl { "token", "create", "--name", "ci", "--role", "admin" }
    assert.equal("nd_secret\n", r.stdout)
    assert.same({ name = "ci", role = "admin" }, d:asked("POST /tokens").body)
    assert.equal(0, ndctl({ "status" }, { env = { NDCTL_TOKEN = "t1" } }).status)
    assert.equal("Bearer t1", d:asked("GET /status").headers.authorization)
  end)

  it("prints log lines, an array of them or one a frame, and their instances where there were several", function()
    daemon {
      ["GET /status"] = { payload = app() },
      ["WS /ws/logs"] = function(ws)
        ws:send(json.encode { seq = 1, time = "t1", app = "web", instance = "a", stream = "stdout",
          line = "one" })
        ws:send(json.encode(json.array { { seq = 2, time = "t2", line = "two" },
          { seq = 3, time = "t3", line = "three" } }))
        ws:close(1000, "that was all")
      end,
    }
    local r = ndctl { "logs", "--tail", "3", "web" }
    assert.equal(0, r.status, r.stderr)
    assert.equal("a | one\ntwo\nthree\n", r.stdout)
    assert.equal("one\ntwo\nthree\n", ndctl({ "logs", "--instance", "a", "web" }).stdout)
    local query = d:asked("WS /ws/logs").query
    assert.equal("3", query.tail)
    assert.equal("false", query.follow)
    assert.equal("t1  a | one\nt2  two\nt3  three\n", ndctl({ "logs", "-t", "web" }).stdout)
  end)

  it("names the instances of a log that has several, and what is missing", function()
    daemon {
      ["GET /status"] = { payload = app { instances = json.array { {}, {} } } },
      ["WS /ws/logs"] = function(ws)
        for i, entry in ipairs { { "a", "v" }, { "b", "x" } } do
          ws:send(json.encode { seq = i, app = "web", instance = "nd-1-web-" .. entry[1], line = entry[2] })
        end
        ws:send '{"dropped":7}'
        ws:close(1000, "that was all")
      end,
    }
    local r = ndctl { "logs", "web" }
    assert.equal("a | v\nb | x\n", r.stdout)
    assert.matches("7 lines are missing here", r.stderr)
    assert.matches('{"dropped":7}', ndctl({ "logs", "web", "--json" }).stdout, 1, true)
  end)

  it("asks for what of a log is wanted", function()
    daemon {
      ["GET /status"] = { payload = app() },
      ["WS /ws/logs"] = function(ws) ws:close(1000, "that was all") end,
    }
    local r = ndctl { "logs", "web", "--release", "3", "--grep", "a b", "--instance", "web-3-1",
      "--since", "17", "--until", "2026-01-31T12:00:00Z" }
    assert.equal(0, r.status, r.stderr)
    local query = d:asked("WS /ws/logs").query
    assert.same({ app = "web", follow = "false", release = "3", grep = "a b", instance = "web-3-1",
      since = "17", ["until"] = "1769860800000" }, query)
    assert.equal(2, ndctl({ "logs", "-f", "--until", "1h", "web" }).status)
  end)

  it("follows a log through a restart of the daemon, after the last line it brought", function()
    local connections = 0
    daemon {
      ["GET /status"] = { payload = app() },
      ["WS /ws/logs"] = function(ws, request)
        connections = connections + 1
        local function line(seq, s) ws:send(json.encode { seq = seq, instance = "a", line = s }) end
        if connections == 1 then
          line(100, "one")
          line(200, "two")
          return ws:close(1001, "restarting")
        end
        assert.equal("200", request.query.since)
        assert.is_nil(request.query.tail)
        line(300, "three")
        ws:recv()
      end,
    }
    local r = ndctl({ "logs", "-f", "--tail", "5", "web" },
      { argv = { "timeout", "--signal=INT", "--preserve-status", "2" } })
    assert.equal(130, r.status)
    assert.equal("a | one\na | two\na | three\n", r.stdout)
  end)

  it("ends when nobody reads what it follows", function()
    daemon {
      ["GET /status"] = { payload = app() },
      ["WS /ws/logs"] = function(ws)
        ws:send(json.encode { seq = 1, line = "one" })
        ws:recv()
      end,
    }
    local r = ndctl({ "logs", "-f", "web" }, { argv = { "bash", "-c",
      'set -o pipefail; timeout 10 "$@" | head -1; exit $?', "-" } })
    assert.equal("one\n", r.stdout)
    assert.equal(141, r.status) -- SIGPIPE
  end)

  it("stops, restarts, swaps, rolls back and destroys", function()
    daemon(run_routes(run_of(), {
      ["POST /stop"] = { payload = app { status = "stopped" } },
      ["POST /restart"] = { payload = app() },
      ["POST /swap"] = { status = 202, payload = app { status = "updating" } },
      ["POST /rollback"] = { payload = app { status = "updating" } },
      ["DELETE /apps/web"] = { payload = {} },
    }))
    assert.equal("web is stopped\n", ndctl({ "stop", "web" }).stdout)
    assert.equal("web is running\n", ndctl({ "restart", "web" }).stdout)
    assert.matches("web is live", ndctl({ "swap", "web", "web:v3" }).stdout)
    assert.same({ app_name = "web", image = "web:v3" }, d:asked("POST /swap").body)
    assert.matches("web is live", ndctl({ "rollback", "web", "--to", "1" }).stdout)
    assert.same({ app_name = "web", to = 1 }, d:asked("POST /rollback").body)
    assert.equal(2, ndctl({ "destroy", "web" }).status)
    assert.equal("web is removed\n", ndctl({ "destroy", "web", "-y" }).stdout)
  end)

  it("exits 1 when doctor finds a problem, and says what to do", function()
    daemon { ["GET /doctor"] = { payload = { checks = {
      { name = "docker", ok = true, message = "Engine 20.10" },
      { name = "proxy", ok = false, message = "caddy doesn't answer", hint = "start caddy" },
    } } } }
    local r = ndctl { "doctor" }
    assert.equal(1, r.status)
    assert.matches("ok    docker  Engine 20.10", r.stdout)
    assert.matches("bad   proxy   caddy doesn't answer", r.stdout)
    assert.matches("hint: start caddy", r.stdout)
  end)

  it("says that the run goes on when it is interrupted, and exits 130", function()
    daemon(run_routes(run_of { state = "running" }, {
      ["WS /ws/events"] = function(ws)
        ws:recv()
      end,
    }))
    local r = ndctl({ "deploy", "web:v2", "--app", "web" },
      { argv = { "timeout", "--signal=INT", "--preserve-status", "1" } })
    assert.equal(130, r.status, r.stderr)
    assert.matches("The run goes on", r.stderr)
    assert.matches("ndctl runs watch " .. RUN, r.stderr, 1, true)
    assert.matches("ndctl runs cancel " .. RUN, r.stderr, 1, true)
  end)

  it("has one live line a step on a terminal", function()
    daemon(run_routes(run_of()))
    local env = { LANG = "C.UTF-8", TERM = "xterm" }
    local words = { "deploy", "web:v2", "--app", "web" }
    local r = ndctl(words, { env = env, terminal = true })
    assert.equal(0, r.status, r.stdout)
    assert.matches("\27[32m✓\27[0m   1.2s  pull web:v2", r.stdout, 1, true)
    env.NO_COLOR = "1"
    r = ndctl(words, { env = env, terminal = true })
    assert.matches("✓   1.2s  pull web:v2", r.stdout, 1, true)
    assert.is_nil(r.stdout:find("\27[32m", 1, true))
  end)
end)
