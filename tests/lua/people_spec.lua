-- Who may what: the table, people and their sessions, tokens with limits; and what guessing gets.

local clock = require "clock"
local crypto = require "crypto"
local fs = require "fs"
local json = require "json"
local task = require "task"
local tasks = require "nd.tasks"
local Guesses = require "nd.service.guesses"
local Store = require "nd.store"
local api = require "nd.api"
local jwt = require "nd.jwt"
local password = require "nd.service.password"
local permission = require "nd.permission"

local PASSWORD = "correct horse battery"

password.cost.ln = 10 -- 30 times cheaper

describe("the permission table", function()
  local function key(text)
    local project, environment, name = text:match "^(.-)/(.-)/(.*)$"
    return { project = project, environment = environment, name = name }
  end

  it("gives a grant for the apps that it names", function()
    local rights = { { "read", "deploy@*/staging/shop" } }
    assert.is_true(permission.allows(rights, "deploy", key "default/staging/shop"))
    assert.is_false(permission.allows(rights, "deploy", key "default/production/shop"))
    assert.is_false(permission.allows(rights, "deploy", key "default/staging/shopping"))
    assert.is_true(permission.allows(rights, "deploy", permission.SOME))
    assert.is_false(permission.allows(rights, "deploy"))
    assert.is_true(permission.allows(rights, "read"))
    assert.is_false(permission.allows(rights, "secrets:read", key "default/staging/shop"))
    assert.is_false(permission.allows({}, "read"))
    assert.is_false(permission.allows({ { "admin" }, {} }, "read"))
    assert.equal("0", permission.where({}, "read").sql)
  end)

  it("has every list of rights allow a thing", function()
    local rights = { { "deploy" }, { "admin@shop/*/*" } }
    assert.is_true(permission.allows(rights, "deploy", key "shop/production/web"))
    assert.is_false(permission.allows(rights, "deploy", key "default/production/web"))
    assert.is_false(permission.allows(rights, "admin", key "shop/production/web"))
  end)

  it("knows who has all that a role gives", function()
    assert.is_true(permission.within({ "read", "deploy@*/staging/*" }, { { "deploy" } }))
    assert.is_true(permission.within({ "read@a/b/c" }, { { "deploy@a/*/*" } }))
    assert.is_false(permission.within({ "deploy" }, { { "deploy@*/staging/*" } }))
    assert.is_false(permission.within({ "deploy@*/*/shop" }, { { "deploy@*/staging/*" } }))
    assert.is_false(permission.within({ "admin" }, { permission.names and { "people", "deploy", "secrets:write" } }))
    assert.is_true(permission.within({ "admin" }, permission.ALL))
  end)

  it("refuses grants that say nothing", function()
    for _, grant in ipairs { "", "@", "deplo", "deploy@", "deploy@staging", "deploy@a/b", "deploy@a/b/c/d",
      "deploy@a//c", "deploy@A/b/c", "deploy@a/b/c*", "@a/b/c", "deploy@a/b/c@d", "secrets", "none", "self" } do
      local ok, e = pcall(permission.check_grant, grant)
      assert.is_false(ok, grant)
      assert.equal("bad_request", e.code)
    end
    for _, grant in ipairs { "read", "secrets:write@*/*/*", "deploy@a/b-1/*" } do permission.check_grant(grant) end
  end)

  it("has each route say who may ask and about what", function()
    for _, route in ipairs(api.routes) do permission.check_route(route) end
    for _, bad in ipairs { {}, { permission = "write", about = "host" }, { permission = "read" },
      { permission = "read", about = "app" } } do
      bad.method, bad.path = "GET", "/x"
      assert.is_false((pcall(permission.check_route, bad)))
    end
  end)
end)

