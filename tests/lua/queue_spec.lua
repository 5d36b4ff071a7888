-- queue_spec.lua - runs that wait for their turn: what happens to them between one run and the next.

local task = require "task"
local recipe_worker = require "nd.service.recipe_worker"
local Runs = require "nd.service.runs"
local World = require "tests.lua.spine_world"

-- A worker whose recipe is done once it is told to be.
local Worker = {}
Worker.__index = Worker

function Worker.kill() end
function Worker.send() end
function Worker:recv(ms)
  if not self.is_done and not self.told:wait(ms) then
    error(task.error { code = "timeout", message = "it computes" }, 0)
  end
  return { type = "done" }
end

function Worker:done()
  self.is_done = true
  self.told:notify()
end

describe("runs that wait for their turn", function()
  local w, d, start_worker, workers, loading

  before_each(function()
    w = World.new()
    d = w.d
    d.runs = Runs.new(d)
    d.recipes = {
      bundle = function() return { name = "r", hash = "h", files = {} } end, is_named = function() return true end,
      keep = function()
        return { "INSERT OR IGNORE INTO bundle (hash, name, files, created_at) VALUES ('h', 'r', '{}', 1)" }
      end,
      kept = function() return "{}" end,
    }
    w:app "shop"
    workers, loading = {}, {}
    start_worker = recipe_worker.start
    function recipe_worker.start(_, row)
      if loading[row.id] then loading[row.id]() end
      workers[row.id] = setmetatable({ told = task.signal() }, Worker)
      return workers[row.id], {}
    end
  end)

  after_each(function()
    recipe_worker.start = start_worker
    d.stopping = true
    for _, run in pairs(d.runs.live) do run.driver:cancel() end
    w:close()
  end)

  local function ask(busy)
    return d.runs:ask({ kind = "run", body = { app = "shop", recipe = "r" }, owner = "uid 0", busy = busy }).row.id
  end

  local function state(id) return d.runs:get(id).state end
  local function is_live(id) return function() return d.runs.live[id] end end
  local function has_ended(id)
    return function() return w:row("SELECT ended_at FROM run WHERE id = ?", id).ended_at end
  end

  -- Ends the run that is live while `first`, whose turn it is, loads its recipe; calls fn meanwhile.
  local function at_the_turn_of(first, live, fn)
    local loads, may_go_on
    loading[first] = function()
      loads = true
      w:until_true(function() return may_go_on end)
    end
    workers[live]:done()
    w:until_true(function() return loads end)
    fn()
    may_go_on = true
  end

  it("the next one begins where the first is cancelled as its turn comes", function()
    local live, first, second = ask(), ask "queue", ask "queue"
    at_the_turn_of(first, live, function() d.runs:cancel(first, "uid 0") end)
    w:until_true(is_live(second))
    assert.equal("cancelled", state(first))
  end)

  it("one that supersedes begins where the run before it ended by itself", function()
    local live, first = ask(), ask "queue"
    local drop = d.queue.drop
    function d.queue.drop(...)
      local args = table.pack(...)
      d.queue.drop = drop
      at_the_turn_of(first, live, function() drop(table.unpack(args)) end)
    end
    local newest = ask "supersede"
    w:until_true(is_live(newest))
    assert.equal("cancelled", state(first))
  end)

  it("one that can't begin is told so once the database takes it, and the next one begins", function()
    local live, first, second = ask(), ask "queue", ask "queue"
    loading[first] = function() error(task.error { code = "recipe_failed", message = "it is broken" }, 0) end
    local drop, times = d.queue.drop, 0
    function d.queue.drop(...)
      times = times + 1
      if times == 1 then error(task.error { code = "db_full", message = "the disk is full" }, 0) end
      return drop(...)
    end
    workers[live]:done()
    w:until_true(is_live(second))
    assert.equal("failed", state(first))
  end)

  it("one that begins while somebody cancels it is cancelled as a run", function()
    local live, first = ask(), ask "queue"
    local drop = d.queue.drop
    function d.queue.drop(...)
      workers[live]:done()
      w:until_true(is_live(first))
      return drop(...)
    end
    d.runs:cancel(first, "uid 0")
    w:until_true(has_ended(first))
    assert.equal("cancelled", state(first))
  end)

  it("of two that supersede at the same time the newer one stays", function()
    local live = ask()
    local list, looked = d.queue.list, 0
    function d.queue.list(...)
      w:until_true(function() return #list(d.queue, "", {}) == 2 end)
      local rows = list(...)
      looked = looked + 1
      w:until_true(function() return looked == 2 end)
      return rows
    end
    local first, second = task.spawn("first", ask, "supersede"), task.spawn("second", ask, "supersede")
    first, second = first:join(), second:join()
    w:until_true(is_live(second))
    assert.equal("cancelled", state(first))
    assert.equal("cancelled", state(live))
  end)

  it("one that supersedes doesn't drop what was asked for after it", function()
    ask()
    local add, later = d.queue.add, nil
    function d.queue.add(...)
      local run = add(...)
      d.queue.add = add
      later = ask "queue"
      return run
    end
    w:until_true(is_live(ask "supersede"))
    assert.equal("queued", state(later))
  end)

  it("one that supersedes, and whose turn has come already, doesn't cancel itself", function()
    local live = ask()
    local add = d.queue.add
    function d.queue.add(...)
      local run = add(...)
      workers[live]:done()
      w:until_true(is_live(run.row.id))
      return run
    end
    local newest = ask "supersede"
    task.sleep(20)
    assert.equal("running", state(newest))
  end)
end)
