-- Random recipes: trees of task.all, race and timeout with effects, errors, protected calls, undos,
-- `<close>` clean-up, coroutines and loops. The same seed gives the same source.
--
-- What a recipe does is written down in `out`, in order, so that two runs of it that differ in
-- anything at all give different results.

local engine = require "tests.lua.lib.engine"

local M = {}

-- A generator of its own: math.random belongs to whoever runs the tests.
function M.random(seed)
  local state = seed * 2654435761 % 4294967296 + 1
  return function(low, high)
    state = state ~ (state << 13) & 0xffffffff
    state = state ~ (state >> 17)
    state = state ~ (state << 5) & 0xffffffff
    return low + state % (high - low + 1)
  end
end

local prelude = [[
local out = {}
local function note(...)
  local words = {}
  for i = 1, select("#", ...) do words[i] = tostring((select(i, ...))) end
  out[#out + 1] = table.concat(words, " ")
end
local function closing(fn) return setmetatable({}, { __close = fn }) end
local function say(e) return type(e) == "table" and e.code or tostring(e) end
]]

-- An effect that fails ends what it is in; most of them are caught, so that trees live longer.
local effects = {
  function(r) return ('docker.pull("image%d")'):format(r(1, 9)) end,
  function(r) return ('app.start("web", { id = "image%d" })'):format(r(1, 9)) end,
  function(r) return ("time.sleep(%d)"):format(r(1, 99)) end,
  function(r) return ('http.request { url = "http://h/%d", timeout = "2s" }'):format(r(1, 9)) end,
  function() return "uuid()" end,
}

local node

local function list(g, depth)
  local parts = {}
  for i = 1, g.r(1, 4) do
    parts[i] = node(g, depth)
  end
  return table.concat(parts, "\n")
end

local function branches(g, depth)
  local parts = {}
  for i = 1, g.r(2, 4) do
    g.label = g.label + 1
    parts[i] = ("function()\n%s\nreturn 'b%d'\nend"):format(list(g, depth), g.label)
  end
  return table.concat(parts, ",\n")
end

local function effect(g)
  g.label = g.label + 1
  local call = effects[g.r(1, #effects)](g.r)
  if g.r(1, 3) == 1 then
    return ("note('%d', tostring(%s))"):format(g.label, call)
  end
  return ("note('%d', tostring(select(2, pcall(function() return %s end))))"):format(g.label, call)
end

local shapes = {
  effect, effect,
  function(g, depth) return ("note('all', task.all(%s))"):format(branches(g, depth)) end,
  function(g, depth) return ("note('race', task.race(%s))"):format(branches(g, depth)) end,
  function(g, depth)
    return ("note('timeout', pcall(task.timeout, '%ds', function()\n%s\nreturn 't'\nend))")
      :format(g.r(1, 9), list(g, depth))
  end,
  function(g, depth)
    local after = g.r(1, 3) == 1 and "if not ok then error(e, 0) end" or node(g, depth)
    return ("do local ok, e = pcall(function()\n%s\nend) note(tostring(ok), say(e))\n%s end")
      :format(list(g, depth), after)
  end,
  function(g, depth)
    if engine.luajit then -- which has no `<close>`
      return ("do local ok, e = pcall(function()\n%s end) note('end', say(e))\n%s\nif not ok then error(e, 0) end end")
        :format(list(g, depth), list(g, depth))
    end
    return ("do local c <close> = closing(function(_, e) note('close', say(e))\n%s end)\n%s end")
      :format(list(g, depth), list(g, depth))
  end,
  function(g, depth) return ("for i = 1, %d do\n%s\nend"):format(g.r(1, 3), node(g, depth)) end,
  function(g, depth)
    return ("for i = 1, 3 do pcall(function()\n%s\nend) end"):format(node(g, depth))
  end,
  function(g, depth)
    return ("for v in coroutine.wrap(function()\n%s\ncoroutine.yield('v%d')\n%s end) do\n%s end")
      :format(node(g, depth), g.r(1, 9), node(g, depth), node(g, depth))
  end,
  function(g)
    return ("undo('label %d', app.remove, { release = %d })"):format(g.r(1, 9), g.r(1, 9))
  end,
  function(g)
    return g.r(1, 8) == 1 and ("error('oops %d')"):format(g.r(1, 9)) or "note('calm')"
  end,
  function(g)
    return g.r(1, 8) == 1 and ("fail('failed %d')"):format(g.r(1, 9)) or "log('hello')"
  end,
  function() return "for k in pairs({ b = 1, a = 2, [3] = 3, [{}] = 4 }) do note(k) end" end,
  function() return "note(math.random(1000))" end,
  -- Long enough for a compiler to take notice; the tables' order is that of their creation.
  function(g)
    return ([[do
      local t, list, s = {}, {}, 0
      for i = 1, %d do
        local a, b = { i }, { -i }
        list[i], t[b], t[a] = i %% 7 == 0 and a or b, i / 3, (0.1 * i) ^ 2
      end
      for k, v in pairs(t) do s = (s * 31 + k[1] * v + math.ceil(v) + math.min(v, 5)) %% 1e6 end
      note(tostring(s), tostring(list[#list]))
    end]]):format(g.r(1, 300))
  end,
}

function node(g, depth)
  g.size = g.size + 1
  if depth <= 0 or g.size > 60 then
    return effect(g)
  end
  return shapes[g.r(1, #shapes)](g, depth - 1)
end

-- The source of a random recipe.
function M.source(seed)
  local g = { r = M.random(seed), size = 0, label = 0 }
  -- Local functions keep any one of Lua's limits on a function far away.
  return ("%sreturn recipe { run = function()\n%s\nreturn out\nend }\n"):format(prelude, list(g, 5))
end

return M
