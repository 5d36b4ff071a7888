-- What test_commands checks of every command. Rows that come later are found by themselves; what a
-- row says for it is told in ndctl/lib/commands.lua.
--
-- The examples run as they stand, except that their names stand for what this test has (`names`).
-- Before each of them the app `web` has a live and a kept release.

local cert = require "cert"
local clock = require "clock"
local fs = require "fs"
local json = require "json"
local process = require "process"
local task = require "task"
local args = require "ndctl.lib.args"
local commands = require "ndctl.lib.commands"
local schema = require "nd.api.schema"
require "nd.api.shapes"

local BIN, WORK = os.getenv "ND_BIN_DIR", os.getenv "ND_WORK"
local HOST, TCP, VIEWER = os.getenv "NDCTL_HOST", os.getenv "ND_TCP", os.getenv "ND_VIEWER"
local PATH = BIN .. ":" .. os.getenv "PATH"

local run_id, job_id, kept
local untouched = false -- nothing ran since `web` was looked at that could have changed it

-- What the examples' names stand for here.
local function names()
  return {
    ["nginx:1.27"] = "nd-cli-commands:v1", ["nginx:1.28"] = "nd-cli-commands:v2",
    ["api:v2"] = "nd-cli-commands:v2", ["nginx:alpine"] = "nd-cli-commands:v2",
    ["registry.example.com"] = os.getenv "ND_REGISTRY",
    ["open sesame"] = os.getenv "ND_REGISTRY_PASSWORD", ["6h2k9xq4mz"] = run_id, ["7"] = kept,
    ["17"] = job_id, shop = "web", ["bin/app"] = "/nd-sample",
    ["/etc/nextdeploy/nextdeployd.lua"] = "nextdeployd.lua", ["http://127.0.0.1:8371"] = TCP,
    ["/api/health"] = "/health", ["/up"] = "/health",
  }
end

-- Runs ndctl; options: env, stdin, answer (typed on a terminal), follows (interrupted after a second),
-- project (true: in the folder with a nextdeploy.lua).
local function ndctl(words, options)
  options = options or {}
  local argv = { "ndctl", table.unpack(words) }
  local env = { PATH = PATH, NDCTL_HOST = HOST, HOME = WORK .. "/home", LANG = "C.UTF-8" }
  for name, value in pairs(options.env or {}) do env[name] = value end
  local stdin = options.stdin
  if options.answer then
    local quoted = {}
    for i, word in ipairs(argv) do quoted[i] = "'" .. word .. "'" end
    argv, stdin = { "script", "-qec", table.concat(quoted, " "), "/dev/null" }, options.answer .. "\n"
  elseif options.follows then
    argv = { "timeout", "--preserve-status", "-s", "INT", "1", table.unpack(argv) }
  end
  return process.run { argv = argv, env = env, cwd = options.project and WORK .. "/project" or WORK,
    stdin = stdin, timeout_ms = 120000 }
end

