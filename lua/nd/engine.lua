-- Which Lua runs a recipe: Lua 5.4, or LuaJIT where its header says engine = "luajit".
--
-- That has to be known before anything of the recipe runs, so it is read from its text; what the run
-- pins, its sources, so pins the engine as well. The worker refuses a recipe whose header, once it is
-- loaded, says otherwise (nd/recipe/main.lua).
--
--   engine.of(source) -> "lua" | "luajit"
--   engine.start(source, options, frame) -> w   source: of the recipe; options: of worker.spawn
--                                               frame: the first one, to which the engine is added
--       raises engine_missing, worker_start

local worker = require "worker"
local err = require "nd.error"

local M = {}

local PLACES, LINE = 100, 200 -- so many are looked at, so far back: whatever the text, that is soon done

-- On a line, and not behind the dashes of a comment there.
function M.of(source)
  local at = 0
  for _ = 1, PLACES do
    at = source:find("luajit", at + 1, true)
    if not at then break end
    local line = source:sub(math.max(1, at - LINE), at + #"luajit"):match "[^\n]*$"
    if line:find "%f[%w_]engine%s*=%s*[\"']luajit[\"']$" and not line:find("--", 1, true) then return "luajit" end
  end
  return "lua"
end

function M.start(source, options, frame)
  local o = {}
  for name, value in pairs(options) do o[name] = value end
  frame.engine = M.of(source)
  o.engine = frame.engine ~= "lua" and frame.engine or nil
  local ok, w = pcall(worker.spawn, o)
  if not ok and o.engine and w.code == "worker_start" and w.message:find "no such file" then
    err.raise("engine_missing", ("the recipe wants %s, and this NextDeploy was built without it"):format(o.engine),
      'build it with -DND_LUAJIT=ON, or take engine = "luajit" out of the recipe')
  elseif not ok then
    error(w, 0)
  end
  w:send(frame)
  return w
end

return M
