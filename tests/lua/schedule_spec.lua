-- schedule_spec.lua - what a schedule has missed is made up for once, whatever comes between.

local clock = require "clock"
local Jobs = require "nd.service.jobs"
local Schedule = require "nd.service.schedule"
local World = require "tests.lua.spine_world"

local HOUR, DAY = 3600 * 1000, 24 * 3600 * 1000

describe("a schedule", function()
  local w, d, app, release

  before_each(function()
    w = World.new()
    d = w.d
    d.jobs = Jobs.new(d)
    function d.jobs.go(_, job)
      d.store:commit { { "UPDATE job SET state = 'done', ended_at = ?1, gone_at = ?1 WHERE id = ?2", clock.now(),
        job.id } }
    end
  end)

  after_each(function() w:close() end)

  -- An app that is live for so long.
  local function with(ms, processes)
    processes.web = { kind = "web" }
    for _, process in pairs(processes) do process.command = { "x" } end
    app, release = w:app("shop", 1, { processes = processes })
    d.store:commit { { "UPDATE release SET live_at = ? WHERE id = ?", clock.now() - ms, release.id } }
  end

  -- What a start of the daemon does. -> how many jobs of the process there are then
  local function start(process)
    d.schedule = Schedule.new(d)
    d.schedule:look(app)
    w:until_true(function() return d.schedule.apps[app.id] end)
    d.schedule:turn()
    return w:row("SELECT count(*) AS n FROM job WHERE process = ?", process).n
  end

  it("makes up for all that it missed by one firing, however often the daemon starts", function()
    with(5 * HOUR, { sync = { kind = "cron", schedule = "0 * * * *", missed = "run" } })
    assert.equal(1, start "sync")
    assert.equal(1, start "sync")
    assert.equal(1, start "sync")
  end)

  it("that fires daily isn't made up for again because of one that fires each minute", function()
    with(3 * DAY, { daily = { kind = "cron", schedule = "0 0 * * *", missed = "run" } })
    local midnight = clock.now() // DAY * DAY
    local statements = {}
    for i = 0, 300 do
      statements[#statements + 1] = { [[INSERT INTO job (app, release, process, trigger, key, due_at, name, address,
        command, image, image_id, number, timeout, state, created_at, ended_at, gone_at)
        VALUES (?, ?, ?, 'cron', ?, ?, '', '', '[]', 'img', 'sha256:1', 1, 1, 'done', ?5, ?5, ?5)]], app.id, release.id,
        i == 0 and "daily" or "tick", "k" .. i, midnight + i }
    end
    d.store:commit(statements)
    d.jobs:finish(d.jobs:by_key "k300", 0)
    assert.equal(200, w:row("SELECT count(*) AS n FROM job WHERE process = 'tick'").n)
    assert.equal(1, start "daily")
    assert.is_table(d.jobs:by_key "k0")
  end)

  it("rests while its app is destroyed", function()
    with(0, { tick = { kind = "cron", schedule = "* * * * *" } })
    start "tick"
    local looked, fired = 0, 0
    function d.jobs.launch() fired = fired + 1 end
    w:before("remove", function()
      for _, entry in pairs(d.schedule.apps[app.id] or {}) do entry.due = clock.now() end
      d.schedule:turn()
      looked = looked + 1
    end)
    d.apps:destroy(app)
    assert.equal(1, looked)
    assert.equal(0, fired)
  end)

  it("leaves nothing of a firing that was on its way when its app was destroyed", function()
    with(0, { tick = { kind = "cron", schedule = "* * * * *" } })
    local order = {}
    function d.jobs.halt_all() order[#order + 1] = "jobs" end
    function d.network.remove_bridge() order[#order + 1] = "network" end
    w:before("remove", function() order[#order + 1] = "instance" end)
    d.apps:destroy(app)
    assert.same({ "instance", "jobs", "network" }, order)
  end)
end)
