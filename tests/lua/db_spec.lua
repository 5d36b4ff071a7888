-- The database as trusted Lua sees it: values, transactions, errors and their texts.
local db = require "db"
local fs = require "fs"
local task = require "task"

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local spec = dofile(here .. "/lib/spec.lua")
local raised = spec.raised

describe("db", function()
  local dir, c

  before_each(function()
    dir = spec.folder()
    c = db.open(dir .. "/t.db")
    c:script [[
      CREATE TABLE app (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, n INTEGER,
                        r REAL, b BLOB) STRICT;
      CREATE TABLE run (id INTEGER PRIMARY KEY, app INTEGER NOT NULL REFERENCES app(id)
                        DEFERRABLE INITIALLY DEFERRED) STRICT;
    ]]
  end)

  after_each(function()
    c:close()
    fs.remove(dir, { recursive = true })
  end)

  it("keeps each value's type", function()
    local bytes = "\0\255bytes"
    c:write { { "INSERT INTO app(name, n, r, b) VALUES (?, ?, ?, ?)",
      "héllo\0x", math.maxinteger, 0.5, db.blob(bytes) } }
    local row = c:get("SELECT * FROM app WHERE name = ?", "héllo\0x")
    assert.equal("héllo\0x", row.name)
    assert.equal(math.maxinteger, row.n)
    assert.equal("integer", math.type(row.n))
    assert.equal(0.5, row.r)
    assert.equal(bytes, row.b)
  end)

  it("leaves NULL columns out of a row, and takes nil, db.null and booleans", function()
    c:write { { "INSERT INTO app(name, n, r) VALUES (?, ?, ?)", "a", db.null, db.null },
      { "INSERT INTO app(name, n) VALUES (?, ?)", "b", true } }
    local row = c:get("SELECT * FROM app WHERE name = ?", "a")
    assert.same({ id = 1, name = "a" }, row)
    assert.equal(1, c:get("SELECT n FROM app WHERE name = 'b'").n)
    assert.is_nil(c:get("SELECT 1 AS one WHERE ? IS NOT NULL", nil))
    assert.equal(require("json").null, db.null)
  end)

  it("tells what each statement did", function()
    local out = c:write {
      { "INSERT INTO app(name) VALUES (?), (?)", "a", "b" },
      { "UPDATE app SET n = 1 WHERE name = ? RETURNING id, n", "b" },
      { "DELETE FROM app WHERE name = ?", "nobody" },
      { "SELECT name FROM app ORDER BY name" },
    }
    assert.equal(2, out[1].changes)
    assert.equal(2, out[1].id)
    assert.same({ { id = 2, n = 1 } }, out[2].rows)
    assert.equal(0, out[3].changes)
    assert.same({ { name = "a" }, { name = "b" } }, out[4].rows)
  end)

  it("shows a committed transaction to scans and point reads at once", function()
    for i = 1, 20 do
      c:write { { "INSERT INTO app(name) VALUES (?)", "app" .. i } }
      assert.equal(i, c:get("SELECT count(*) AS n FROM app").n)
      assert.equal(i, #c:all("SELECT * FROM app"))
    end
  end)

  it("takes the whole transaction back when a row was not as expected", function()
    local err = raised(c.write, c, {
      { "INSERT INTO app(name) VALUES ('a')" },
      { "UPDATE app SET n = 2 WHERE name = 'missing'", expect = 1 },
    })
    assert.equal("stale", err.code)
    assert.equal(2, err.data.statement)
    assert.matches("0 rows instead of 1", err.message, 1, true)
    assert.is_nil(c:get("SELECT * FROM app"))
  end)

  it("names the constraint that a transaction broke", function()
    c:write { { "INSERT INTO app(name) VALUES ('a')" } }
    local err = raised(c.write, c, { { "INSERT INTO app(name) VALUES ('a')" } })
    assert.equal("constraint", err.code)
    assert.equal("UNIQUE constraint failed: app.name", err.data.constraint)
    err = raised(c.write, c, { { "INSERT INTO run(app) VALUES (77)" } })
    assert.equal("FOREIGN KEY constraint failed", err.data.constraint)
    err = raised(c.write, c, { { "INSERT INTO app(name, n) VALUES ('x', 'text')" } })
    assert.equal("cannot store TEXT value in INTEGER column app.n", err.data.constraint)
  end)

  it("commits the others of a group when one of them fails", function()
    local tasks = {}
    for i = 1, 60 do
      tasks[i] = task.spawn("w" .. i, function()
        return pcall(c.write, c, { { "INSERT INTO app(name) VALUES (?)", "n" .. i % 50 } })
      end)
    end
    local failed = 0
    for i = 1, 60 do
      local ok, err = tasks[i]:join()
      if not ok then
        failed = failed + 1
        assert.equal("constraint", err.code)
      end
    end
    assert.equal(10, failed)
    assert.equal(50, c:get("SELECT count(*) AS n FROM app").n)
    local stats = c:stats()
    assert.is_true(stats.commits < 60)
    assert.equal(10, stats.failed)
  end)

  it("says what is wrong with a statement", function()
    local err = raised(c.write, c, { { "INSERT INTO nowhere VALUES (1)" } })
    assert.equal("db_sql", err.code)
    assert.matches("no such table: nowhere", err.message, 1, true)
    err = raised(c.get, c, "SELECT ?, ?", 1)
    assert.equal("db_sql", err.code)
    assert.matches("1 parameters for 2 places", err.message, 1, true)
    assert.equal("write db.null for NULL", err.hint)
    err = raised(c.write, c, { { "DELETE FROM app; DELETE FROM run" } })
    assert.matches("one statement at a time", err.message, 1, true)
    err = raised(c.all, c, "DELETE FROM app")
    assert.equal("db_io", err.code)
    local ok, text = pcall(c.write, c, { { "SELECT ?", {} } })
    assert.is_false(ok)
    assert.matches("statement 1: value 1 can't be stored (table)", tostring(text), 1, true)
  end)

  it("lets no statement end the transaction that a group shares", function()
    for _, sql in ipairs { "COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT x", "PRAGMA user_version = 9",
      "ATTACH '/tmp/x' AS y" } do
      assert.equal("db_sql", raised(c.write, c, { { sql } }).code)
    end
    assert.equal("db_sql", raised(c.script, c, "COMMIT").code)
  end)

  it("runs a migration whole or not at all", function()
    raised(c.script, c, "PRAGMA user_version = 7; CREATE TABLE x (a); DROP TABLE nowhere")
    assert.equal(0, c:get("PRAGMA user_version").user_version)
    c:script "PRAGMA user_version = 7; CREATE TABLE x (a)"
    assert.equal(7, c:get("PRAGMA user_version").user_version)
  end)

  it("makes a copy that opens", function()
    c:write { { "INSERT INTO app(name) VALUES ('a')" } }
    c:backup(dir .. "/copy.db")
    local copy = db.open(dir .. "/copy.db")
    assert.equal("a", copy:get("SELECT name FROM app").name)
    copy:close()
    assert.is_false(fs.exists(dir .. "/copy.db.part"))
    assert.equal("db_open", raised(c.backup, c, dir .. "/no/where.db").code)
  end)

  it("refuses what is not a database, and a directory that is not there", function()
    fs.write(dir .. "/bad.db", ("not a database "):rep(200))
    local err = raised(db.open, dir .. "/bad.db")
    assert.equal("db_corrupt", err.code)
    assert.matches("bad.db", err.message, 1, true)
    assert.matches("restore the latest backup", err.hint, 1, true)
    assert.equal("db_open", raised(db.open, dir .. "/no/t.db").code)
  end)

  it("writes errors that say what, where and what to do", function()
    c:script [[
      CREATE TABLE host (name TEXT NOT NULL CHECK (name <> ''), app INTEGER) STRICT;
      CREATE UNIQUE INDEX one_app_per_host ON host(lower(name));
      CREATE TRIGGER no_blanks BEFORE INSERT ON host WHEN instr(new.name, ' ')
        BEGIN SELECT RAISE(ABORT, 'a host name has no blanks'); END;
    ]]
    c:write { { "INSERT INTO host(name) VALUES ('a.example')" } }
    local function refused(...)
      local err = raised(c.write, c, { { "INSERT INTO host(name, app) VALUES (?, ?)", ... } })
      assert.equal("constraint", err.code)
      assert.equal("the database refuses it: " .. err.data.constraint, err.message)
      assert.equal(1, err.data.statement)
      return err.data.constraint
    end
    assert.equal("NOT NULL constraint failed: host.name", refused(db.null, 1))
    assert.equal("CHECK constraint failed: name <> ''", refused("", 1))
    assert.equal("UNIQUE constraint failed: index 'one_app_per_host'", refused("A.example", 1))
    assert.equal("a host name has no blanks", refused("a b", 1))
    local err = raised(c.write, c, { { "UPDATE host SET app = 1 WHERE name = 'x'", expect = 1 } })
    assert.equal("somebody else was first: 0 rows instead of 1 by: "
      .. "UPDATE host SET app = 1 WHERE name = 'x'", err.message)
    assert.equal(err.message .. " (stale)", tostring(err))
    err = raised(c.all, c, "SELEC 1")
    assert.equal("database " .. dir .. "/t.db: near \"SELEC\": syntax error (SQLite 1) in: SELEC 1",
      err.message)
  end)

  it("goes on after the disk was full, and has kept what it acknowledged", function()
    local small = dir .. "/small"
    fs.mkdir(small)
    if not pcall(fs.mount_tmpfs, small, { size = 1024 * 1024, mode = 448 }) then return end
    local s
    local unmount <close> = setmetatable({}, { __close = function()
      if s then s:close() end
      fs.unmount(small)
    end })
    s = db.open(small .. "/t.db")
    s:script "CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB) STRICT"
    fs.write(small .. "/filler", ("x"):rep(600000))
    local kept, err = 0, nil
    while not err and kept < 100 do
      local ok, e = pcall(s.write, s, { { "INSERT INTO t(b) VALUES (zeroblob(20000))" } })
      if ok then kept = kept + 1 else err = e end
    end
    assert.is_true(kept > 0)
    assert.equal("db_full", err.code)
    assert.equal("free space on the file system of the state directory", err.hint)
    assert.matches(small .. "/t.db: database or disk is full", err.message, 1, true)
    assert.equal(kept, s:get("SELECT count(*) AS n FROM t").n)
    fs.remove(small .. "/filler")
    s:write { { "INSERT INTO t(b) VALUES (zeroblob(20000))" } }
    assert.equal(kept + 1, s:get("SELECT count(*) AS n FROM t").n)
    assert.is_table(unmount)
  end)

  it("is closed after close, and for its owner alone", function()
    assert.equal(384, fs.stat(dir .. "/t.db").mode)
    c:close()
    assert.equal("db_closed", raised(c.get, c, "SELECT 1").code)
    c:close()
    c = db.open(dir .. "/t.db")
  end)

  it("reads the few rows of one key at once", function()
    for n = 1, 3 do c:write { { "INSERT INTO app(name, n) VALUES (?, ?)", "app" .. n, n } } end
    local names = {}
    for i, row in ipairs(c:rows("SELECT name FROM app WHERE n > ? ORDER BY n", 1)) do names[i] = row.name end
    assert.same({ "app2", "app3" }, names)
    assert.same({}, c:rows "SELECT * FROM app WHERE n = 7")
  end)

  it("remembers a text until something is committed, or its stamp is another", function()
    assert.is_nil(c:recall("a", 1))
    c:remember("a", 1, c:version(), "text\0")
    assert.equal("text\0", c:recall("a", 1))
    assert.is_nil(c:recall("a", 2))
    c:remember("a", 1, c:version(), "text")
    c:write { { "INSERT INTO app(name) VALUES ('x')" } }
    assert.is_nil(c:recall("a", 1))
  end)

  it("doesn't remember what was made from rows that changed meanwhile", function()
    local before = c:version()
    c:write { { "INSERT INTO app(name) VALUES ('x')" } }
    c:remember("a", 0, before, "old")
    assert.is_nil(c:recall("a", 0))
  end)

  it("forgets what was asked for least, when there is too much to remember", function()
    local version, text = c:version(), ("x"):rep(60000)
    c:remember("first", 0, version, text)
    for n = 1, 16 do
      c:remember("k" .. n, 0, version, text)
      assert.equal(text, c:recall("first", 0))
    end
    for n = 17, 40 do c:remember("k" .. n, 0, version, text) end
    assert.is_nil(c:recall("first", 0))
    assert.equal(text, c:recall("k40", 0))
    c:remember("huge", 0, version, ("x"):rep(1 << 20))
    assert.is_nil(c:recall("huge", 0))
  end)
end)
