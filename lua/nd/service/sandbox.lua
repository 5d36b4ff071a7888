-- How well the recipes' processes are locked in on this host, by looking at one: for `doctor`.
--
-- System calls are limited everywhere; namespaces only where the kernel, and whatever container is around
-- us, lets us make them (runtime/script/namespaces.h).

local err = require "nd.error"
local fs = require "fs"
local recipe_worker = require "nd.service.recipe_worker"

local M = {}

-- A recipe that waits while it is looked at.
local waits = { ["recipe.lua"] = "return recipe { run = function() uuid() end }" }

local kinds = { "pid", "net", "mnt", "ipc" }

-- pid of a worker that has locked itself in -> {seccomp=, uid=, without={kind...}}
function M.look(pid)
  local proc = ("/proc/%d/"):format(pid)
  local status = fs.read(proc .. "status")
  local found = { seccomp = status:find "Seccomp:%s+2" ~= nil, without = {},
    uid = math.tointeger(status:match "Uid:%s+(%d+)") }
  for _, kind in ipairs(kinds) do
    if fs.readlink(proc .. "ns/" .. kind) == fs.readlink("/proc/self/ns/" .. kind) then
      found.without[#found.without + 1] = kind
    end
  end
  return found
end

-- -> {name, ok, message, hint}
function M.check(d)
  local ok, found = pcall(function()
    local row = { id = "doctor", params = "{}", seed = 0, recipe = "doctor" }
    local w <close> = recipe_worker.start(d, row, waits) -- luacheck: ignore
    return M.look(w:pid())
  end)
  if not ok then
    return { name = "sandbox", ok = false, message = err.from(found).message, hint = err.from(found).hint }
  end
  local message = ("recipes run as user %d, by a list of system calls, %s"):format(found.uid,
    #found.without == 0 and "in namespaces of their own"
    or "without a namespace of their own for " .. table.concat(found.without, ", "))
  if not found.seccomp then message = "recipes run without a list of system calls: this is a build for tests" end
  return { name = "sandbox", ok = true, message = message }
end

return M