describe("JSON Web Tokens", function()
  -- RFC 7515, A.1; RFC 8037, A.4; RFC 7519, 6.1.
  local a1 = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt"
    .. "cGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
  local a1_key = crypto.unbase64url("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUu"
    .. "TwjAzZr1Z9CAow")
  local ed = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIb"
    .. "QR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
  local none = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNv"
    .. "bS9pc19yb290Ijp0cnVlfQ."

  local function refused(fn, ...)
    local ok, e = pcall(fn, ...)
    return not ok and e.code .. ": " .. e.message or "taken"
  end

  it("are those of the RFCs, as far as HS256 goes", function()
    local token = jwt.decode(a1)
    assert.equal("joe", token.claims.iss)
    jwt.verify(token, a1_key, 1300819379)
    assert.matches("expired", refused(jwt.verify, token, a1_key, 1300819380 + 61))
    assert.matches("isn't this key's", refused(jwt.verify, token, a1_key:sub(2), 1300819379))
    assert.matches("none; only HS256", refused(jwt.verify, jwt.decode(none), a1_key, 0))
    assert.matches("payload isn't JSON", refused(jwt.decode, ed))
  end)

  local key, wanted = crypto.random(32), { typ = "at+jwt", iss = "us", aud = "us", life = 600 }
  local now = 1700000000

  local function made(header, claims, with)
    local all = { iss = "us", aud = "us", sub = "a", iat = now, nbf = now, exp = now + 600 }
    for name, value in pairs(claims or {}) do all[name] = value ~= "nothing" and value or nil end
    local signed = crypto.base64url(json.encode(header)) .. "." .. crypto.base64url(json.encode(all))
    return signed .. "." .. crypto.base64url(crypto.unhex(crypto.hmac(with or key, signed)))
  end

  local function try(text) return refused(function() jwt.verify(jwt.decode(text), key, now, wanted) end) end

  it("are taken where we made them", function()
    assert.equal("taken", try(jwt.sign("at+jwt", { iss = "us", aud = "us", iat = now, nbf = now, exp = now + 1 }, key)))
    assert.equal("taken", try(made { alg = "HS256", typ = "at+jwt" }))
  end)

  it("are refused where anything about them isn't ours", function()
    local good = { alg = "HS256", typ = "at+jwt" }
    for text, why in pairs {
      [made({ alg = "none", typ = "at+jwt" })] = "only HS256", [made({ alg = "None", typ = "at+jwt" })] = "only HS256",
      [made({ alg = "hs256", typ = "at+jwt" })] = "only HS256",
      [made({ alg = "RS256", typ = "at+jwt" })] = "only HS256",
      [made({ alg = "EdDSA", typ = "at+jwt" })] = "only HS256", [made({ typ = "at+jwt" })] = "only HS256",
      [made({ alg = json.array { "HS256" }, typ = "at+jwt" })] = "only HS256",
      [made { alg = "HS256" }] = "type nil", [made { alg = "HS256", typ = "JWT" }] = "type JWT",
      [made { alg = "HS256", typ = "rt+jwt" }] = "type rt",
      [made({ alg = "HS256", typ = "at+jwt", kid = "../../dev/null" })] = "'kid'",
      [made({ alg = "HS256", typ = "at+jwt", jku = "http://evil.example/keys" })] = "'jku'",
      [made({ alg = "HS256", typ = "at+jwt", x5c = json.array { "MIIB" } })] = "'x5c'",
      [made({ alg = "HS256", typ = "at+jwt", jwk = { kty = "oct", k = "AAAA" } }, nil, "\0\0\0")] = "isn't this key's",
      [made({ alg = "HS256", typ = "at+jwt", jwk = { kty = "oct" } })] = "'jwk'",
      [made({ alg = "HS256", typ = "at+jwt", crit = json.array { "b64" }, b64 = false })] = "critical",
      [made(good, nil, "")] = "isn't this key's",
      [made(good, { iss = "them" })] = "iss", [made(good, { aud = "them" })] = "aud",
      [made(good, { aud = json.array { "us", "them" } })] = "aud", [made(good, { iss = "nothing" })] = "iss",
      [made(good, { exp = now - 61, iat = now - 600, nbf = now - 600 })] = "expired",
      [made(good, { exp = "nothing" })] = "no exp", [made(good, { exp = tostring(now + 9) })] = "no exp",
      [made(good, { nbf = "nothing" })] = "no nbf", [made(good, { iat = "nothing" })] = "no iat",
      [made(good, { iat = now + 3600, nbf = now, exp = now + 3700 })] = "3600 s in the future",
      [made(good, { nbf = now + 300 })] = "isn't valid yet", [made(good, { exp = now + 601 })] = "lives longer",
    } do
      assert.matches(why, try(text), 1, true)
    end
  end)

  it("are refused where they are no tokens, or a part of one", function()
    local good = made { alg = "HS256", typ = "at+jwt" }
    for n = 0, #good - 1 do assert.not_equal("taken", try(good:sub(1, n))) end
    for at = 1, #good, 7 do
      local other = good:sub(at, at) == "A" and "B" or "A"
      assert.not_equal("taken", try(good:sub(1, at - 1) .. other .. good:sub(at + 1)))
    end
    for _, text in ipairs { "", ".", "..", "...", good .. ".", good .. "=", " " .. good, good .. "\n", good .. good,
      "e30.e30." .. ("A"):rep(9000), "W10.e30.", "e30.W10.", "bnVsbA.e30.", '{"a":1}.e30.' } do
      assert.matches("^bad_jwt", try(text))
    end
  end)
end)

