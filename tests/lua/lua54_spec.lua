-- lua54_spec.lua - the language in a recipe is Lua, whole: the portable files of Lua 5.4.4's own tests
-- (lua-5.4.4-tests.tar.gz at www.lua.org/tests), each in a worker as nd-worker runs a recipe.
--
-- They are not part of this project: ND_LUA_TESTS names the directory where they are; without it only the
-- table is printed (lua54/files.lua: every file, and what of it is left out, and why). Lines that are left
-- out become empty, so that messages keep their line numbers.

local fs = require "fs"
local json = require "json"
local worker = require "worker"

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local suite = dofile(here .. "/lua54/files.lua")
local dir = os.getenv "ND_LUA_TESTS"

local MEMORY, CPU, WALL = 256 << 20, 60, 120000

-- What the tests expect of whoever runs them, and what they use only to steer the garbage collector, to
-- measure, and to look for another locale.
local prelude = [[
_soft, _port, _nomsg = true, true, true
os = { clock = function() return 0 end, setlocale = function(name) return (name or "C") == "C" and "C" or nil end }
do
  local collect = collectgarbage
  function collectgarbage(what) return (what == nil or what == "collect" or what == "step") and collect(what) or 0 end
end
]]
local modules = {
  ["tracegc.lua"] = "return { start = function() end, stop = function() end }",
  ["debug.lua"] = "return {}",
}

-- As a literal: the tests' bytes are not all UTF-8, which sources on their way to a worker are.
local function quoted(source)
  return '"' .. source:gsub('[%c"\\\x7f-\xff]', function(c) return ("\\%03d"):format(c:byte()) end) .. '"'
end

local function without(source, left_out)
  local lines, n = {}, 0
  for line in (source .. "\n"):gmatch "(.-)\n" do lines[#lines + 1] = line end
  for _, part in ipairs(left_out or {}) do
    for i = part[1], part[2] do
      lines[i] = ""
      n = n + 1
    end
  end
  return table.concat(lines, "\n"), #lines, n
end

local function run(name, source)
  local w <close> = worker.spawn { memory = MEMORY, cpu_seconds = CPU }
  local files = { ["recipe.lua"] = ("return recipe { run = function()\n%s\nassert(load(%s, '@%s'))() return true end }")
    :format(prelude, quoted(source), name) }
  for path, text in pairs(modules) do files[path] = text end
  for path in pairs(suite) do
    if suite[path].module then files[path] = fs.read(dir .. "/" .. path) end
  end
  w:send { type = "start", run = "r", files = files, entry = "recipe.lua", params = {}, seed = 1, mode = "run" }
  local last = {}
  while true do
    local frame = w:recv(WALL)
    if not frame then break end
    last = frame
    if frame.effects and #frame.effects > 0 then error("it asked for " .. frame.effects[1].name) end
  end
  if last.type ~= "done" then error(json.encode(last.error or w:wait()), 0) end
end

describe("Lua's own tests", function()
  local names = {}
  for name in pairs(suite) do names[#names + 1] = name end
  table.sort(names)

  for _, name in ipairs(names) do
    local row = suite[name]
    if row.not_here then
      print(("%-14s not here: %s"):format(name, row.not_here))
    else
      it(name, function()
        if not dir then return pending "ND_LUA_TESTS names no directory" end
        local source, lines, n = without(fs.read(dir .. "/" .. name), row)
        print(("%-14s %d of %d lines"):format(name, lines - n, lines))
        for _, part in ipairs(row) do print(("%-14s   without %d-%d: %s"):format("", table.unpack(part))) end
        run(name, source)
      end)
    end
  end

  it("are all in the table", function()
    if not dir then return pending "ND_LUA_TESTS names no directory" end
    for _, name in ipairs(fs.list(dir)) do
      assert(suite[name] or not name:match "%.lua$", name)
    end
  end)
end)
