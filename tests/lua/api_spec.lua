-- What the API remembers, it remembers no longer than it is true: tokens, statuses, pages of apps.

local crypto = require "crypto"
local fs = require "fs"
local json = require "json"
local tasks = require "nd.tasks"
local Apps = require "nd.service.app"
local Store = require "nd.store"
local api = require "nd.api"

describe("the API", function()
  local dir, d, handler
  local peer = { kind = "unix", uid = 0 }

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    fs.mkdir(dir, 448)
    local store = Store.open(dir, "a machine")
    d = { store = store, options = {}, version = "0.0.1", metrics = { requests = { add = function() end } } }
    d.apps = Apps.new(d)
    d.releases = require("nd.service.release").new(d)
    d.guesses = require("nd.service.guesses").new(d)
    d.seal = require("nd.service.seal").new { options = { state_dir = dir } }
    d.people = require("nd.service.people").new(d)
    handler = api.handler(d)
  end)

  after_each(function()
    d.store:close()
    fs.remove(dir, { recursive = true })
  end)

  -- -> the status, the decoded body
  local function ask(path, query, headers, from)
    local answer = handler { method = "GET", path = path, query = query or {}, body = "",
      headers = headers or {}, peer = from or peer }
    return answer.status or 200, json.decode(answer.body)
  end

  local function add_app(name)
    d.store:commit { { [[INSERT INTO app (project, environment, name, created_at, updated_at)
      VALUES ('default', 'production', ?, 1, 1)]], name } }
  end

  it("knows a token until it is removed, and its new role from then on", function()
    local tcp = { kind = "tcp", address = "127.0.0.1", port = 4242 }
    local headers = { host = "127.0.0.1:8371", authorization = "Bearer nd_x" }
    local function add(role)
      d.store:commit { { "INSERT INTO token (name, hash, role, created_at) VALUES ('ci 1', ?, ?, 1)",
        crypto.sha256 "nd_x", role } }
    end
    assert.equal(401, (ask("/tokens", nil, headers, tcp)))
    add "admin"
    for _ = 1, 2 do assert.equal(200, (ask("/tokens", nil, headers, tcp))) end
    d.store:commit { { "DELETE FROM token" } }
    assert.equal(401, (ask("/tokens", nil, headers, tcp)))
    add "viewer"
    local status, body = ask("/tokens", nil, headers, tcp)
    assert.equal(403, status)
    assert.matches("viewer", body.message)
  end)

  it("tells of an app what was committed last", function()
    assert.equal(404, (ask("/status", { app = "web" })))
    add_app "web"
    for _ = 1, 2 do
      local _, body = ask("/status", { app = "web" })
      assert.equal("nothing was deployed yet", body.payload.message)
    end
    d.store:commit { { "UPDATE app SET stopped = 1" } }
    local _, body = ask("/status", { app = "web" })
    assert.equal("stopped by a person", body.payload.message)
  end)

  it("tells of an app what the network says now", function()
    add_app "web"
    local at
    d.network = { version = 1, find_service = function() return at and { at = at } end }
    local _, before = ask("/status", { app = "web" })
    assert.is_nil(before.payload.service_address)
    at, d.network.version = "10.1.2.3:80", 2
    local _, after = ask("/status", { app = "web" })
    assert.equal("10.1.2.3:80", after.payload.service_address)
  end)

  it("tells of a change that is posted but not written yet", function()
    add_app "web"
    local ends
    d.edge = { paused_until = function() return ends end }
    ask("/status", { app = "web" })
    ends = 1000
    d.store:post { d.store:event("app.changed", 1, nil, { paused = 1 }) }
    local _, body = ask("/status", { app = "web" })
    assert.equal("1970-01-01T00:00:01.000Z", body.payload.paused_until)
  end)

  it("lists apps in pages, each after the last one of the page before", function()
    for n = 1, 7 do add_app("app" .. n) end
    d.store:commit { { "UPDATE app SET project = 'other' WHERE name IN ('app2', 'app5')" } }
    local seen, after = {}, nil
    repeat
      local status, body = ask("/status", { limit = "3", after = after })
      assert.equal(200, status)
      for _, app in ipairs(body.payload) do
        seen[#seen + 1] = app.app_name
        after = app.project .. "/" .. app.environment .. "/" .. app.app_name
      end
    until #body.payload < 3
    assert.same({ "app1", "app3", "app4", "app6", "app7", "app2", "app5" }, seen)
    local _, body = ask("/apps", { project = "other", limit = "1" })
    assert.equal(1, #body.payload)
    assert.equal("app2", body.payload[1].app_name)
    assert.equal(400, (ask("/status", { after = "web" })))
    assert.equal(400, (ask("/status", { limit = "0" })))
  end)

  it("forgets runs that are old and many, but none that made a release that is there", function()
    local Runs = require "nd.service.runs"
    add_app "web"
    d.store:commit { { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('b', 'bluegreen', '{}', 1)" } }
    local statements, now = {}, 1000 * 24 * 3600 * 1000
    for n = 1, 560 do -- one a day
      statements[n] = { [[INSERT INTO run (id, app, recipe, bundle, params, seed, state, owner, started_at, ended_at)
        VALUES (?, 1, 'bluegreen', 'b', '{}', 1, 'done', 'x', ?, ?)]], ("%04d"):format(n),
        now - (560 - n) * 24 * 3600 * 1000, now - (560 - n) * 24 * 3600 * 1000 }
    end
    table.insert(statements, { [[INSERT INTO release (app, number, state, image, image_id, config, run, key, created_at)
      VALUES (1, 1, 'kept', 'i', 'i', '{}', '0003', '0003/1', 1)]] })
    table.insert(statements, { [[INSERT INTO effect (run, n, name, version, task, args, label, asked_at)
      VALUES ('0001', 1, 'app.live', 1, 'main', '[]', 'l', 1)]] })
    d.store:commit(statements)
    d.store:commit { Runs.forget_old(1, now) }
    local function count(what) return d.store:get("SELECT count(*) AS n FROM " .. what).n end
    assert.equal(501, count "run")
    assert.equal(1, count "run WHERE id = '0003'")
    assert.equal(0, count "run WHERE id = '0002'")
    assert.equal(0, count "effect")
    d.store:commit { { "UPDATE run SET started_at = ?, ended_at = ?", now, now } }
    d.store:commit { Runs.forget_old(1, now) }
    assert.equal(501, count "run")
  end)

  it("keeps all tags that are added at once", function()
    add_app "web"
    tasks.each("tag", { "a", "b", "c", "d" }, function(tag)
      local answer = handler { method = "POST", path = "/apps/web/tags", query = {}, headers = {}, peer = peer,
        body = json.encode { add = { tag } } }
      assert.is_nil(answer.status, answer.body)
    end)
    assert.equal('["a","b","c","d"]', d.store:get("SELECT tags FROM app").tags)
  end)

  it("reads little of who isn't known yet", function()
    local function sign_in(bytes)
      local body = json.encode { email = "a@b.example", password = "x" }
      local answer = handler { method = "POST", path = "/login", query = {}, headers = {}, peer = peer,
        body = body .. (" "):rep(bytes - #body) }
      return answer.status, json.decode(answer.body).code
    end
    assert.same({ 401, "unauthorized" }, { sign_in(64 * 1024) })
    assert.same({ 413, "body_too_large" }, { sign_in(64 * 1024 + 1) })
  end)

  it("describes itself to anybody, at the cost of once", function()
    local encode, times = json.encode, 0
    json.encode = function(...) -- luacheck: ignore
      times = times + 1
      return encode(...)
    end
    for _ = 1, 3 do assert.equal(200, (ask "/openapi.json")) end
    json.encode = encode -- luacheck: ignore
    assert.is_true(times <= 1)
  end)

  it("finds each of its paths, and says what they take", function()
    local function head(method, path)
      return handler { method = method, path = path, query = {}, body = "", headers = {}, peer = peer }
    end
    assert.equal("DELETE, GET, HEAD, OPTIONS", head("OPTIONS", "/apps/web").headers.allow)
    assert.equal(405, head("PUT", "/status").status)
    assert.equal("GET, HEAD, OPTIONS", head("PUT", "/status").headers.allow)
    assert.equal(404, head("GET", "/statuses").status)
  end)
end)
