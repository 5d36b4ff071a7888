-- store_spec.lua - what was posted before a commit is durable after it.

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

  it("shows after an empty commit what was posted before it, at whatever moment it comes", function()
    for turns = 0, 5 do
      store:post { store:set_meta("turns", tostring(turns)) }
      for _ = 1, turns do task.sleep(0) end
      store:commit {}
      assert.equal(tostring(turns), store:meta("turns"))
    end
  end)
end)
