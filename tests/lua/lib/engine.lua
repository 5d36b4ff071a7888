-- Which Lua runs the recipes of a spec: ND_ENGINE says so (tests/CMakeLists.txt runs some twice).

local worker = require "worker"

local M = { name = os.getenv "ND_ENGINE" or "lua" }

M.luajit = M.name == "luajit"

-- worker.spawn for it.
function M.spawn(options)
  local o = { engine = M.luajit and "luajit" or nil }
  for name, value in pairs(options or {}) do
    o[name] = value
  end
  return worker.spawn(o)
end

return M