-- The words of a shell's line, quotes taken off; the first ("ndctl") left out.
local function words_of(line)
  local words, known, at = {}, names(), 1
  while true do
    at = line:find("%S", at)
    if not at then break end
    local quote = line:match("^(['\"])", at)
    local from, to = at, line:find("%s", at) or #line + 1
    if quote then from, to = at + 1, line:find(quote, at + 1, true) end
    local word = line:sub(from, to - 1)
    words[#words + 1] = known[word] or word
    at = to + (quote and 1 or 0)
  end
  table.remove(words, 1)
  return words
end

-- ---- shapes ----

-- A row's `json` as a JSON Schema.
local function schema_of(shape)
  if type(shape) == "table" then return shape end
  local one, other = shape:match("^([^|]+)|(.+)$")
  if one then return { oneOf = { schema_of(one), schema_of(other) } } end
  local item = shape:match("^(.-)%[%]$")
  if item then return { type = "array", items = schema_of(item) } end
  assert(schema.components[shape], "there is no schema " .. shape)
  return schema.ref(shape)
end

local function check_json(row, line, r)
  local shape = line:find(" --plan", 1, true) and (row.plan or "Plan") or row.json
  local lines = type(shape) == "string" and shape:match("^(.*) lines$")
    or type(shape) == "table" and shape.lines and shape
  local count = 0
  local function check(text)
    local value = json.decode(text)
    if shape then schema.check(schema_of(lines or shape), value) end
    count = count + 1
  end
  if not lines then
    check(r.stdout)
  else
    for text in r.stdout:gmatch("[^\n]+") do check(text) end
  end
  assert.is_true(count > 0, line .. " printed nothing")
end

-- ---- what an example needs ----

local function done(words, ...)
  local r = ndctl(words, ...)
  assert.equal(0, r.status, table.concat(words, " ") .. ": " .. r.stderr)
  return r.stdout
end

local web_is_well
function web_is_well()
  local r = ndctl { "status", "web", "--json" }
  local app = r.status == 0 and json.decode(r.stdout)
  if app and app.status == "updating" then -- what another example left under way
    ndctl { "runs", "cancel", app.run_id }
    return web_is_well()
  end
  kept = app and app.previous and tostring(app.previous)
  -- Kept releases and many instances would use up the addresses of its network.
  if app and (app.release or 0) >= 6 or #(app and app.instances or {}) > 2 then
    ndctl { "destroy", "web", "--yes" }
    return false
  end
  return kept and app.status == "running" and app.image:find("nd-cli-commands", 1, true)
end

-- The files www.crt and www.key; and the daemon has them, if `import`.
local function bring_certificate(import)
  local now = clock.now()
  local pem, key = cert.make { common_name = "www.example.com", names = { "www.example.com" }, not_before = now,
    not_after = now + 90 * 24 * 3600 * 1000 }
  fs.write(WORK .. "/www.crt", pem, 420)
  fs.write(WORK .. "/www.key", key)
  if import then done { "certs", "import", "www.example.com", "--cert", "www.crt", "--key", "www.key" } end
end

-- Ann has her first password, and is signed in over TCP.
local function join_ann()
  ndctl { "team", "remove", "ann@example.com", "--yes" }
  local code = done({ "team", "add", "ann@example.com", "--role", "viewer", "--quiet" }):match "%S+"
  done({ "login", "--host", TCP, "--invitation", code, "--password-stdin" }, { stdin = "correct horse battery\n" })
end

-- For those that take back or look at what another made.
local before = {
  ["runs cancel"] = function()
    run_id = done({ "run", "recipe", "slow.lua", "--app", "web", "--no-wait" }):match("%S+")
  end,
  ["runs approve"] = function()
    fs.write(WORK .. "/asks.lua",
      'return recipe { params = { app = param.app {} }, run = function() approval.wait("a test") end }', 420)
    run_id = done({ "run", "recipe", "asks.lua", "--app", "web", "--no-wait" }):match("%S+")
    for _ = 1, 100 do
      if ndctl({ "runs", "show", run_id }).stdout:find("a test", 1, true) then return end
      task.sleep(50)
    end
  end,
  ["runs replay"] = function()
    fs.write(WORK .. "/run.json", done { "runs", "export", run_id }, 420)
  end,
  ["crypt"] = function()
    fs.remove(WORK .. "/key.txt")
    local recipient = done { "crypt", "keygen", "-o", "key.txt" }
    fs.write(WORK .. "/team.txt", recipient, 420)
    ndctl({ "crypt", "encrypt", "-R", "team.txt", "-o", "backup.age" }, { stdin = "attack at dawn\n" })
  end,
  ["crypt keygen"] = function() fs.remove(WORK .. "/key.txt") end,
  ["diff"] = function() ndctl { "destroy", "web", "--env", "staging", "--yes" } end,
  ["doctor"] = function() -- rules of a change just made may still be on their way
    for _ = 1, 20 do
      if ndctl({ "doctor" }).status == 0 then return end
      task.sleep(50)
    end
  end,
  ["job show"] = function() job_id = done({ "job", "run", "web", "report", "--no-wait" }):match("%d+") end,
  ["job cancel"] = function() job_id = done({ "job", "run", "web", "nap", "--no-wait" }):match("%d+") end,
  ["recipe new"] = function() fs.remove(WORK .. "/fresh", { recursive = true }) end,
  ["token rm"] = function() ndctl { "token", "create", "--name", "ci" } end,
  ["token create"] = function()
    for _, name in ipairs { "ci", "grafana", "staging-ci" } do ndctl { "token", "rm", name, "--yes" } end
  end,
  ["context"] = function()
    ndctl { "context", "add", "box", "--host", TCP, "--token", "nd_secret", "--replace" }
  end,
  ["audit verify"] = function()
    done { "audit", "export", "-o", "audit.jsonl" }
    fs.write(WORK .. "/audit.pub", json.decode(done { "audit", "verify", "--json" }).key .. "\n", 420)
  end,
  ["context add"] = function() ndctl { "context", "remove", "box" } end,
  ["login"] = function() join_ann() end,
  ["logout"] = function() join_ann() end,
  ["password"] = function() join_ann() end,
  ["team add"] = function() ndctl { "team", "remove", "user@email.com", "--yes" } end,
  ["team role"] = function() ndctl { "team", "add", "user@email.com", "--role", "deployer" } end,
  ["team invite"] = function() ndctl { "team", "add", "user@email.com", "--role", "deployer" } end,
  ["team remove"] = function() ndctl { "team", "add", "user@email.com", "--role", "deployer" } end,
  ["role create"] = function() ndctl { "role", "rm", "stager", "--yes" } end,
  ["role set"] = function() ndctl { "role", "create", "stager", "--allow", "read" } end,
  ["role rm"] = function() ndctl { "role", "create", "stager", "--allow", "read" } end,
  ["proxy remove"] = function() done { "proxy", "set", "www.example.com", "--app", "web" } end,
  ["certs import"] = function() bring_certificate() end,
  ["certs show"] = function() bring_certificate "import" end,
  ["certs remove"] = function() bring_certificate "import" end,
  ["certs rotate"] = function()
    ndctl { "certs", "rm", "www.example.com" }
    done { "proxy", "set", "www.example.com", "--app", "web", "--tls", "internal" }
  end,
  ["deploy"] = function() ndctl { "secrets", "set", "DB_PASSWORD", "open sesame" } end,
  ["secrets"] = function()
    ndctl { "secrets", "owner" }
    for _, name in ipairs { "DB_PASSWORD", "OLD_KEY" } do done { "secrets", "set", name, tostring(clock.now()) } end
    fs.write(WORK .. "/.env", "API_KEY='open sesame'\n", 384)
  end,
  ["registry logout"] = function()
    ndctl({ "registry", "login", os.getenv "ND_REGISTRY", "-u", "robot", "--password-stdin" },
      { stdin = os.getenv "ND_REGISTRY_PASSWORD" })
  end,
}

local function look_after_web()
  if not web_is_well() then
    for _, image in ipairs { "nd-cli-commands:v1", "nd-cli-commands:v2" } do
      done { "deploy", image, "--app", "web", "--file", "project/nextdeploy.lua", "--yes", "--drain", "1s",
        "--quiet" }
    end
    kept = tostring(json.decode(done { "status", "web", "--json" }).previous)
  end
  run_id = json.decode(done { "runs", "list", "--app", "web", "--limit", "1", "--json" })[1].id
end

local function prepare(row)
  if not untouched then look_after_web() end
  untouched = row ~= nil and (row.permission == "read" or row.permission == "local")
  local more = row and (before[row.path] or before[row.path:match("^%S+")])
  if more then more() end
end

local function example_of(row)
  for _, example in ipairs(row.examples) do
    if not example.skip then return example end
  end
end

local function stdin_of(example)
  if example.file then return fs.read(WORK .. "/" .. example.file) end
  return example.stdin and example.stdin:gsub("open sesame", os.getenv "ND_REGISTRY_PASSWORD")
end

local function run_example(row, example, more, env)
  prepare(row)
  local words = words_of(example[1])
  for _, word in ipairs(more or {}) do words[#words + 1] = word end
  local answer = example.answer and (names()[example.answer] or example.answer)
  return ndctl(words, { env = env, stdin = stdin_of(example), answer = answer,
    follows = example.follows, project = example.project }), words
end

-- ---- errors ----

local NOBODY = { NDCTL_HOST = "unix:///nowhere/nextdeployd.sock" }
local STRANGER = { NDCTL_HOST = TCP, NDCTL_TOKEN = "nd_unknown" }
local WATCHER = { NDCTL_HOST = TCP, NDCTL_TOKEN = VIEWER }

-- Words and what goes with them; typed answers are left out by --yes.
local function quietly(row, example)
  local words = words_of(example[1])
  if example.answer and row.path:find("^registry") then
    words[#words + 1] = "--password-stdin"
  elseif example.answer then
    words[#words + 1] = "--yes"
  end
  return words, { stdin = stdin_of(example) or "x\n", follows = example.follows,
    project = example.project }
end

local function try(row, example, env, more)
  local words, options = quietly(row, example)
  for _, word in ipairs(more or {}) do words[#words + 1] = word end
  options.env = env
  return ndctl(words, options).status
end

local function path_length(row) return select(2, row.path:gsub("%S+", "")) end

-- The example with the name it is about exchanged for one that there isn't; nil where it has none.
local function of_nobody(row)
  local spec = row.args and row.args[1]
  if not spec or spec.many or spec.choices then return nil end
  local kind = spec.complete or spec[1]
  if not ({ app = true, recipes = true, recipe = true, runs = true, contexts = true, tokens = true,
    registries = true, apps = true, jobs = true, secrets = true, people = true, roles = true })[kind] then
    return nil
  end
  for _, example in ipairs(row.examples) do
    local words, options = quietly(row, example)
    local at = path_length(row)
    local _, named = args.parse(row, table.move(words, at + 1, #words, 1, {}))
    local value = named[spec[1]]
    if value and not example.skip then
      for i = at + 1, #words do
        if words[i] == value then words[i] = kind == "registries" and "nowhere.example" or "nobody" end
      end
      return words, options
    end
  end
end

-- kind, function(row, example) -> the exit status and the one that is right (or a set of them); nil
-- where the kind can't happen.
local kinds = {
  { "option", function(row, example)
    return try(row, example, nil, { "--no-such-option" }), 2
  end },
  { "argument", function(row)
    local needed = false
    for _, spec in ipairs(row.args or {}) do needed = needed or not spec.optional end
    for _, option in ipairs(row.options or {}) do needed = needed or option.required end
    if not needed then return nil end
    local words = {}
    for word in row.path:gmatch("%S+") do words[#words + 1] = word end
    return ndctl(words).status, 2
  end },
  { "name", function(row)
    local words, options = of_nobody(row)
    if not words then return nil end
    return ndctl(words, options).status, (row.errors or {}).name or 4
  end },
  { "daemon", function(row, example)
    local got = try(row, example, NOBODY)
    return got, row.permission == "local" and (example.status or 0) or 7
  end },
  { "token", function(row, example)
    if row.permission == "local" then return nil end
    return try(row, example, STRANGER), 3
  end },
  { "viewer", function(row, example)
    if row.permission == "local" then return nil end
    local may = row.permission == "read" or row.permission == "self"
    return try(row, example, WATCHER), may and (example.status or example.follows and 130 or 0) or 3
  end },
}

local function live_run(fn)
  prepare()
  local id = done({ "run", "recipe", "slow.lua", "--app", "web", "--no-wait" }):match("%S+")
  local ok, e = pcall(fn)
  ndctl { "runs", "cancel", id }
  if not ok then error(e, 0) end
end

local statuses = {} -- path -> kind -> status

local function note(row, kind, status)
  statuses[row.path] = statuses[row.path] or {}
  statuses[row.path][kind] = status
end

local rows = {}
commands.each(function(row)
  if row.run then rows[#rows + 1] = row end
end)

-- Those that take down what the others need come last, as the order of a day has it.
describe("ndctl", function()
  for _, row in ipairs(rows) do
    it(row.path .. " explains itself", function()
      local words = { "--help" }
      for word in row.path:gmatch("%S+") do table.insert(words, #words, word) end
      local help = done(words)
      assert.is_true(#row.examples > 0)
      for _, example in ipairs(row.examples) do
        assert.truthy(help:find("  " .. example[1] .. "\n", 1, true), example[1] .. " isn't in its help")
      end
    end)

    it(row.path .. " does what its examples say", function()
      local told_json = false
      for _, example in ipairs(row.examples) do
        if not example.skip then
          local r, words = run_example(row, example)
          local wanted = example.status or example.follows and 130 or 0
          assert.equal(wanted, r.status, example[1] .. ": " .. r.stdout .. r.stderr)
          if example[1]:find(" --json", 1, true) then
            check_json(row, example[1], r)
            told_json = true
          end
          assert.is_falsy(not example.answer and r.stdout:find("\27", 1, true), "colour off a terminal: "
            .. table.concat(words, " "))
        end
      end
      local example = example_of(row)
      if told_json or row.json == false or not example then return end
      local r = run_example(row, example, { "--json" })
      if example.answer then r.stdout = r.stdout:match("({.*)$") or r.stdout end
      check_json(row, example[1], r)
    end)

    it(row.path .. " has the right exit status for each kind of error", function()
      local example = example_of(row)
      if not example then return end
      prepare(row)
      local tries = {}
      for i, kind in ipairs(kinds) do
        tries[i] = task.spawn(kind[1], kind[2], row, example)
      end
      for i, kind in ipairs(kinds) do
        local got, wanted = tries[i]:join()
        if got then
          note(row, kind[1], got)
          assert.equal(wanted, got, ("%s, wrong %s"):format(row.path, kind[1]))
        end
      end
    end)
  end

  it("refuses to change an app while a run of it is live", function()
    live_run(function()
      for _, row in ipairs(rows) do
        if row.conflict then
          local words, options = quietly(row, example_of(row))
          local status = ndctl(words, options).status
          note(row, "conflict", status)
          assert.equal(5, status, row.path)
        end
      end
    end)
  end)

  it("says the permission and the shape of every command's --json", function()
    for _, row in ipairs(rows) do
      assert.truthy(row.permission, row.path .. " says no permission")
      assert.is_not_nil(row.json, row.path .. " says no shape of its --json")
    end
  end)

  teardown(function()
    local titles = { "option", "argument", "name", "daemon", "token", "viewer", "conflict" }
    print(("# %-18s %s"):format("exit status", table.concat(titles, "  ")))
    for _, row in ipairs(rows) do
      local cells = {}
      for i, title in ipairs(titles) do
        local status = (statuses[row.path] or {})[title]
        cells[i] = ("%" .. #title .. "s"):format(status or "-")
      end
      print(("# %-18s %s"):format(row.path, table.concat(cells, "  ")))
    end
  end)
end)
