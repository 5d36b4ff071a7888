-- One byte of the database is another than what was written, with apps live and runs in flight: the daemon
-- starts, or says by name why not, and nothing is done that would not have been done, whatever byte it is.
--
-- Each case is a database file with one byte changed anywhere, or a value of a row of the journal or of a
-- release, which is then opened as at a daemon's start, with a Docker and a network that note what is asked
-- of them. ND_FLIPS says how many, ND_SEED from which random number on, ND_FLIPPED where a copy of the
-- sound database is to be left.

local clock = require "clock"
local fs = require "fs"
local log = require "log"
local task = require "task"
local db = require "db"
local World = require "tests.lua.spine_world"
local spec = require "tests.lua.lib.spec"

local FLIPS = math.tointeger(tonumber(os.getenv "ND_FLIPS" or "")) or 60
local SEED = math.tointeger(tonumber(os.getenv "ND_SEED" or "")) or 1
local LONG = 24 * 60 * 60 * 1000
local PROGRAMS = os.getenv "ND_BIN_DIR" or "build/debug/bin"

-- ---- the daemon, as far as it decides ----

-- What main.lua puts together, where it decides what is done to apps.
local function build(w)
  local d = w.d
  d.options.recipe_dir = w.dir .. "/recipes"
  d.worker_options = { path = PROGRAMS .. "/nd-worker" }
  d.recipes = require("nd.service.recipe").new(d)
  d.runs = require("nd.service.runs").new(d)
  return w
end

-- As main.lua's `recover`; raises what ends the daemon.
local function start(w)
  local d = w.d
  d.store:verify()
  local interrupted = d.runs:interrupted()
  d.traffic:retarget_all()
  d.drain:resume()
  d.guard:resume()
  d.runs:resume(interrupted)
  d.queue:resume()
  d.watch:reconcile()
  spec.until_true(function() return next(d.runs.live) == nil end, 20000)
  d.store:commit {}
  d.watch:reconcile()
end

-- ---- what there is ----

local function copy(value)
  if type(value) ~= "table" then return value end
  local out = {}
  for k, v in pairs(value) do out[k] = copy(v) end
  return out
end

-- Two apps that serve, with a release kept and one that drains; one that a person stopped; a deploy that
-- waits for its new release to be healthy; and a run that goes back.
local function fixture()
  local w = build(World.new())
  local d = w.d
  local shop, blog = w:app("shop", 2), w:app("blog")
  local idle, first = w:app "idle"
  local kept, drains = w:release(blog, 2, "kept", 1), w:release(blog, 3, "draining", 1)
  local begun = w:release(idle, 2, "created", 1)
  local soon = clock.now() + LONG
  d.releases:user_stop(idle)
  d.store:commit {
    { "UPDATE release SET keep_until = ? WHERE id = ?", soon, kept.id },
    { "UPDATE release SET drain_until = ?, keep_ms = ? WHERE id = ?", soon, LONG, drains.id },
    { "UPDATE instance SET state = 'exited' WHERE release = ?", kept.id },
    { "INSERT INTO bundle (hash, name, files, created_at) VALUES ('h0', 'b', '{}', 1)" },
    { [[INSERT INTO run (id, app, recipe, bundle, params, seed, state, owner, started_at, reason)
      VALUES ('r0', ?, 'b', 'h0', '{}', 1, 'rolling_back', 'me', 1, '{"code": "unhealthy", "message": "sick"}')]],
      idle.id },
    { [[INSERT INTO effect (run, n, name, version, task, args, label, asked_at, answered, answered_at, ok,
      result, undo) VALUES ('r0', 1, 'app.start', 1, '1', '[]', 'start idle', 1, 1, 1, 1, '{}',
      '{"effect": "app.remove", "args": [{"release": 2}]}')]] },
    { "UPDATE release SET run = 'r0' WHERE id = ?", begun.id },
  }
  d.docker.containers["blog-2-1"].State.Running = false
  local waits
  d.health.wait = function()
    waits = true
    task.sleep(LONG)
  end
  d.runs:start { app = shop, recipe = "bluegreen", params = { app = "shop", image = "img" }, owner = "uid 0" }
  spec.until_true(function() return waits end)
  d.store:commit {}
  d.store.db:backup(w.dir .. "/base.db")
  local base = { bytes = fs.read(w.dir .. "/base.db", 1 << 26), containers = copy(d.docker.containers),
    services = copy(d.network.services), first = first }
  d.stopping = true
  for _, run in pairs(d.runs.live) do run.driver:cancel() end
  w:close()
  return base
