-- spec.lua - what specs of the bindings share.
--
--   spec.raised(fn, ...) -> error       of a call that must raise one
--   spec.until_true(condition[, ms])    waits for it, by default for 5 s
--   spec.folder() -> path               a new, empty one of one's own

local clock = require "clock"
local fs = require "fs"
local task = require "task"

local spec = {}

function spec.raised(fn, ...)
  local ok, err = pcall(fn, ...)
  assert(not ok, "it raised nothing")
  return err
end

function spec.until_true(condition, ms)
  local deadline = clock.monotonic() + (ms or 5000)
  while not condition() do
    assert(clock.monotonic() < deadline, "not in time")
    task.sleep(2)
  end
end

function spec.folder()
  local path = os.tmpname()
  os.remove(path)
  fs.mkdir(path, 448) -- 0700
  return path
end

return spec
