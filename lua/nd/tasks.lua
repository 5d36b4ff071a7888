-- Structured concurrency for the daemon's own Lua, over the primitives of `task`.

local task = require "task"

local M = {}

-- Runs the functions side by side; returns the list of their first results. As soon as one fails, or the
-- caller is cancelled, the others are cancelled; it raises when they have ended.
function M.all(name, functions)
  local children, results = {}, {}
  local ended, left, failed = task.signal(), #functions, nil
  for i, fn in ipairs(functions) do
    children[i] = task.spawn(name, function()
      local _ <close> = setmetatable({}, { __close = function(_, e)
        left = left - 1
        if e ~= nil then failed = failed or children[i] end
        ended:notify()
      end })
      results[i] = fn()
    end)
  end
  local ok, e = pcall(function()
    while left > 0 and not failed do ended:wait() end
    if failed then failed:join() end
    for _, child in ipairs(children) do child:join() end
  end)
  if ok then return results end
  for _, child in ipairs(children) do child:cancel() end
  for _, child in ipairs(children) do child:wait() end
  error(e, 0)
end

-- Calls fn(item, i) for each item, all side by side, or `at_once` of them.
function M.each(name, items, fn, at_once)
  local hands, taken = {}, 0
  local function hand()
    while taken < #items do
      taken = taken + 1
      fn(items[taken], taken)
    end
  end
  for i = 1, math.min(at_once or #items, #items) do hands[i] = hand end
  M.all(name, hands)
end

-- One at a time for each key: `local _ <close> = lock:hold(key)` waits until nobody else holds it.
local Lock = {}
Lock.__index = Lock

function M.lock() return setmetatable({ held = {}, free = task.signal() }, Lock) end

function Lock:hold(key)
  while self.held[key] do self.free:wait() end
  self.held[key] = true
  return setmetatable({}, { __close = function()
    self.held[key] = nil
    self.free:notify()
  end })
end

-- Runs fn for at most `ms`; raises `late` when it takes longer.
function M.timeout(ms, late, fn)
  local child = task.spawn(task.current() or "timeout", fn)
  local ok, ended = pcall(child.wait, child, ms)
  if ok and ended then return child:join() end
  child:cancel()
  child:wait()
  if not ok then error(ended, 0) end
  error(late, 0)
end

-- The same for an act: what fn did to its end has happened, also where it was interrupted meanwhile.
function M.act(ms, late, fn)
  local value, done
  local ok, e = pcall(M.timeout, ms, late, function()
    value = fn()
    done = true
  end)
  if not ok and not done then error(e, 0) end
  return value
end

-- Runs fn to its end, also where the caller is cancelled meanwhile: for what can't be left half done.
function M.whole(name, fn, ...)
  local child = task.spawn(name, fn, ...)
  while not pcall(child.wait, child) do end
  return child:join()
end

return M
