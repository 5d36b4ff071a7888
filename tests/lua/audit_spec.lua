-- audit_spec.lua - what the audit log says, that it can't be touched unseen, and that nothing is changed
-- without it. The work of tests/fault/audit, in short, is here too.

local clock = require "clock"
local crypto = require "crypto"
local fs = require "fs"
local json = require "json"
local task = require "task"
local Audit = require "nd.service.audit"
local Store = require "nd.store"
local api = require "nd.api"
local chain = require "nd.service.audit_chain"
local err = require "nd.error"

local here = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local tamper = dofile(here .. "/lib/tamper.lua")

describe("the audit log", function()
  local dir, d, handler

  local function open()
    d = { options = { state_dir = dir }, version = "0.0.1", metrics = { requests = { add = function() end } } }
    d.store = Store.open(dir, "a machine")
    for name, module in pairs { apps = "app", seal = "seal", guesses = "guesses", people = "people" } do
      d[name] = require("nd.service." .. module).new(d)
    end
    d.audit = Audit.new(d)
    d.audit:open()
    handler = api.handler(d)
  end

  local function close()
    d.audit:close()
    d.store:close()
  end

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    fs.mkdir(dir, 448)
    open()
  end)

  after_each(function()
    close()
    fs.remove(dir, { recursive = true })
  end)

  local unix = { kind = "unix", uid = 0, pid = 42 }
  local tcp = { kind = "tcp", address = "127.0.0.1", port = 4242 }

  local function ask(method, path, body, peer, headers, query)
    local answer = handler { method = method, path = path, query = query or {}, headers = headers or {},
      body = body and json.encode(body) or "", peer = peer or unix }
    return answer.status or 200, json.decode(answer.body), answer
  end

  local function rows(where, ...)
    return d.store:all("SELECT * FROM audit WHERE " .. (where or "kind <> 'system'") .. " ORDER BY seq", ...)
  end

  it("has two rows of a change, durable before it is made and before the answer leaves", function()
    local seen
    local try = d.store.try
    d.store.try = function(...)
      seen = #rows "outcome = 'asked'"
      return try(...)
    end
    local status, _, answer = ask("POST", "/tokens", { name = "ci", role = "viewer" })
    assert.equal(200, status)
    assert.equal(1, seen)
    local list = rows()
    assert.equal(2, #list)
    assert.same({ "asked", "done" }, { list[1].outcome, list[2].outcome })
    for _, row in ipairs(list) do
      assert.equal("createToken", row.operation)
      assert.equal("people", row.permission)
      assert.same({ "unix", "uid 0", "pid 42", "ci" }, { row.kind, row.who, row.origin, row.object })
      assert.equal(answer.headers["x-request-id"], row.request)
      assert.is_true(clock.now() - row.time < 60000)
    end
    assert.equal(409, (ask("POST", "/tokens", { name = "ci" })))
    assert.same({ "refused", "exists" }, { rows()[4].outcome, rows()[4].code })
    assert.equal(200, (ask("GET", "/tokens")))
    assert.equal(4, #rows())
  end)

  it("has a row of every attempt that is refused", function()
    ask("POST", "/tokens", { name = "x" }, tcp, { host = "127.0.0.1:8371", authorization = "Bearer wrong" })
    ask("GET", "/tokens", nil, tcp, { host = "127.0.0.1:8371" })
    ask("GET", "/status", nil, tcp, { host = "127.0.0.1:8371", origin = "http://evil.example" })
    ask("POST", "/stop", { app = 1 })
    d.store:commit { { "INSERT INTO token (name, hash, role, created_at) VALUES ('eve', ?, 'viewer', 1)",
      crypto.sha256 "nd_x" } }
    ask("POST", "/stop", { app_name = "shop" }, tcp, { host = "127.0.0.1:8371", authorization = "Bearer nd_x" })
    local list = rows()
    assert.equal(5, #list)
    assert.same({ "stop", "forbidden", "token", "eve", "shop" },
      { list[5].operation, list[5].code, list[5].kind, list[5].who, list[5].app })
    assert.same({ "none", "127.0.0.1:4242", "createToken", "unauthorized" },
      { list[1].kind, list[1].origin, list[1].operation, list[1].code })
    assert.same({ "listTokens", "unauthorized" }, { list[2].operation, list[2].code })
    assert.same({ "GET /status", "forbidden" }, { list[3].operation, list[3].code })
    assert.same({ "stop", "bad_request", "uid 0" }, { list[4].operation, list[4].code, list[4].who })
  end)

  it("counts a flood of refusals, so that it doesn't fill the disk", function()
    for i = 1, 500 do
      ask("GET", "/tokens", nil, { kind = "tcp", address = "127.0.0." .. i % 20, port = i },
        { host = "127.0.0.1:8371" })
    end
    assert.equal(10, #rows())
    close()
    open()
    local list = rows()
    assert.equal(11, #list)
    assert.same({ "several", 490 }, { list[11].operation, list[11].count })
    assert.matches("127%.0%.0%.%d+ %(%d+%), .*and others", list[11].detail)
  end)

  it("tells of each flood once, while others begin", function()
    local function refuse(i)
      d.audit:refuse({ user = { kind = "token", name = "user " .. i, id = "user " .. i },
        request = { method = "GET", path = "/tokens", query = {}, headers = {}, body = "", peer = tcp } }, "forbidden")
    end
    for i = 1, 30 do
      for _ = 1, 11 do refuse(i) end
    end
    local append, more = d.audit.log.append, 0
    function d.audit.log.append(log, row)
      append(log, row)
      if row.operation ~= "several" then return end
      for _ = 1, 10 do
        more = more + 1
        refuse("more " .. more)
      end
    end
    close()
    open()
    assert.equal(30, #rows "operation = 'several'")
  end)

  it("counts a flood of what is certain to be refused to somebody known, too", function()
    local _, made = ask("POST", "/tokens", { name = "eve", role = "viewer" })
    local headers = { host = "127.0.0.1:8371", authorization = "Bearer " .. made.payload.token }
    local _, person = ask("POST", "/team", { email = "ann@example.com", role = "viewer" })
    local _, ann = ask("POST", "/login/invitation", { invitation = person.payload.invitation,
      password = "correct horse" }, tcp)
    local signed_in = { host = headers.host, authorization = "Bearer " .. ann.payload.access_token }
    local before = #rows()
    for _ = 1, 30 do
      assert.equal(403, (ask("POST", "/logout", nil, tcp, headers)))
      assert.equal(403, (ask("POST", "/password", { old = "x", new = "correct horse" }, tcp, headers)))
      assert.equal(401, (ask("POST", "/login/invitation", { invitation = "x", password = "correct horse" },
        unix, headers)))
    end
    assert.equal(before + 20, #rows()) -- ten of the token, ten of the socket
    local codes = {}
    for n = 1, 40 do codes[n] = ask("POST", "/password", { old = "wrong", new = "correct horse" }, tcp, signed_in) end
    assert.same({ 403, 429 }, { codes[1], codes[40] })
    local asked, refused = #rows "operation = 'setPassword' AND outcome = 'asked'", #rows [[operation = 'setPassword'
      AND outcome = 'refused' AND kind = 'session']]
    assert.is_true(asked <= 5 and refused <= 15, asked .. " " .. refused)
    assert.equal(400, (ask("POST", "/password", { old = "wrong", new = "short" }, tcp, signed_in)))
    assert.equal(asked, #rows "operation = 'setPassword' AND outcome = 'asked'")
    assert.equal(200, (ask("POST", "/logout", nil, tcp, signed_in)))
    assert.same({ "asked", "done" }, { rows()[#rows() - 1].outcome, rows()[#rows()].outcome })
  end)

  -- The newest row of an operation, as "project/environment/app object run".
  local function newest(operation, outcome)
    local list = rows("operation = ? AND outcome = ?", operation, outcome or "done")
    local row = list[#list]
    return row and ("%s/%s/%s %s %s"):format(row.project, row.environment, row.app, row.object, row.run)
  end

  local function add_app(environment, name)
    d.store:commit { { [[INSERT INTO app (project, environment, name, created_at, updated_at)
      VALUES ('default', ?, ?, 1, 1)]], environment, name } }
    return d.store:get "SELECT max(id) AS id FROM app".id
  end

  it("says whose secrets were set: an environment's are no other environment's", function()
    d.secrets = { sync = function() return json.array {} end, list = function() return json.array {} end }
    for _, environment in ipairs { "staging", "production" } do
      assert.equal(200, (ask("POST", "/secrets/sync", { environment = environment, secrets = { A = "x" } })))
      assert.equal("default/" .. environment .. "/nil nil nil", newest "syncSecrets")
      assert.equal("default/" .. environment .. "/nil A nil", newest("secret.set", "noted"))
    end
    assert.equal(200, (ask("GET", "/secrets", nil, nil, nil, { environment = "staging" })))
    assert.equal("default/staging/nil nil nil", newest("secret.list", "noted"))
    ask("POST", "/secrets/sync", { app = "shop", secrets = { A = "x" } })
    assert.equal("default/production/shop nil nil", newest "syncSecrets")
  end)

  it("says of which app a run, a job or a host name is, and a job is no run", function()
    local shop = add_app("staging", "shop")
    d.store:commit { { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('b', 'bluegreen', '{}', 1)" },
      { [[INSERT INTO run (id, app, recipe, bundle, params, seed, state, owner, started_at, ended_at)
      VALUES ('r1', ?, 'bluegreen', 'b', '{}', 1, 'done', 'ci', 1, 2)]], shop },
      { [[INSERT INTO job (app, process, trigger, key, name, address, command, image, image_id, number, timeout, state,
        created_at) VALUES (?, 'up', 'person', 'k', 'n', '', '[]', 'i', 'i', 1, 1, 'done', 1)]], shop },
      { [[INSERT INTO route (app, domain, tls, proxy_type, created_at)
        VALUES (?, 'shop.example', 'off', 'caddy', 1)]], shop } }
    d.runs = { approve = function() return { row = {} } end, describe = function() return {} end }
    d.jobs = { cancel = function() return {} end, describe = function() return {} end }
    d.edge = { forget = function() d.store:commit { { "DELETE FROM route" } } return {} end }
    assert.equal(200, (ask("POST", "/runs/r1/approve")))
    assert.equal("default/staging/shop r1 r1", newest "approveRun")
    assert.equal(200, (ask("POST", "/jobs/1/cancel")))
    assert.equal("default/staging/shop 1 nil", newest "cancelJob")
    assert.equal(200, (ask("DELETE", "/proxy/routes/shop.example")))
    assert.equal("default/staging/shop shop.example nil", newest "removeRoute")
    assert.equal(6, #select(2, ask("GET", "/audit", nil, nil, nil, { app = "shop" })).payload
      + #select(2, ask("GET", "/audit", nil, nil, nil, { app = "shop", outcome = "asked" })).payload)
  end)

  it("says to what a token is limited as it is, and who took an invitation", function()
    ask("POST", "/tokens", { name = "one", app = "shop" })
    assert.equal("*/*/shop one nil", newest "createToken")
    ask("POST", "/tokens", { name = "two", environment = "staging" })
    assert.equal("*/staging/* two nil", newest "createToken")
    local _, person = ask("POST", "/team", { email = "ann@example.com", role = "viewer" })
    assert.equal(200, (ask("POST", "/login/invitation", { invitation = person.payload.invitation,
      password = "correct horse" }, tcp)))
    assert.equal("nil/nil/nil ann@example.com nil", newest "acceptInvitation")
  end)

  it("has a row of a session that ends since its refresh token came twice, however many are refused", function()
    local _, person = ask("POST", "/team", { email = "ann@example.com", role = "viewer" })
    local _, first = ask("POST", "/login/invitation", { invitation = person.payload.invitation,
      password = "correct horse" }, tcp)
    local function refresh(token) return (ask("POST", "/login/refresh", { refresh_token = token }, tcp)) end
    for _ = 1, 12 do refresh "x.y.z" end
    assert.equal(200, refresh(first.payload.refresh_token))
    for _ = 1, 3 do assert.equal(401, refresh(first.payload.refresh_token)) end
    d.audit:record { operation = "x" } -- comes after
    local list = rows "operation = 'session.end'"
    assert.equal(1, #list)
    assert.same({ "done", "ann@example.com", "none", "127.0.0.1:4242" },
      { list[1].outcome, list[1].object, list[1].kind, list[1].origin })
    assert.matches("a second time", list[1].detail)
  end)

  it("has a row of a login, or doesn't answer it, and none of each guess", function()
    local guesses = 0
    d.people = { sign_in = function(_, _, password)
      guesses = guesses + 1
      if password ~= "right" then err.raise("unauthorized", "no") end
      return {}
    end }
    local function login(password)
      return (ask("POST", "/login", { email = "eve@example.com", password = password }, tcp,
        { host = "127.0.0.1:8371" }))
    end
    for _ = 1, 100 do assert.equal(401, login "wrong") end
    assert.equal(100, guesses)
    local list = rows()
    assert.equal(10, #list)
    assert.same({ "refused", "login", "none", "eve@example.com" },
      { list[1].outcome, list[1].operation, list[1].kind, list[1].object })
    assert.equal(200, login "right")
    list = rows()
    assert.same({ 11, "done", "eve@example.com" }, { #list, list[11].outcome, list[11].object })
    local commit = d.store.commit
    d.store.commit = function() err.raise("db_full", "the disk is full") end
    assert.equal(507, login "right")
    d.store.commit = commit
  end)

  it("changes nothing where it can't be written: 507, and reads go on", function()
    local commit, full = d.store.commit, true
    d.store.commit = function(...)
      if full then err.raise("db_full", "the database can't grow: the disk is full", "free some space") end
      return commit(...)
    end
    local status, body = ask("POST", "/tokens", { name = "ci" })
    assert.equal(507, status)
    assert.equal("db_full", body.code)
    assert.matches("nothing was done, since it can't be audited", body.message)
    assert.equal("free some space", body.hint)
    status, body = ask("GET", "/tokens")
    assert.equal(200, status)
    assert.same({}, body.payload)
    assert.equal(401, (ask("GET", "/tokens", nil, tcp, { host = "127.0.0.1:8371" })))
    full = false
    assert.equal(200, (ask("POST", "/tokens", { name = "ci" })))
    assert.same({ "asked", "done" }, { rows()[1].outcome, rows()[2].outcome })
    assert.is_true(d.audit.log:verify().ok)
  end)

  it("keeps an outcome that the disk refuses, and writes it as soon as it can", function()
    local commit, left = d.store.commit, 1
    d.store.commit = function(...)
      left = left - 1
      if left == -1 then err.raise("db_full", "the disk is full") end
      return commit(...)
    end
    -- the first is "asked"; the change itself is store:try, whose empty commit isn't counted here
    d.store.try = function(self, statements) return self:write(statements, {}) end
    assert.equal(200, (ask("POST", "/tokens", { name = "ci" })))
    d.audit:record { operation = "something", kind = "system" }
    assert.same({ "asked", "done" }, { rows()[1].outcome, rows()[2].outcome })
  end)

  it("says after a kill what it doesn't know the outcome of", function()
    for _, row in ipairs { { "asked", "r1" }, { "asked", "r2" }, { "done", "r2" } } do
      d.audit.log:append { outcome = row[1], operation = "deploy", request = row[2], kind = "token", who = "ci",
        app = "web" }
    end
    close()
    open()
    local function told() return #rows "outcome = 'failed'" > 0 end
    local deadline = clock.monotonic() + 5000
    while not told() and clock.monotonic() < deadline do task.sleep(5) end
    local list = rows "outcome = 'failed'"
    assert.equal(1, #list)
    assert.same({ "r1", "unknown_outcome", "web" }, { list[1].request, list[1].code, list[1].app })
    close()
    open()
    d.audit:record { operation = "x" }
    assert.equal(1, #rows "outcome = 'failed'")
  end)

  it("encodes what could pretend to be something else", function()
    assert.equal("shop:v1", Audit.clean "shop:v1")
    assert.equal([[a\x0Ab\x1B[31m\x00\\x\xC2\x9B\xE2\x80\xAEü]], Audit.clean "a\nb\27[31m\0\\x\u{9B}\u{202E}ü")
    assert.equal([[\xFF\xC3]], Audit.clean "\xff\xc3")
    assert.equal(203, #Audit.clean(("x"):rep(1000)))
    ask("DELETE", "/tokens/a\r\n\27]0;x\7", nil)
    local row = rows()[1]
    assert.equal([[a\x0D\x0A\x1B]0;x\x07]], row.object)
  end)

  it("hashes what its columns hold, whatever somebody gives it", function()
    local huge = ("x"):rep(1e6)
    for _, given in ipairs { 7, 1.5, true, {}, huge, "a\n\xFF\0b" } do
      d.audit:note { operation = "test", outcome = "failed", code = given, run = given, object = given }
      d.audit:record { operation = "test", outcome = "failed", code = given, run = given, who = given }
    end
    assert.same({}, d.audit.log:verify().problems)
    assert.is_nil(d.audit.log:trouble())
    for _, row in ipairs(rows("operation = 'test'")) do assert.is_true(#json.encode(row) < 1500) end
    assert.equal(12, #rows("operation = 'test'"))
  end)

  it("is found whole, or in pieces that fit", function()
    for i = 1, 30 do ask("POST", "/tokens", { name = "t" .. i }) end
    local status, body = ask("GET", "/audit/verify")
    assert.equal(200, status)
    assert.is_true(body.payload.ok, table.concat(body.payload.problems, "; "))
    assert.equal(61, body.payload.rows)
    local lines = {}
    d.audit.log:export(nil, function(line) lines[#lines + 1] = line end)
    local last = json.decode(lines[#lines])
    ask("POST", "/tokens", { name = "later" })
    assert.is_true(d.audit.log:verify(last).ok)
    local verdict = d.audit.log:verify { seq = last.seq, hash = ("0"):rep(64) }
    assert.is_false(verdict.ok)
    assert.matches("what you know: row 61 had another hash", verdict.problems[1])
    assert.equal(400, (ask("GET", "/audit/verify", nil, nil, nil, { seq = "1" })))
  end)

  it("tells while it runs that its end is gone", function()
    for i = 1, 5 do ask("POST", "/tokens", { name = "t" .. i }) end
    local other = require("db").open(dir .. "/nextdeploy.db")
    other:script "DROP TRIGGER audit_kept"
    other:write { { "DELETE FROM audit WHERE seq > 8" } }
    assert.is_false(d.audit.log:verify().ok)
    assert.equal(200, (ask("POST", "/tokens", { name = "another" })))
    assert.is_false(d.audit.log:verify().ok)
    other:close()
    fs.remove(dir .. "/audit/head") -- what was removed is not to be looked for at the next start
  end)

  it("can't be changed by the daemon itself", function()
    d.audit:record { operation = "x" }
    for sql, why in pairs { ["UPDATE audit SET who = 'me'"] = "never changed",
      ["DELETE FROM audit"] = "only removed when it was handed over" } do
      local ok, e = pcall(d.store.try, d.store, { { sql } })
      assert.is_false(ok)
      assert.matches(why, e.message .. tostring(e.data and e.data.constraint))
    end
  end)

  it("lists what is asked for, page by page", function()
    for i = 1, 5 do ask("POST", "/tokens", { name = "t" .. i }) end
    ask("DELETE", "/tokens/t1")
    local function seen(query)
      local out = {}
      local status, body = ask("GET", "/audit", nil, nil, nil, query)
      assert.equal(200, status)
      for i, row in ipairs(body.payload) do out[i] = row.operation .. " " .. tostring(row.object) end
      return out, body.payload
    end
    assert.same({ "removeToken t1" }, (seen { operation = "removeToken" }))
    assert.same({ "removeToken t1", "createToken t5" }, (seen { user = "uid 0", limit = "2" }))
    local _, page = seen { user = "uid 0", limit = "2" }
    assert.same({ "createToken t4" }, (seen { user = "uid 0", limit = "1", before = tostring(page[2].seq) }))
    assert.equal(5, #seen { outcome = "asked", operation = "createToken" })
    assert.same({}, (seen { since = "1h", ["until"] = "1h" }))
    assert.equal(6, #seen { since = "1h", user = "uid 0" })
    assert.equal(page[1].request, page[1].request:match "^%x+%-%x+%-7.*$")
    assert.equal(400, (ask("GET", "/audit", nil, nil, nil, { since = "yesterday" })))
  end)

  it("hands over what is old in a sealed file, and goes on from there", function()
    for i = 1, 20 do ask("POST", "/tokens", { name = "t" .. i }) end
    clock.shift(10 * 24 * 3600 * 1000)
    ask("POST", "/tokens", { name = "young" })
    local last = rows()[1].seq
    d.audit.log:hand_over(clock.now() - 24 * 3600 * 1000)
    clock.shift(0)
    local files = {}
    for _, name in ipairs(fs.list(dir .. "/audit")) do
      if name:find "%.jsonl$" then files[#files + 1] = name end
    end
    assert.same({ ("%012d-%012d.jsonl"):format(1, last + 39) }, files)
    local v = chain.verifier(d.audit.log.key)
    local text = fs.read(dir .. "/audit/" .. files[1])
    for line in text:gmatch "[^\n]*\n" do v:line(line) end
    local sealed = v:finish(true)
    assert.is_true(sealed.ok)
    assert.equal(41, sealed.rows)
    local verdict = d.audit.log:verify()
    assert.is_true(verdict.ok, table.concat(verdict.problems, "; "))
    assert.equal(sealed.last + 1, verdict.first)
    close()
    open()
    assert.is_true(d.audit.log:verify().ok)
    assert.equal(400, (ask("GET", "/audit/verify", nil, nil, nil, { seq = "1", hash = "x" })))
  end)

  it("keeps rows for a number of days", function()
    local config = require "nd.config"
    assert.equal(365, config.load({}).audit_keep)
    assert.equal(30, config.load({ "--audit-keep", "30" }).audit_keep)
    for _, bad in ipairs { "a year", "-1", "1.5", "100000" } do
      local ok, e = pcall(config.load, { "--audit-keep", bad })
      assert.is_false(ok)
      assert.equal("bad_config", e.code)
    end
  end)

  it("lets nothing go that isn't in its file", function()
    for i = 1, 3 do ask("POST", "/tokens", { name = "t" .. i }) end
    local write = fs.write
    fs.write = function(path, ...) -- luacheck: ignore
      if path:find "%.jsonl$" then err.raise("fs_full", "the disk is full") end
      return write(path, ...)
    end
    local ok = pcall(d.audit.log.hand_over, d.audit.log, clock.now() + 1000)
    fs.write = write -- luacheck: ignore
    assert.is_false(ok)
    assert.is_true(#rows() >= 6)
    assert.is_true(d.audit.log:verify().ok)
  end)

  it("refuses what comes when it is closed, instead of keeping it waiting", function()
    d.audit:close()
    assert.equal(503, (ask("POST", "/tokens", { name = "late" })))
    d.store:close()
    open()
    assert.is_true(d.audit.log:verify().ok)
  end)

  it("takes many at once in few commits", function()
    local before, left = d.store.counts.commits, 400
    local done = task.signal()
    for i = 1, 400 do
      task.spawn("record", function()
        d.audit:record { operation = "x" .. i }
        left = left - 1
        done:notify()
      end)
    end
    while left > 0 do done:wait() end
    assert.is_true(d.store.counts.commits - before < 50)
    assert.is_true(d.audit.log:verify().ok)
  end)

  it("signs with the agent's key, which is root's alone", function()
    assert.equal(tonumber("600", 8), fs.stat(dir .. "/audit.key").mode & 511)
    assert.equal(crypto.base64(crypto.sign_public(fs.read(dir .. "/audit.key"))) .. "\n",
      fs.read(dir .. "/audit/key.pub"))
  end)

  local function provoke(which, tries)
    local t = tamper.new(math.tointeger(tonumber(os.getenv "ND_SEED" or "1")), 120)
    local whole = t:untouched()
    assert.is_true(whole)
    local counts = {}
    for _ = 1, tries do
      local kind, found = t[which](t)
      local c = counts[kind] or { tried = 0, found = 0 }
      counts[kind] = c
      c.tried, c.found = c.tried + 1, c.found + (found and 1 or 0)
      task.yield()
    end
    t:close()
    local names = {}
    for kind in pairs(counts) do names[#names + 1] = kind end
    table.sort(names)
    for _, kind in ipairs(names) do
      local c = counts[kind]
      print(("%-8s %-40s %4d tried %4d found"):format(which, kind, c.tried, c.found))
    end
    for kind, c in pairs(counts) do assert.equal(c.tried, c.found, kind) end
  end

  local tries = math.tointeger(tonumber(os.getenv "ND_TAMPER" or "60"))
  it("finds every change of the database", function() provoke("database", tries) end)
  it("finds every change of an export", function() provoke("export", tries) end)
end)
