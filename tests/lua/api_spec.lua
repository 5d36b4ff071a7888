-- What the API remembers, it remembers no longer than it is true: tokens, statuses, pages of apps.

local crypto = require "crypto"
local fs = require "fs"
local json = require "json"
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
