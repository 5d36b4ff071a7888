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

-- Outside of comments.
function M.of(source)
  local code = ("\n" .. source):gsub("%-%-%[(=*)%[.-%]%1%]", ""):gsub("%-%-[^\n]*", "")
  return code:find "[%s{,;]engine%s*=%s*[\"']luajit[\"']" and "luajit" or "lua"
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
