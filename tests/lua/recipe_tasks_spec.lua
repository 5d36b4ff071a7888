-- Tasks: order, structured concurrency, cancellation and what it may interrupt.

local engine = require "tests.lua.lib.engine"
local support = require "tests.lua.recipe_support"
local value, failure, asked = support.value, support.failure, support.asked

local it_closes = engine.luajit and function() end or it -- what has `<close>` is Lua 5.4's alone

-- Answers the effect whose first argument is the least; sleeps so take their time.
local function by_time(in_flight)
  local least
  for _, e in ipairs(in_flight) do
    local at = type(e.args[1]) == "number" and e.args[1] or 0
    if not least or at < least.at then
      least = { at = at, e = e }
    end
  end
  return least.e
end

local function refuse(name)
  return function(e)
    if e.name == name then
      return nil, { code = "refused", message = "no", hint = "ask nicely", data = { a = 1 } }
    end
    return e.n
  end
end

describe("an effect", function()
  it("brings its answer, or raises what the daemon said", function()
    assert.equal(1, value 'return docker.pull("a")')
    local e = failure('docker.pull("a")', { answer = refuse "docker.pull" })
    assert.equal("refused", e.code)
    assert.equal("no", e.message)
    assert.equal("ask nicely", e.hint)
    assert.same({ a = 1 }, e.data)
    assert.matches("recipe.lua:2", e.traceback, 1, true)
    assert.equal("refused no (refused)", value('local ok, e = pcall(docker.pull, "a")\n'
      .. 'return e.code .. " " .. tostring(e)', { answer = refuse "docker.pull" }))
  end)

  it("says where it was asked for, and by which task", function()
    local _, run = value '\n\ntask.all(\n  function() uuid() end,\n  docker.pull)'
    assert.equal("recipe.lua:5", run.effects[1].at)
    assert.equal("1.1", run.effects[1].task)
    assert.equal("recipe.lua:4", run.effects[2].at)
  end)

  it("sends durations as milliseconds and what was left out as null", function()
    local _, run = value [[
      time.sleep("1m30s") time.sleep(0.25) health.wait({ release = 3 }, nil, 5)
      app.retire(nil, { drain = "30s", keep = 300, note = "x" }) now()]]
    assert.equal(90000, run.effects[1].args[1])
    assert.equal(250, run.effects[2].args[1])
    assert.equal(5000, run.effects[3].args[3])
    assert.equal(require("json").null, run.effects[3].args[2])
    assert.same({ drain = 30000, keep = 300000, note = "x" }, run.effects[4].args[2])
    assert.equal(0, #run.effects[5].args)
  end)

  it("refuses what it can't send, and says what is wrong", function()
    assert.matches("takes 1 argument, not 2", failure 'docker.pull("a", "b")'.message)
    assert.equal("bad_argument", failure 'docker.pull(print)'.code)
    assert.matches("should be a duration", failure 'time.sleep("soon")'.message)
    assert.matches('did you mean "deadline"', failure 'health.wait(1, { dedline = 3 })'.message)
    assert.matches("should be a table", failure 'http.request("http://a")'.message)
    assert.matches("too large", failure 'docker.pull(("x"):rep(2 ^ 21))'.message)
  end)

  it("can't be asked for where Lua can't wait, and says so", function()
    assert.equal("cant_wait", failure('table.sort({ 2, 1 }, function() return uuid() end)').code)
    assert.equal("cant_wait", failure [[
      coroutine.wrap(function()
        return (("x"):gsub("x", function() return uuid() end))
      end)()]].code)
    local e = support.run('uuid() return recipe { run = print }').result.error
    assert.equal("too_early", e.code)
  end)

  it("has one pivot at most", function()
    local _, run = value 'pivot(app.switch, "web", 1) docker.pull("a")'
    assert.is_true(run.effects[1].pivot)
    assert.is_nil(run.effects[2].pivot)
    assert.equal("second_pivot",
      failure 'pivot(app.switch, "web", 1) pivot("app.switch", "web", 2)'.code)
    assert.matches("needs an effect", failure 'pivot(print)'.message)
  end)

  it("sets undos as data", function()
    local _, run = value 'undo("the new one", app.remove, { release = 3 }) undo("the new one")'
    assert.equal("undo.set", run.effects[1].name)
    assert.equal("app.remove", run.effects[1].args[2])
    assert.equal(3, run.effects[1].args[3][1].release)
    assert.equal(1, #run.effects[2].args)
  end)
end)

describe("errors", function()
  it("of the recipe have a code, the line and a traceback", function()
    local e = failure '\nerror("boom")'
    assert.equal("recipe_error", e.code)
    assert.equal("recipe.lua:3: boom", e.message)
    assert.matches("recipe.lua:3: in", e.traceback, 1, true)
    assert.is_nil(e.traceback:find("nd.recipe", 1, true))
    assert.matches("attempt to index.*a nil value", failure 'local x = nil; return x.y'.message)
    assert.equal("mine", failure 'error { code = "mine", message = "m" }'.code)
    assert.equal("recipe_error", failure 'error()'.code)
    e = failure 'fail("no disk", "buy one")'
    assert.same({ "recipe_failed", "no disk", "buy one" }, { e.code, e.message, e.hint })
  end)

  it("in the recipe's own text name the line", function()
    local e = support.run("return recipe {\n  run = = 1 }").result.error
    assert.equal("recipe_syntax", e.code)
    assert.matches("recipe.lua:2:", e.message, 1, true)
    e = support.run("return 5").result.error
    assert.equal("bad_recipe", e.code)
    e = support.run("return recipe { run = print, parms = {} }").result.error
    assert.matches('did you mean "params"', e.message)
  end)
end)

describe("task.all", function()
  it("returns each branch's result in order, or by name", function()
    assert.equal("ab", value [[
      local a, b = task.all(function() time.sleep(2) return "a" end, function() return "b" end)
      return a .. b]])
    assert.same({ web = 1, db = 2 }, (value [[
      return task.all { web = function() return 1 end, db = function() return 2 end }]]))
    assert.equal(0, value "return select('#', task.all())")
  end)

  it("asks in the order of the branches, with ids that tell who asks", function()
    local _, run = value [[
      task.all(function() uuid() task.all(uuid, uuid) end, function() uuid() end)
      task.all(uuid)]]
    assert.equal("uuid 1.1, uuid 1.2, uuid 1.1.1, uuid 1.1.2, uuid 1.3", asked(run))
  end)

  it_closes("raises the first error, after the others were cancelled and have ended", function()
    local e, run = failure([[
      task.all(
        function() time.sleep(1) error("first") end,
        function()
          local c <close> = setmetatable({}, { __close = function() uuid() log("cleaned up") end })
          time.sleep(9)
        end)]], { order = by_time })
    assert.matches("first", e.message)
    assert.equal("time.sleep 1.1, time.sleep 1.2, task.cancel 1, uuid 1.2", asked(run))
    assert.same({ "cleaned up" }, run.logs)
  end)

  it("does not start branches any more once one has failed", function()
    local e, run = failure 'task.all(function() error("x") end, function() uuid() end)'
    assert.matches("x", e.message)
    assert.same({}, run.effects)
  end)

  it("takes back what was asked and not sent yet", function()
    local _, run = failure [[
      task.all(function() uuid() end, function() error("x") end)]]
    assert.same({}, run.effects)
  end)
end)

describe("task.race", function()
  it("returns what the first branch returned, and has the losers undone", function()
    local v, run = value([[
      return task.race(
        function() time.sleep(1) return "quick" end,
        function() app.start("web", "a") time.sleep(5) return "slow" end)]], { order = by_time })
    assert.equal("quick", v)
    assert.equal("time.sleep 1.1, app.start 1.2, time.sleep 1.2, task.cancel 1, task.rollback 1",
      asked(run))
    assert.same({ "1.2" }, { run.effects[4].args[1].tasks[1] })
  end)

  it("raises what the first branch raised", function()
    assert.matches("fast", failure([[
      task.race(function() error("fast") end, function() uuid() end)]]).message)
  end)

  it("has nothing undone where nothing was done", function()
    local _, run = value([[
      task.race(function() time.sleep(1) end, function() time.sleep(2) end)]], { order = by_time })
    assert.equal("time.sleep 1.1, time.sleep 1.2, task.cancel 1", asked(run))
  end)

  it("needs a branch", function()
    assert.equal("bad_argument", failure "task.race()".code)
    assert.matches("branch 2 is a number", failure "task.race(print, 5)".message)
  end)
end)

describe("task.timeout", function()
  it("returns the results in time and raises otherwise", function()
    assert.equal("a b", value([[
      local a, b = task.timeout("5s", function(x, y) time.sleep(1) return x, y end, "a", "b")
      return a .. " " .. b]], { order = by_time }))
    local e, run = failure('task.timeout("2s", function() app.start("w", "i") time.sleep(9) end)',
      { order = by_time })
    assert.equal("timeout", e.code)
    assert.matches("2 s", e.message)
    assert.equal("task.rollback 1", asked(run):match("[%w%.]+ [%d%.]+$"))
  end)
end)

describe("a cancelled task", function()
  local function race(body, options)
    options = options or {}
    options.order = by_time
    return value([[
      return task.race(function() time.sleep(1) return "won" end, function()
      ]] .. body .. "\nend)", options)
  end

  it_closes("may wait in <close>, with protected calls in it", function()
    local v, run = race [[
      local c <close> = setmetatable({}, { __close = function(_, e)
        log(e.code)
        log(pcall(uuid))
        time.sleep(3)
        log("closed")
      end })
      time.sleep(9)]]
    assert.equal("won", v)
    assert.same({ "cancelled", "true 4", "closed" }, run.logs)
  end)

  it("may wait once it was caught, but not go on", function()
    local v, run = race [[
      local ok, e = pcall(time.sleep, 9)
      log(e.code)
      uuid()
      log("tidy")
      log(pcall(uuid))
      log("never")]]
    assert.equal("won", v)
    assert.same({ "cancelled", "tidy" }, run.logs)
  end)

  it("ends although it tries again and again", function()
    local v, run = race [[
      while true do pcall(function() time.sleep(9) end) time.sleep(0.5) end]]
    assert.equal("won", v)
    assert.equal(0, #run.logs)
    race "while true do coroutine.resume(coroutine.create(function() time.sleep(9) end)) end"
    race "while true do xpcall(time.sleep, print, 9) end"
  end)

  it_closes("has its clean-up interrupted by a race further out", function()
    local e, run = failure([[
      task.timeout("3s", function()
        task.race(function() time.sleep(1) end, function()
          local c <close> = setmetatable({}, { __close = function()
            time.sleep(50)
            log("not reached")
          end })
          time.sleep(9)
        end)
      end)]], { order = by_time })
    assert.equal("timeout", e.code)
    assert.same({}, run.logs)
    assert.equal("time.sleep 1.2, time.sleep 1.1.1, time.sleep 1.1.2, task.cancel 1.1, "
      .. "time.sleep 1.1.2, task.cancel 1", asked(run))
  end)
end)

describe("coroutines", function()
  it("of the recipe let effects through", function()
    assert.equal("1 a 2 b 3 ", value [[
      local out = ""
      for v in coroutine.wrap(function()
        out = out .. uuid() .. " "
        coroutine.yield("a")
        out = out .. uuid() .. " "
        coroutine.yield("b")
        out = out .. uuid() .. " "
      end) do out = out .. v .. " " end
      return out]])
    assert.equal("true 1 false oops dead", value [[
      local co = coroutine.create(function()
        local inner = coroutine.wrap(function() coroutine.yield(uuid()) end)
        coroutine.yield(inner())
        error("oops", 0)
      end)
      local ok, v = coroutine.resume(co)
      local bad, e = coroutine.resume(co)
      return table.concat({ tostring(ok), v, tostring(bad), e, coroutine.status(co) }, " ")]])
  end)

  it_closes("raise in them what an effect raises, and clean up", function()
    local v, run = value([[
      local ok, e = pcall(coroutine.wrap(function()
        local c <close> = setmetatable({}, { __close = function() log(time.sleep(1)) end })
        docker.pull("a")
      end))
      return e.code]], { answer = refuse "docker.pull" })
    assert.equal("refused", v)
    assert.same({ "2" }, run.logs)
  end)

  it("can't be resumed while one of their effects is in flight", function()
    assert.equal("false cannot resume non-suspended coroutine normal", value [[
      local co = coroutine.create(function() time.sleep(1) end)
      local seen
      task.all(function() coroutine.resume(co) end, function()
        local ok, why = coroutine.resume(co)
        seen = tostring(ok) .. " " .. why .. " " .. coroutine.status(co)
      end)
      return seen]])
  end)

  it("are stock Lua otherwise", function()
    assert.equal("true true false", value [[
      local _, main = coroutine.running()
      local inner = coroutine.wrap(function() return select(2, coroutine.running()) end)()
      return table.concat({ tostring(main), tostring(not coroutine.isyieldable()),
        tostring(inner) }, " ")]])
    assert.matches("outside a coroutine", failure "coroutine.yield(1)".message)
    assert.matches("cannot resume dead coroutine", value [[
      local co = coroutine.create(function() end)
      coroutine.resume(co)
      return select(2, coroutine.resume(co))]])
  end)

  it_closes("can be closed", function()
    assert.is_true(value [[
      local co = coroutine.create(function() coroutine.yield() end)
      coroutine.resume(co)
      return coroutine.close(co) and coroutine.status(co) == "dead"]])
  end)
end)

describe("a run", function()
  it("goes on in a successor with its state", function()
    local run = support.run("return recipe { run = function(p, state) log(state.n) "
      .. "return continue_as { n = state.n + 1 } end }", { state = { n = 4 } })
    assert.equal("continue_as", run.result.type)
    assert.same({ n = 5 }, run.result.state)
    assert.same({ "4" }, run.logs)
    assert.equal("after_continue_as", failure "continue_as {} uuid()".code)
    assert.equal("not_here", failure "task.all(function() continue_as {} end)".code)
  end)

  it("that is given an answer it never asked for has diverged", function()
    local w <close> = engine.spawn()
    w:send { type = "start", run = "r", files = { ["recipe.lua"] =
      "return recipe { run = function() uuid() end }" }, params = {}, seed = 1, mode = "run" }
    w:send { type = "answer", n = 7, ok = true }
    w:recv(5000)
    w:recv(5000)
    local last = w:recv(5000)
    assert.equal("diverged", last.error.code)
  end)

  it("replays a thousand effects in less than half a second", function()
    local clock = require "clock"
    local scale = os.getenv("ASAN_OPTIONS") and 20 or 1
    local w <close> = engine.spawn()
    w:send { type = "start", run = "r", files = { ["recipe.lua"] =
      "return recipe { run = function() for i = 1, 1000 do uuid() end return 'done' end }" },
      params = {}, seed = 1, mode = "run" }
    local begun = clock.monotonic()
    for n = 1, 1000 do
      w:send { type = "answer", n = n, ok = true, value = "0190-" .. n }
    end
    local frame
    repeat frame = w:recv(20000) until not frame or frame.type == "done"
    assert.equal("done", frame.value)
    assert.is_true(clock.monotonic() - begun < 500 * scale)
  end)
end)
