-- frames_spec.lua - recipes that bend what their worker says, or what it asks for, in the daemon's hands: such
-- a run ends by a named error, and whoever comes after it doesn't notice. Real workers, a real database.

local json = require "json"
local task = require "task"
local budget = require "nd.budget"
local effects = require "nd.effect"
local Audit = require "nd.service.audit"
local World = require "tests.lua.spine_world"
local api = require "nd.api"

describe("a recipe that means no good", function()
  local w, d, app, handler

  before_each(function()
    w = World.new()
    d = w.d
    d.version = "0.0.1"
    d.worker_options = {}
    for name, module in pairs { runs = "runs", guesses = "guesses", people = "people" } do
      d[name] = require("nd.service." .. module).new(d)
    end
    d.audit = Audit.new(d)
    d.audit:open()
    handler = api.handler(d)
    app = w:app("shop")
  end)

  after_each(function()
    d.audit:close()
    w:close()
  end)

  local unix = { kind = "unix", uid = 0, pid = 42 }

  local function ask(method, path, body, query)
    local answer = handler { method = method, path = path, query = query or {}, headers = {},
      body = body and json.encode(body) or "", peer = unix }
    return answer.status or 200, json.decode(answer.body), answer
  end

  local function recipe(body, before)
    return { name = "bent", files = { ["recipe.lua"] = ("local scheduler = require 'nd.recipe.scheduler'\n%s\n"
      .. "return recipe { needs = { 'app', 'docker', 'http:127.0.0.1' }, params = { app = param.app {} },\n"
      .. "run = function(p)\n%s\nend }"):format(before or "", body) } }
  end

  local function start(body, before)
    return d.runs:start { app = app, recipe = recipe(body, before), params = {}, owner = "uid 0" }
  end

  -- Runs it to its end -> as the API shows it.
  local function run(body, before)
    local begun = start(body, before)
    assert(w:until_true(function() return not d.runs.live[begun.row.id] end), "it hasn't ended")
    local status, answer = ask("GET", "/runs/" .. begun.row.id)
    assert.equal(200, status)
    return answer.payload
  end

  -- What everybody else needs goes on.
  local function all_is_well()
    d.store:commit { d.store:set_meta("after", "well") }
    assert.equal(0, #d.store.pending)
    d.audit:record { operation = "test", outcome = "noted" }
    assert.is_nil(d.audit.log:trouble())
    local verdict = d.audit.log:verify()
    assert.same({}, verdict.problems)
    assert.equal(200, (ask("GET", "/runs")))
  end

  describe("asks for what no effect is", function()
    for what, body in pairs {
      ["a name that is a list"] = "scheduler.effect({1}, 1, 'read', json.array {}, false)",
      ["a name that is a number"] = "scheduler.effect(5, 1, 'read', json.array {}, false)",
      ["a name without end"] = "scheduler.effect(('x'):rep(1e6), 1, 'read', json.array {}, false)",
      ["an empty name"] = "scheduler.effect('', 1, 'read', json.array {}, false)",
      ["a task that is no task"] = "scheduler.current().id = 'x y' uuid()",
      ["a task that is a list"] = [[scheduler.current().id = '1"},{"n":2,"name":"uuid","task":[1],"x":"' uuid()]],
      ["a number that is a text"] = [[scheduler.current().id = '1"},{"n":"two","name":"uuid","x":"' uuid()]],
      ["a number below one"] = [[scheduler.current().id = '1"},{"n":-1,"name":"uuid","x":"' uuid()]],
      ["a number that is none"] = [[scheduler.current().id = '1"},{"n":1.5,"name":"uuid","x":"' uuid()]],
      ["a version that is a list"] = [[scheduler.current().id = '1"},{"n":2,"name":"uuid","version":[],"x":"' uuid()]],
      ["a place that is a table"] = [[scheduler.current().id = '1"},{"n":2,"name":"uuid","at":{"x":1},"x":"' uuid()]],
      ["a pivot that is a text"] = [[scheduler.current().id = '1"},{"n":2,"name":"uuid","pivot":"no","x":"' uuid()]],
      ["arguments that are a text"] = "scheduler.effect('uuid', 1, 'read', 'x', false)",
      ["arguments with names"] = "scheduler.effect('uuid', 1, 'read', { x = 1 }, false)",
      ["a line of its log that is a table"] = "scheduler.log({ x = 1 }) uuid()",
      ["arguments too deep to be shown again"] = "local t = {} for _ = 1, 58 do t = { t } end docker.pull(t)",
      ["a result too deep to be shown again"] = "local t = {} for _ = 1, 60 do t = { t } end return t",
    } do
      it(what, function()
        for _, before in ipairs { "", "time.now() " } do
          local ended = run(before .. body)
          assert.equal("failed", ended.state)
          assert.equal("bad_frame", ended.error.code)
          all_is_well()
        end
      end)
    end

    it("after an act, which is undone", function()
      w:release(app, 2, "created", 1)
      local ended = run [[undo("take it away", app.remove, { release = 2 })
        scheduler.effect({1}, 1, "read", json.array {}, false)]]
      assert.equal("failed", ended.state)
      assert.is_nil(d.docker:find "shop-2-1")
      all_is_well()
    end)

    it("and is told what an effect that there isn't is", function()
      local ended = run "scheduler.effect('app.strat', 1, 'read', json.array {}, false)"
      assert.equal("unknown_effect", ended.error.code)
      all_is_well()
    end)

    it("with more arguments than a call takes", function()
      for _, name in ipairs { "uuid", "time.sleep", "undo.set" } do
        local ended = run(("local t = {} for i = 1, 3e5 do t[i] = 1 end scheduler.effect('%s', 1, 'read', t, false)")
          :format(name))
        assert.equal("bad_argument", ended.error.code)
        all_is_well()
      end
    end)

    it("with a sleep that no clock knows the end of", function()
      local ended = run "scheduler.effect('time.sleep', 1, 'read', { math.maxinteger // 4 }, false)"
      assert.equal("bad_argument", ended.error.code)
      all_is_well()
    end)

    it("with a selection that is none", function()
      for _, name in ipairs { "task.cancel", "task.rollback" } do
        for _, selection in ipairs { "{}", "{ tasks = 5 }", "{ tasks = { 5 } }" } do
          local ended = run(("scheduler.effect('%s', 1, 'read', { %s }, false)"):format(name, selection))
          assert.equal("bad_argument", ended.error.code)
        end
      end
      all_is_well()
    end)
  end)

  it("has a deadline that no clock knows, which is not taken", function()
    local source = [[require("nd.recipe.units").milliseconds = function() return %s end
      return recipe { deadline = "1s", run = function() return 1 end }]]
    for _, deadline in ipairs { "9e18", "-5", "'soon'", "{}", "math.maxinteger" } do
      local ok, e = pcall(d.runs.start, d.runs, { app = app, params = {}, owner = "uid 0",
        recipe = { name = "bent", files = { ["recipe.lua"] = source:format(deadline) } } })
      assert.is_false(ok)
      assert.equal("bad_frame", e.code)
    end
    all_is_well()
  end)

  describe("fails by an error whose", function()
    local mine = "local _, e = pcall(fail, 'mine') %s error(e, 0)"

    for what, case in pairs {
      ["code is a table"] = { "e.code = {}", "recipe_error" },
      ["code is a number"] = { "e.code = 7", "recipe_error" },
      ["code has no end"] = { "e.code = ('x'):rep(1e6)", "recipe_error" },
      ["code is a line and more"] = { "e.code = 'x\\n\\0\\u{202E}'", "recipe_error" },
      ["code is the API's"] = { "e.code = 'method_not_allowed'", "method_not_allowed" },
      ["code is of who isn't known"] = { "e.code = 'unauthorized'", "unauthorized" },
      ["code is missing"] = { "e.code = nil", "recipe_error" },
      ["message is a table"] = { "e.message = {}", "recipe_failed" },
      ["message has no end"] = { "e.message = ('x'):rep(1e6)", "recipe_failed" },
      ["hint is a table"] = { "e.hint = {}", "recipe_failed" },
      ["data is a text"] = { "e.data = 'text'", "recipe_failed" },
      ["data has no end"] = { "e.data = { ('x'):rep(1e6) }", "recipe_failed" },
      ["data names a header"] = { "e.data = { retry_after = 'x\\r\\nset-cookie: y', run_id = ('x'):rep(1e4) }",
        "recipe_failed" },
    } do
      local body, code = mine:format(case[1]), case[2]

      it(what .. ", as a run", function()
        local ended = run(body)
        assert.equal("failed", ended.state)
        assert.equal(code, ended.error.code)
        assert.is_true(#json.encode(ended.error) < 100000)
        all_is_well()
      end)

      it(what .. ", while it is loaded", function()
        local headers
        for _, sent in ipairs {
          { "/recipes/check", recipe("", body) }, { "/runs", { recipe = recipe("", body), app_name = "shop" } },
        } do
          local status, answer, raw = ask("POST", sent[1], sent[2])
          assert.equal(422, status)
          assert.equal(code, answer.code)
          headers = raw.headers
          assert.is_nil(headers["www-authenticate"] or headers.allow or headers["retry-after"])
        end
        local row = d.store:all("SELECT * FROM audit ORDER BY seq DESC LIMIT 1")[1]
        assert.equal("failed", row.outcome)
        assert.equal(code, row.code)
        assert.is_true(#(row.run or "") <= 203)
        all_is_well()
      end)
    end
  end)

  it("says in its own words why it failed, and that an undo did as well", function()
    local ended = run [[undo("in vain", app.remove, { release = 1 })
      local _, e = pcall(fail, "mine") e.data = "text" error(e, 0)]]
    assert.equal("mine", ended.error.message)
    assert.matches("live", ended.error.data.undo_failed)
  end)

  describe("sets an undo that", function()
    local function set(effect, args)
      return ("scheduler.effect('undo.set', 1, 'read', json.array { 'x', %q, json.array { %s } }, false)"):format(
        effect, args)
    end

    for what, case in pairs {
      ["waits for somebody"] = { "undo('x', approval.wait, 'never')", "bad_argument" },
      ["waits for long"] = { "undo('x', time.sleep, '3000d')", "bad_argument" },
      ["waits for a release"] = { "undo('x', health.wait, { release = 1 })", "bad_argument" },
      ["only looks"] = { "undo('x', docker.inspect, 'img')", "bad_argument" },
      ["undoes itself"] = { set("task.rollback", "{ tasks = json.array { '1' } }"), "bad_argument" },
      ["has the wrong arguments"] = { "undo('x', app.remove, 'release 1')", "bad_argument" },
      ["has none"] = { set("app.remove", ""), "bad_argument" },
      ["has too many"] = { set("app.remove", "{ release = 1 }, 2"), "bad_argument" },
      ["is of another app"] = { "undo('x', app.switch, 'other', { release = 1 })", "capability" },
      ["isn't there"] = { set("app.strat", ""), "unknown_effect" },
    } do
      it(what .. ": it is refused, and the one before stays", function()
        w:release(app, 2, "created", 1)
        local ended = run("undo('x', app.remove, { release = 2 }) " .. case[1])
        assert.equal("failed", ended.state)
        assert.equal(case[2], ended.error.code)
        assert.is_nil(d.docker:find "shop-2-1")
        local _, plan = ask("POST", "/runs", { recipe = recipe(case[1]), app_name = "shop" }, { plan = "true" })
        assert.equal(case[2], plan.code)
      end)
    end

    it("is null: that drops the one before", function()
      w:release(app, 2, "created", 1)
      local ended = run [[undo("x", app.remove, { release = 2 })
        scheduler.effect("undo.set", 1, "read", json.array { "x", json.null, json.null }, false) fail "no"]]
      assert.equal("no", ended.error.message)
      assert.same({}, d.store:all("SELECT 1 FROM event WHERE kind = 'run.undo'"))
    end)

    describe("never ends:", function()
      local row = effects.find "http.request"
      local act, deadline, undo_ms = row.act, row.deadline, budget.undo_ms

      before_each(function()
        w:release(app, 2, "created", 1)
        function row.act() task.sleep(1e9) end
      end)
      after_each(function() row.act, row.deadline, budget.undo_ms = act, deadline, undo_ms end)

      local body = [[undo("take it away", app.remove, { release = 2 })
        undo("tell", http.request, { url = "http://127.0.0.1/", timeout = %q }) fail "no"]]

      local function is_rolled_back(ended)
        assert.equal("failed", ended.state)
        assert.equal("no", ended.error.message)
        assert.matches("^tell had not ended after ", ended.error.data.undo_failed)
      end

      it("it is given up at its deadline, and the others are made", function()
        function row.deadline() return 100 end
        is_rolled_back(run(body:format "1s"))
        assert.is_nil(d.docker:find "shop-2-1")
      end)

      it("it has no more than what all of them have", function()
        budget.undo_ms = 100
        is_rolled_back(run(body:format "300d"))
        assert.is_nil(d.docker:find "shop-2-1")
      end)

      it("also where an older release let it wait for somebody", function()
        budget.undo_ms = 100
        d.store:commit {
          { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('h', 'b', '{}', 1)" },
          { [[INSERT INTO run (id, app, recipe, bundle, params, seed, state, owner, started_at, reason) VALUES
            ('r0', ?, 'b', 'h', '{}', 1, 'rolling_back', 'uid 0', 1, '{"code": "recipe_failed", "message": "no"}')]],
            app.id },
          { [[INSERT INTO effect (run, n, name, version, task, args, label, asked_at, answered, answered_at, ok, undo)
            VALUES ('r0', 1, 'undo.set', 1, '1', '[]', 'undo: tell', 1, 1, 1, 1,
              '{"effect": "approval.wait", "args": ["never"], "label": "tell"}')]] } }
        d.runs:resume(d.runs:interrupted())
        assert(w:until_true(function() return next(d.runs.live) == nil end), "it hasn't ended")
        is_rolled_back(d.runs:show "r0")
      end)
    end)
  end)

  it("is counted with all that are sent, and its effects with all that there aren't", function()
    local ended, asked = {}, {}
    require("fs").write(w.dir .. "/named.lua", "return recipe { run = function() end }")
    d.metrics = { requests = { add = function() end },
      runs_ended = { add = function(_, _, name) ended[#ended + 1] = name end },
      effects = { add = function(_, _, name) asked[#asked + 1] = name end } }
    run "pcall(scheduler.effect, 'a.b', 1, 'read', json.array {}, false) uuid()"
    d.runs:wait(d.runs:start { app = app, recipe = "named", params = {}, owner = "uid 0" })
    assert.same({ "sent", "named" }, ended)
    assert.same({ "unknown", "uuid" }, { asked[1], asked[2] })
  end)

  it("is planned like any other, and refused by name", function()
    for body, code in pairs {
      ["scheduler.effect({1}, 1, 'read', json.array {}, false)"] = "bad_frame",
      ["scheduler.effect('task.cancel', 1, 'read', json.array {}, false)"] = "bad_argument",
      ["local ok, e = pcall(fail, 'x') e.code = {} error(e, 0)"] = "recipe_error",
    } do
      local status, answer = ask("POST", "/runs", { recipe = recipe(body), app_name = "shop" }, { plan = "true" })
      assert.equal(code, answer.code)
      assert.is_true(status < 500)
    end
    all_is_well()
  end)
end)
