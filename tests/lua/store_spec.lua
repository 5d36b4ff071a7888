-- store_spec.lua - what was posted before a commit is durable after it.

local db = require "db"
local embed = require "embed"
local fs = require "fs"
local task = require "task"
local Store = require "nd.store"

describe("the store", function()
  local dir, store

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    fs.mkdir(dir, 448)
    store = Store.open(dir, "a machine")
  end)

  after_each(function()
    store:close()
    fs.remove(dir, { recursive = true })
  end)

  it("takes over the database of an older release, after a copy", function()
    store:close()
    fs.remove(dir, { recursive = true })
    fs.mkdir(dir, 448)
    local old = db.open(dir .. "/nextdeploy.db")
    old:script(embed.read "lua/nd/migrations/001.sql" .. "\nPRAGMA user_version = 1;")
    old:script "INSERT INTO app (project, environment, name, created_at, updated_at) VALUES ('p', 'e', 'shop', 1, 2)"
    old:close()
    store = Store.open(dir, "a machine")
    assert.equal("shop", store:get("SELECT name FROM app").name)
    assert.same({}, store:all("SELECT begun_with FROM run"))
    assert.matches("nextdeploy%.db%.before%-%d%d%d", table.concat(fs.list(dir), " "))
  end)

  -- What a failing disk does: past the triggers, which only a daemon's connection has.
  local function flip(sql)
    local disk = db.open(dir .. "/nextdeploy.db")
    disk:write { { sql } }
    disk:close()
  end

  local function app_and_release()
    store:commit {
      { "INSERT INTO app (id, project, environment, name, created_at, updated_at) VALUES (1, 'p', 'e', 'shop', 1, 2)" },
      { [[INSERT INTO release (id, app, number, state, image, image_id, config, run, key, created_at)
        VALUES (1, 1, 1, 'live', 'shop:v1', 'sha256:1', '{"port": 8080}', 'r', 'r/1', 1)]] },
      { "UPDATE app SET live = 1" },
    }
  end

  it("tells a row that is not what was written, and believes it again when a person says so", function()
    app_and_release()
    assert.is_nil(store:get("SELECT * FROM release WHERE id = 1").damaged)
    flip [[UPDATE release SET config = '{"port": 8081}']]
    assert.equal(1, store:get("SELECT * FROM release WHERE id = 1").damaged)
    store:commit { { "UPDATE release SET state = 'kept'" } }
    assert.equal(1, store:get("SELECT * FROM release WHERE id = 1").damaged) -- no change makes it right
    flip "UPDATE release SET checksum = 0"
    assert.is_nil(store:get("SELECT * FROM release WHERE id = 1").damaged)
    store:commit { { "UPDATE release SET state = 'live'" } }
    flip "UPDATE release SET state = 'kept'"
    assert.equal(1, store:get("SELECT * FROM release WHERE id = 1").damaged)
  end)

  it("raises what nobody names as damaged, by name", function()
    app_and_release()
    flip "UPDATE app SET stopped = 1"
    local ok, e = pcall(store.get, store, "SELECT * FROM app WHERE id = 1")
    assert.is_false(ok)
    assert.equal("db_damaged", e.code)
    assert.matches("checksum = 0", e.hint)
    ok, e = pcall(store.verify, store)
    assert.is_false(ok)
    assert.equal("db_damaged", e.code)
    assert.matches("table app, where id = 1", e.message)
  end)

  it("checks every column of a table that later gets more, and doesn't believe what was damaged before", function()
    app_and_release()
    store:commit { { [[INSERT INTO release (id, app, number, state, image, image_id, config, run, key, created_at)
      VALUES (2, 1, 2, 'kept', 'shop:v2', 'sha256:2', '{}', 'r', 'r/2', 1)]] } }
    flip "UPDATE release SET config = '[]' WHERE id = 2"
    store.db:script "ALTER TABLE release ADD COLUMN later TEXT NOT NULL DEFAULT 'x'"
    require "nd.store_sums".attach(store.db)
    assert.is_nil(store:get("SELECT * FROM release WHERE id = 1").damaged)
    assert.equal(1, store:get("SELECT * FROM release WHERE id = 2").damaged)
    flip "UPDATE release SET later = 'y' WHERE id = 1"
    assert.equal(1, store:get("SELECT * FROM release WHERE id = 1").damaged)
  end)

  it("doesn't open where a table is not what was made", function()
    flip "ALTER TABLE app ADD COLUMN extra TEXT"
    store:close()
    local ok, e = pcall(Store.open, dir, "a machine")
    flip "ALTER TABLE app DROP COLUMN extra"
    store = Store.open(dir, "a machine")
    assert.is_false(ok)
    assert.equal("db_corrupt", e.code)
  end)

  it("finds an app by its name alone without reading all of them", function()
    local plan = store:all("EXPLAIN QUERY PLAN SELECT id FROM app WHERE name = ?", "shop")
    assert.is_true(#plan > 0)
    for _, step in ipairs(plan) do assert.not_matches("SCAN", step.detail) end
  end)

  it("writes in the order it was posted what a full disk has refused, also where two transactions were", function()
    local real, refusals = store.db, 2
    store.db = setmetatable({}, { __index = function(_, name)
      if name ~= "write" or refusals == 0 then
        return function(_, ...) return real[name](real, ...) end
      end
      refusals = refusals - 1
      return function()
        task.sleep(1)
        error(task.error { code = "db_full", message = "no space" }, 0)
      end
    end })
    store:post { { "INSERT INTO meta (key, value) VALUES ('step', 'begun')" } }
    local first = task.spawn("first", function() pcall(store.commit, store, {}) end)
    task.yield()
    store:post { { "UPDATE meta SET value = 'ended' WHERE key = 'step'" } }
    pcall(store.commit, store, {})
    first:wait()
    assert.equal(0, refusals)
    store:commit {}
    store.db = real
    assert.equal("ended", store:get("SELECT value FROM meta WHERE key = 'step'").value)
  end)

  it("shows after an empty commit what was posted before it, at whatever moment it comes", function()
    for turns = 0, 5 do
      store:post { store:set_meta("turns", tostring(turns)) }
      for _ = 1, turns do task.sleep(0) end
      store:commit {}
      assert.equal(tostring(turns), store:meta("turns"))
    end
  end)

  it("writes what is posted while it writes without a pause", function()
    local clock = require "clock"
    local begun = clock.monotonic()
    for n = 1, 20 do
      store:post { store:set_meta("n", tostring(n)) }
      task.sleep(1)
    end
    while store:meta("n") ~= "20" and clock.monotonic() - begun < 5000 do task.sleep(5) end
    assert.is_true(clock.monotonic() - begun < 900)
  end)

  local function values()
    local list = {}
    for _, row in ipairs(store:all "SELECT value FROM meta WHERE key LIKE 'test%' ORDER BY value") do
      list[#list + 1] = row.value
    end
    return table.concat(list, " ")
  end

  it("returns from an empty commit when the write of a cancelled caller is over", function()
    local other = task.spawn("other", function() store:commit { store:set_meta("test", "late") } end)
    task.yield()
    other:cancel()
    other:wait()
    store:commit {}
    assert.equal("late", store:meta "test")
  end)

  it("writes what was posted once, when the one who commits it is cancelled", function()
    store:post { { "INSERT INTO meta (key, value) VALUES ('test', 'once')" } }
    local other = task.spawn("other", function() store:commit {} end)
    task.yield()
    other:cancel()
    other:wait()
    store:commit { store:set_meta("test2", "twice") }
    assert.equal("once twice", values())
    assert.equal(0, #store.pending)
  end)

  it("writes what was posted, in order, when what comes after it is refused", function()
    store:commit { store:set_meta("test", "1") }
    store:post { store:set_meta("test2", "2") }
    local refused = task.spawn("refused", function()
      store:try { { "INSERT INTO meta (key, value) VALUES ('test', 'again')" } }
    end)
    task.yield()
    store:commit { { "UPDATE meta SET value = '3' WHERE key = 'test2'", expect = 1 } }
    assert.equal("1 3", values())
    local ok, e = pcall(refused.join, refused)
    assert.is_false(ok)
    assert.equal("constraint", e.code)
  end)

  it("refuses at once what no database holds, and writes what comes before and after", function()
    store:post { store:set_meta("test", "1") }
    for _, value in ipairs { {}, print, coroutine.create(print) } do
      for _, write in ipairs { store.post, store.commit, store.try } do
        local ok, e = pcall(write, store, { store:set_meta("never", "0"), store:set_meta("test", value) })
        assert.is_false(ok)
        assert.matches("can't be stored", tostring(e))
      end
    end
    store:commit { store:set_meta("test2", "2") }
    assert.equal("1 2", values())
  end)

  it("leaves out what can never be written, and nothing else", function()
    store:commit { store:set_meta("test", "1") }
    store:post { store:set_meta("test2", "2"), { "INSERT INTO meta (key, value) VALUES ('test', 'again')" },
      store:set_meta("test3", "3") }
    store:commit { store:set_meta("test4", "4") }
    assert.equal("1 2 3 4", values())
    store:post { { "INSERT INTO meta (key, value) VALUES ('test', 'again')" } }
    store:commit {}
    assert.equal(0, #store.pending)
  end)
end)