end

-- ---- one case ----

-- The world with this database, as a daemon that starts finds it. Raises what ends it.
local function open(base, dir)
  local w = build(World.new(dir))
  local d = w.d
  d.docker.containers, d.network.services = copy(base.containers), copy(base.services)
  d.network.connected = 1 -- to each: nothing has drained
  return w
end

local function targets(w, app)
  local found = {}
  for _, s in pairs(w.d.network.services) do
    if s.key.app == app then found[#found + 1] = table.concat(s.targets, " ") end
  end
  table.sort(found)
  return table.concat(found, ";")
end

-- Acts on containers that change what runs, in order of their names.
local function acts(w)
  local set, list = {}, {}
  for _, call in ipairs(w.d.docker.calls) do
    local verb, name = call:match "^(%l+) (.*)$"
    name = name:gsub("^id%-", "")
    if ("create start stop remove"):find(verb, 1, true) then set[verb .. " " .. name] = true end
  end
  for act in pairs(set) do list[#list + 1] = act end
  table.sort(list)
  return list
end

-- What may be done at all: the deploy goes on or back, the other run goes back.
local allowed = { ["remove idle-2-1"] = true, ["stop idle-2-1"] = true }

local function check_acts(w, base)
  for _, act in ipairs(acts(w)) do
    local verb, name = act:match "^(%l+) (.*)$"
    local own = not base.there[name] -- of the deploy in flight
    assert(allowed[act] or own and (verb == "remove" or verb == "stop"), "done: " .. act)
  end
end

local function check_traffic(w, base)
  assert.equal(base.blog, targets(w, "blog"))
  assert.equal(base.idle, targets(w, "idle"))
  local shop = targets(w, "shop")
  assert(shop == base.shop or shop == base.new, "the traffic of shop goes to " .. shop)
  for name, c in pairs(w.d.docker.containers) do
    if name:find "^shop%-" or name:find "^blog%-1" then
      assert(c.State.Running or shop == base.new, name .. " does not run")
    end
  end
  for name in pairs(base.there) do
    assert(w.d.docker.containers[name] or name == "idle-2-1" or shop == base.new, name .. " is gone")
  end
end

-- The names of what went wrong, as people meet them.
local function named(w, said)
  local d, codes = w.d, {}
  for _, row in ipairs(d.store:all "SELECT * FROM run") do
    local code = (row.error or ""):match '"code":"([%w_]+)"'
    if code and code ~= "unhealthy" then codes[code] = true end
  end
  for _, app in ipairs(d.store:all "SELECT * FROM app") do
    local status = d.apps:status(app)
    if status.error then codes[status.error.code] = true end
  end
  for _, text in ipairs(said) do
    if text:find "is damaged" or text:find "not what was written" or text:find "made anew" then codes.logged = true end
  end
  local list = {}
  for code in pairs(codes) do list[#list + 1] = code end
  table.sort(list)
  return list
end

-- What is written to the log meanwhile.
local function listen(said)
  local before = { error = log.error, warn = log.warn, info = log.info }
  for name in pairs(before) do log[name] = function(text) said[#said + 1] = tostring(text) end end
  return setmetatable({}, { __close = function()
    for name, fn in pairs(before) do log[name] = fn end
  end })
end

local refusals = { db_corrupt = true, db_damaged = true, db_newer = true, db_sql = true }

-- -> "refused CODE", "harmless", or the codes of what was named
local function play(base, dir)
  local said = {}
  local _ <close> = listen(said)
  local ok, w = pcall(open, base, dir)
  local e = w
  if ok then
    ok, e = pcall(start, w)
    if ok then
      check_acts(w, base)
      check_traffic(w, base)
      e = named(w, said)
    else
      assert.same({}, acts(w))
      assert.equal(base.shop, targets(w, "shop"))
    end
    w.d.stopping = true
    w:close()
  end
  for _, text in ipairs(said) do
    assert(not text:find "traceback" and not text:find "attempt to", text)
  end
  if ok then return #e > 0 and table.concat(e, " ") or "harmless" end
  assert(type(e) == "table" and refusals[e.code], tostring(e))
  assert(e.code == "db_sql" or e.hint, e.message)
  return "refused " .. e.code
end

-- A new directory with this as its database.
local function directory(bytes)
  local dir = spec.folder()
  fs.mkdir(dir .. "/run/secrets", 493)
  fs.write(dir .. "/nextdeploy.db", bytes)
  return dir
end

-- ---- the flips ----

local function flip_byte(bytes, random)
  local at = random(1, #bytes)
  return bytes:sub(1, at - 1) .. string.char(bytes:byte(at) ~ random(1, 255)) .. bytes:sub(at + 1),
    ("byte %d of the file"):format(at)
end

local function flip_text(text, random)
  return (flip_byte(text, random))
end

-- Changes one value of a row of the journal or of a release, as the disk would: past the triggers.
local function flip_value(dir, random)
  local disk <close> = db.open(dir .. "/nextdeploy.db")
  local name = ({ "run", "effect", "release" })[random(1, 3)]
  local rows = disk:all(("SELECT * FROM %s"):format(name))
  local columns = disk:all("SELECT name, type FROM pragma_table_info(?) WHERE name NOT IN ('checksum', 'state') "
    .. "AND pk = 0", name)
  while true do
    local row, column = rows[random(1, #rows)], columns[random(1, #columns)]
    local value = row[column.name]
    if value ~= nil and value ~= "" then
      local new = column.type == "INTEGER" and value ~ (1 << random(0, 40)) or flip_text(tostring(value), random)
      local key = name == "effect" and "run = ? AND n = ?" or "id = ?"
      local statement = { ("UPDATE %s SET %s = CAST(? AS %s) WHERE %s"):format(name, '"' .. column.name .. '"',
        column.type, key), column.type == "INTEGER" and new or db.blob(new) }
      if name == "effect" then
        statement[3], statement[4] = row.run, row.n
      else
        statement[3] = row.id
      end
      disk:script "PRAGMA ignore_check_constraints = ON"
      if pcall(disk.write, disk, { statement }) then return ("%s of a row of %s"):format(column.name, name) end
    end
  end
end

local function xorshift(seed)
  local state = seed * 0x9e3779b97f4a7c15 | 1
  return function(from, to)
    state = state ~ state >> 12
    state = state ~ state << 25
    state = state ~ state >> 27
    return from + (state * 2685821657736338717 >> 33) % (to - from + 1)
  end
end

describe("a database with one byte changed", function()
  local base

  setup(function()
    base = fixture()
    if os.getenv "ND_FLIPPED" then fs.write(os.getenv "ND_FLIPPED", base.bytes) end
    base.there = {}
    for name in pairs(base.containers) do
      if not name:find "^nd%-" then base.there[name] = true end
    end
    local dir = directory(base.bytes)
    local w = open(base, dir)
    base.shop, base.blog, base.idle = targets(w, "shop"), targets(w, "blog"), targets(w, "idle")
    start(w)
    base.new = targets(w, "shop")
    assert.not_equal(base.shop, base.new)
    assert.same({}, named(w, {}))
    w.d.stopping = true
    w:close()
  end)

  it("is harmless or named, and never acted on wrongly", function()
    local counts = {}
    for seed = SEED, SEED + FLIPS - 1 do
      local random, what = xorshift(seed), nil
      local bytes = base.bytes
      if seed % 3 > 0 then bytes, what = flip_byte(bytes, random) end
      local dir = directory(bytes)
      if not what then what = flip_value(dir, random) end
      local ok, outcome = pcall(play, base, dir)
      fs.remove(dir, { recursive = true })
      assert(ok, ("ND_SEED=%d, %s: %s"):format(seed, what, tostring(outcome)))
      counts[outcome] = (counts[outcome] or 0) + 1
    end
    local names = {}
    for name in pairs(counts) do names[#names + 1] = name end
    table.sort(names)
    print()
    for _, name in ipairs(names) do print(("%6d  %s"):format(counts[name], name)) end
    print(("%d flips, 0 wrong acts"):format(FLIPS))
  end)
end)