describe("people", function()
  local dir, d, handler
  local unix = { kind = "unix", uid = 0 }
  local function tcp(n) return { kind = "tcp", address = "192.0.2." .. (n or 1), port = 4242 } end

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    fs.mkdir(dir, 448)
    local store = Store.open(dir, "a machine")
    d = { store = store, options = { state_dir = dir }, version = "0.0.1",
      metrics = { requests = { add = function() end } } }
    for name, module in pairs { apps = "app", releases = "release", guesses = "guesses", seal = "seal",
      people = "people", runs = "runs", queue = "queue" } do
      d[name] = require("nd.service." .. module).new(d)
    end
    handler = api.handler(d)
    for _, name in ipairs { "shop", "blog" } do
      for _, environment in ipairs { "production", "staging" } do
        store:commit { { [[INSERT INTO app (project, environment, name, created_at, updated_at)
          VALUES ('default', ?, ?, 1, 1)]], environment, name } }
      end
    end
  end)

  after_each(function()
    clock.shift(0)
    d.store:close()
    fs.remove(dir, { recursive = true })
  end)

  -- -> the status, the decoded body, the headers
  local function ask(method, path, token, body, from, query)
    local answer = handler { method = method, path = path, query = query or {}, body = body and json.encode(body) or "",
      headers = { host = "127.0.0.1:8371", authorization = token and "Bearer " .. token },
      peer = from or (token or from) and tcp() or unix }
    local decoded = json.decode(answer.body)
    return answer.status or 200, decoded.payload or decoded, answer.headers
  end

  local function login(email, text, from)
    return ask("POST", "/login", nil, { email = email, password = text }, from or tcp())
  end

  -- Somebody who has taken his invitation: his session.
  local function join(email, role)
    local status, person = ask("POST", "/team", nil, { email = email, role = role })
    assert.equal(200, status, person.message)
    local taken, session = ask("POST", "/login/invitation", nil,
      { invitation = person.invitation, password = PASSWORD }, tcp())
    assert.equal(200, taken, session.message)
    return session
  end

  local function apps_of(token)
    local names = {}
    for i, app in ipairs(select(2, ask("GET", "/apps", token))) do
      names[i] = app.environment .. "/" .. app.app_name
    end
    return table.concat(names, " ")
  end

  it("come in by an invitation, once and for a day", function()
    local _, person = ask("POST", "/team", nil, { email = "Ann@Example.com", role = "deployer" })
    assert.equal("ann@example.com", person.email)
    assert.equal(43, #person.invitation - 4) -- 32 bytes
    local function take(code, text)
      return (ask("POST", "/login/invitation", nil, { invitation = code, password = text or PASSWORD }, tcp()))
    end
    assert.equal(400, take(person.invitation, "elevenchars"))
    assert.is_false((pcall(password.check, "twelve chars\xff")))
    assert.equal(401, take(person.invitation .. "A"))
    assert.equal(200, take(person.invitation, "zwölf zeicheñ"))
    assert.equal(401, take(person.invitation))
    assert.equal(200, (login("ann@example.com", "zwölf zeicheñ")))
    assert.equal(409, (ask("POST", "/team", nil, { email = "ann@example.com", role = "viewer" })))
    local _, again = ask("POST", "/team/ann@example.com/invite")
    clock.shift(24 * 3600 * 1000 + 1000)
    assert.equal(401, take(again.invitation))
    assert.is_nil(d.store:get("SELECT 1 AS one FROM person WHERE password LIKE ?", "%zw%"))
  end)

  it("sign in, and are told nothing of who is unknown", function()
    join("ann@example.com", "viewer")
    local _, wrong = login("ann@example.com", "a wrong password")
    local _, unknown = login("bob@example.com", "a wrong password")
    wrong.hint, unknown.hint = nil, nil
    assert.same(wrong, unknown)
    local status, session = login("ANN@example.com", PASSWORD)
    assert.equal(200, status)
    local _, me = ask("GET", "/whoami", session.access_token)
    assert.same({ "ann@example.com", "viewer", "session" }, { me.name, me.role, me.kind })
    assert.equal(403, (ask("POST", "/stop", session.access_token, { app_name = "shop" })))
  end)

  it("go on by refreshing, and a refresh token that is shown twice ends it", function()
    local first = join("ann@example.com", "viewer")
    local function refresh(token)
      return ask("POST", "/login/refresh", nil, { refresh_token = token }, tcp())
    end
    clock.shift(11 * 60 * 1000 + 60000)
    local status, e = ask("GET", "/whoami", first.access_token)
    assert.equal(401, status)
    assert.matches("expired", e.message)
    local _, second = refresh(first.refresh_token)
    assert.equal(200, (ask("GET", "/whoami", second.access_token)))
    assert.equal(401, (refresh(second.access_token)))
    assert.equal(401, (ask("GET", "/whoami", second.refresh_token)))
    local reused, why = refresh(first.refresh_token)
    assert.equal(401, reused)
    assert.matches("used before", why.message)
    assert.equal(401, (ask("GET", "/whoami", second.access_token)))
    assert.equal(401, (refresh(second.refresh_token)))
  end)

  it("are told which clock is wrong", function()
    local session = join("ann@example.com", "viewer")
    clock.shift(-3600 * 1000)
    local status, e = ask("GET", "/whoami", session.access_token)
    assert.equal(401, status)
    assert.matches("in the future: a clock is wrong", e.message)
    clock.shift(3600 * 1000)
    assert.matches("expired", select(2, ask("GET", "/whoami", session.access_token)).message)
  end)

  it("are out at once when they sign out, are removed, or have another role or password", function()
    local ann = join("ann@example.com", "deployer").access_token
    assert.equal(200, (ask("POST", "/logout", ann)))
    assert.equal(401, (ask("GET", "/whoami", ann)))
    local _, one = login("ann@example.com", PASSWORD)
    local _, two = login("ann@example.com", PASSWORD)
    assert.equal(200, (ask("POST", "/password", one.access_token, { old = PASSWORD, new = PASSWORD .. " staple" })))
    assert.equal(401, (ask("GET", "/whoami", two.access_token)))
    assert.equal(200, (ask("GET", "/whoami", one.access_token)))
    assert.equal(403, (ask("POST", "/password", one.access_token, { old = PASSWORD, new = PASSWORD })))
    local _, token = ask("POST", "/tokens", one.access_token, { name = "ci" })
    assert.equal("ann@example.com", token.person)
    assert.equal(409, (ask("POST", "/scale", token.token, { app_name = "shop", replicas = 2 })))
    assert.equal(200, (ask("POST", "/team/ann@example.com/role", nil, { role = "viewer" })))
    for _, bearer in ipairs { one.access_token, token.token } do
      assert.equal(403, (ask("POST", "/scale", bearer, { app_name = "shop", replicas = 2 })))
    end
    assert.equal(200, (ask("DELETE", "/team/ann@example.com")))
    for _, bearer in ipairs { one.access_token, token.token } do assert.equal(401, (ask("GET", "/whoami", bearer))) end
  end)

  it("who are second where only one could be are told so, and what to do", function()
    local ann = join("ann@example.com", "deployer").access_token
    local function both(fn)
      local answers = {}
      tasks.each("both", { 1, 2 }, function(n) answers[n] = { fn(n) } end)
      if answers[1][1] ~= 200 then answers[1], answers[2] = answers[2], answers[1] end
      assert.same({ 200, 409 }, { answers[1][1], answers[2][1] })
      local e = answers[2][2]
      assert.is_true(e.code == "stale" or e.code == "run_ended", e.code)
      assert.is_string(e.hint)
      assert.is_nil(e.message:find "UPDATE" or e.message:find "DELETE", e.message)
    end
    both(function(n) return ask("POST", "/password", ann, { old = PASSWORD, new = PASSWORD .. n }) end)
    d.store:commit { { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('b', 'x', '{}', 1)" },
      { [[INSERT INTO waiting (id, app, kind, body, recipe, bundle, params, owner, asked_at)
        VALUES ('r1', 1, 'run', '{}', 'x', 'b', '{}', 'ci', 1)]] } }
    both(function() return ask("POST", "/runs/r1/cancel", ann) end)
    assert.equal("cancelled", d.store:get("SELECT state FROM run WHERE id = 'r1'").state)
  end)

  it("see the apps of their role, and of others not even that they are there", function()
    ask("POST", "/roles", nil, { name = "stager", permissions = { "deploy@*/staging/shop", "read@*/*/shop" } })
    local token = join("ann@example.com", "stager").access_token
    assert.equal("production/shop staging/shop", apps_of(token))
    local function stop(name, environment)
      local status, e = ask("POST", "/stop", token, { app_name = name, environment = environment })
      return status, e.code, e.message, e.hint
    end
    assert.equal(403, (stop("shop", "production")))
    assert.equal(409, (ask("POST", "/scale", token, { app_name = "shop", environment = "staging", replicas = 2 })))
    local _, code, message, hint = stop("blog", "staging")
    assert.equal("app_not_found", code)
    local _, code2, message2, hint2 = stop("bolg", "staging")
    assert.same({ code, (message:gsub("blog", "bolg")), hint }, { code2, message2, hint2 })
    assert.equal(404, (ask("GET", "/status", token, nil, nil, { app = "blog" })))
    assert.equal(404, (ask("GET", "/status", token, nil, nil, { app = "shop", environment = "other" })))
    assert.equal(403, (ask("GET", "/doctor", token)))
    assert.equal(403, (ask("DELETE", "/apps/blog", token)))
    assert.equal(403, (ask("DELETE", "/apps/shop", token)))
    ask("POST", "/roles", nil, { name = "stager", permissions = { "read@*/*/blog" }, replace = true })
    assert.equal("production/blog staging/blog", apps_of(token))
    assert.equal(409, (ask("DELETE", "/roles/stager")))
    ask("DELETE", "/team/ann@example.com")
    assert.equal(200, (ask("DELETE", "/roles/stager")))
  end)

  it("are told nothing of others' apps by an error either", function()
    local about, err = require "nd.api.about", require "nd.error"
    for code, message in pairs {
      host_taken = "the host a.example belongs to the app 'blog' in default/production",
      port_taken = "port 5432/tcp of this host belongs to the app 'blog' in default/production",
      app_not_found = "there is no app 'blgo' in default/production",
    } do
      local e = about.discreet(err.from(err.new(code, message, "did you mean 'blog'? `ndctl destroy blog`")))
      assert.is_nil((e.message .. e.hint):find("blog", 1, true), e.message .. e.hint)
    end
  end)

  it("learn which secrets there are where they may, and nowhere else", function()
    local shop = d.apps:get { app = "shop" }
    d.store:commit {
      { [[INSERT INTO release (app, number, state, image, image_id, config, run, key, created_at)
        VALUES (?, 1, 'live', 'img', 'sha256:1', ?, 'r', 'k', 1)]], shop.id,
        json.encode { env = {}, routes = json.array {}, secrets = { DB_PASSWORD = { as = "env", version = 3 } } } },
      d.store:event("secret.set", shop.id, nil, { name = "DB_PASSWORD", version = 3 }),
      d.store:event("secret.removed", nil, nil, { name = "OLD_PASSWORD" }),
      d.store:event("app.changed", shop.id, nil, {}),
    }
    -- -> the kinds of all events, and what the app's release says of its secrets
    local function seen(token)
      local status, app = ask("GET", "/apps/shop", token)
      assert.equal(200, status, app.message)
      local kinds = {}
      for _, query in ipairs { {}, { app = "shop" } } do
        local _, list = ask("GET", "/ws/events", token, nil, nil, query)
        for _, event in ipairs(list) do kinds[#kinds + 1] = event.kind end
      end
      return table.concat(kinds, " "), app.releases[1].secrets ~= nil
    end
    ask("POST", "/roles", nil, { name = "reader", permissions = { "deploy", "secrets:read@*/*/shop" } })
    ask("POST", "/roles", nil, { name = "other", permissions = { "read@*/*/shop", "secrets:read@*/*/blog" } })
    local all, own, none = "secret.set secret.removed app.changed secret.set app.changed",
      "secret.set app.changed secret.set app.changed", "app.changed app.changed"
    assert.same({ all, true }, { seen() })
    assert.same({ all, true }, { seen(join("dee@example.com", "deployer").access_token) })
    assert.same({ own, true }, { seen(join("ann@example.com", "reader").access_token) })
    assert.same({ none, false }, { seen(join("vic@example.com", "viewer").access_token) })
    assert.same({ none, false }, { seen(join("bob@example.com", "other").access_token) })
  end)

  it("have tokens for some apps and some time", function()
    local _, made = ask("POST", "/tokens", nil, { name = "ci", role = "deployer", environment = "staging", app = "shop",
      expires = "30d" })
    assert.same({ "admin@*/staging/shop" }, made.limits)
    assert.equal("staging/shop", apps_of(made.token))
    assert.equal(404, (ask("POST", "/stop", made.token, { app_name = "shop" })))
    assert.equal(403, (ask("DELETE", "/apps/shop", made.token, nil, nil, { environment = "staging" })))
    assert.equal(403, (ask("POST", "/tokens", made.token, { name = "more" })))
    clock.shift(30 * 24 * 3600 * 1000 + 1000)
    local status, e = ask("GET", "/apps", made.token)
    assert.equal(401, status)
    assert.matches("the token of ci expired", e.message)
  end)

  it("are gone with the tokens of their tokens, which last no longer than those", function()
    join("ann@example.com", "admin")
    local ann = select(2, login("ann@example.com", PASSWORD)).access_token
    local _, first = ask("POST", "/tokens", ann, { name = "first", expires = "1h" })
    local _, second = ask("POST", "/tokens", first.token, { name = "second" })
    local _, third = ask("POST", "/tokens", second.token, { name = "third", expires = "30d" })
    local _, short = ask("POST", "/tokens", second.token, { name = "short", expires = "1m" })
    for _, made in ipairs { first, second, third } do
      assert.same({ "ann@example.com", first.expires_at }, { made.person, made.expires_at }, made.name)
    end
    assert.is_true(short.expires_at < first.expires_at)
    assert.equal(200, (ask("GET", "/apps", third.token)))
    ask("DELETE", "/team/ann@example.com")
    for _, made in ipairs { first, second, third, short } do
      assert.equal(401, (ask("GET", "/apps", made.token)), made.name)
    end
    local _, root = ask("POST", "/tokens", nil, { name = "root", role = "admin" })
    local _, ci = ask("POST", "/tokens", root.token, { name = "ci", expires = "30d" })
    assert.is_nil(ci.person)
    assert.is_true(ci.expires_at > first.expires_at)
  end)

  it("give nobody more than they have", function()
    ask("POST", "/roles", nil, { name = "lead", permissions = { "people", "deploy" } })
    local lead = join("lead@example.com", "lead").access_token
    join("root@example.com", "admin")
    local function refused(...) assert.equal(403, (ask(...))) end
    refused("POST", "/team", lead, { email = "bob@example.com", role = "admin" })
    refused("POST", "/team/lead@example.com/role", lead, { role = "admin" })
    refused("POST", "/team/root@example.com/invite", lead)
    refused("POST", "/team/root@example.com/role", lead, { role = "viewer" })
    refused("DELETE", "/team/root@example.com", lead)
    refused("POST", "/roles", lead, { name = "lead", permissions = { "admin" }, replace = true })
    refused("POST", "/roles", lead, { name = "mine", permissions = { "secrets:read" } })
    refused("POST", "/tokens", lead, { name = "up", role = "admin" })
    assert.equal(200, (ask("POST", "/team", lead, { email = "bob@example.com", role = "viewer" })))
    assert.equal(400, (ask("POST", "/team", lead, { email = "eve@example.com", role = "boss" })))
    assert.equal(400, (ask("POST", "/tokens", nil, { name = "up", role = "boss" })))
    assert.equal(409, (ask("POST", "/tokens", nil, { name = "guard" })))
  end)

  it("see no tokens but their own, and remove no other", function()
    ask("POST", "/tokens", nil, { name = "theirs", role = "viewer" })
    local ann = join("ann@example.com", "deployer").access_token
    ask("POST", "/tokens", ann, { name = "mine" })
    local _, list = ask("GET", "/tokens", ann)
    assert.same({ "mine" }, { list[1].name, list[2] })
    assert.equal(404, (ask("DELETE", "/tokens/theirs", ann)))
    assert.equal(200, (ask("DELETE", "/tokens/mine", ann)))
  end)

  it("who are gone have their runs refused, also one that waits; a token that expired doesn't", function()
    local who = require "nd.service.who"
    local Request = require "nd.service.request"
    local ann = join("ann@example.com", "deployer").access_token
    ask("POST", "/tokens", ann, { name = "ci", expires = "1m" })
    local shop = d.apps:get { app = "shop" }
    local function may(owner) return permission.allows(who.rights(d, owner), "deploy", shop) end
    assert.is_true(may "ann@example.com" and may "ci" and may "uid 0" and may "guard")
    clock.shift(120000)
    assert.is_true(may "ci")
    ask("DELETE", "/team/ann@example.com")
    assert.is_false(may "ann@example.com" or may "ci" or may "nobody")
    local ok, e = pcall(Request.make, d, "run", { app_name = "shop", recipe = "x" }, "ann@example.com")
    assert.is_false(ok)
    assert.equal("forbidden", e.code)
  end)

  it("lose their WebSockets with their rights", function()
    local ann = join("ann@example.com", "viewer").access_token
    local function open(token)
      local closed, done = task.signal(), nil
      local answer = handler { method = "GET", path = "/ws/events", query = {}, body = "", websocket = true,
        headers = { host = "127.0.0.1:8371", authorization = "Bearer " .. token }, peer = tcp() }
      local ws = { close = function(_, code) done = code closed:notify() end, send = function() end,
        recv = function() while not done do closed:wait() end end }
      task.spawn("ws", answer.upgrade, ws)
      return function()
        for _ = 1, 100 do
          if done then return done end
          task.sleep(10)
        end
      end
    end
    local first = open(ann)
    ask("POST", "/team", nil, { email = "bob@example.com", role = "viewer" })
    task.sleep(30)
    local second = open(ann)
    ask("POST", "/team/ann@example.com/role", nil, { role = "deployer" })
    assert.equal(1008, first())
    assert.equal(1008, second())
    local _, made = ask("POST", "/tokens", nil, { name = "ci", role = "viewer" })
    local third = open(made.token)
    ask("DELETE", "/tokens/ci")
    assert.equal(1008, third())
  end)

  it("reach the hash of a password by guessing a few times only, and shut out nobody else", function()
    join("ann@example.com", "viewer")
    local before, limited, retry = password.hashes, 0, nil
    for n = 1, 10000 do
      local status, _, headers = login(n % 2 == 0 and "ann@example.com" or "user" .. n .. "@example.com", "guess " .. n,
        tcp(2 + n % 3))
      if status == 429 then
        limited, retry = limited + 1, headers["retry-after"]
      end
    end
    local hashed = password.hashes - before
    print(("10,000 guesses, %d of them hashed"):format(hashed))
    assert.is_true(hashed <= 60 and hashed >= 10)
    assert.equal(10000, hashed + limited)
    assert.matches("^%d+$", retry)
    assert.equal(200, (login("ann@example.com", PASSWORD, tcp(200))), "from a new address")
    assert.equal(200, (login("ann@example.com", PASSWORD, tcp(1))), "from one of before")
    assert.equal(200, (login("ann@example.com", PASSWORD, unix)), "by the socket")
  end)

  it("are known by their tokens, whoever guesses beside them", function()
    local _, made = ask("POST", "/tokens", nil, { name = "ci", role = "viewer" })
    local status
    for n = 1, 40 do status = ask("GET", "/apps", "nd_" .. n) end
    assert.equal(429, status)
    assert.equal(200, (ask("GET", "/apps", made.token)))
    assert.equal(401, (ask("GET", "/apps", "nd_x", nil, tcp(9))))
    for n = 1, 40 do status = ask("POST", "/login/invitation", nil, { invitation = "ndi_" .. n, password = PASSWORD },
      tcp(10)) end
    assert.equal(429, status)
    for _ = 1, 40 do status = ask("POST", "/login/refresh", nil, { refresh_token = "a.b.c" }, tcp(11)) end
    assert.equal(429, status)
  end)

  it("hash two passwords at a time, and have few wait", function()
    local codes, left, ended = {}, 30, task.signal()
    for _ = 1, 30 do
      task.spawn("login", function()
        local ok, e = pcall(password.right, "some password", nil)
        local code = ok and "hashed" or e.code
        codes[code] = (codes[code] or 0) + 1
        left = left - 1
        ended:notify()
      end)
    end
    while left > 0 do ended:wait() end
    assert.same({ hashed = 18, busy = 12 }, codes)
  end)

  it("come from one source where their addresses are one network's", function()
    assert.equal("192.0.2.1", Guesses.source "192.0.2.1")
    assert.equal("192.0.2.1", Guesses.source "::ffff:192.0.2.1")
    assert.equal("2001:db8:0:0", Guesses.source "2001:db8::1")
    assert.equal(Guesses.source "2001:db8::1", Guesses.source "2001:db8:0:0:5:6:7:8")
    assert.equal("0:0:0:0", Guesses.source "::1")
  end)

  it("have passwords by scrypt, as RFC 7914 has it", function()
    assert.equal("fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162",
      crypto.hex(crypto.scrypt("password", "NaCl", 10, 8, 16)))
    assert.equal("77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442",
      crypto.hex(crypto.scrypt("", "", 4, 1, 1)))
    assert.is_false((pcall(crypto.scrypt, "a", "b", 0, 8, 1)))
    assert.is_false((pcall(crypto.scrypt, "a", "b", 20, 32, 1)))
  end)
end)
