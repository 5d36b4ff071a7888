-- The source tree keeps its own rules: folders of runtime/ are layers, only two of them know Lua,
-- every file says what it is for, and none has grown beyond what one sitting can read.
local fs = require "fs"

local root = os.getenv "ND_SOURCE_DIR" or "."
local rank = { base = 1, io = 2, engine = 3, script = 4, bind = 5 }
local knows_lua = { script = true, bind = true }
local most_lines = 720 -- "about 700": what one sitting can read

-- All files below `dir` (relative to the source tree) whose names match one of the patterns.
local function files(dir, patterns, out)
  out = out or {}
  if not fs.exists(root .. "/" .. dir) then return out end
  for _, name in ipairs(fs.list(root .. "/" .. dir)) do
    local path = dir .. "/" .. name
    if fs.stat(root .. "/" .. path).type == "directory" then
      files(path, patterns, out)
    else
      for _, pattern in ipairs(patterns) do
        if name:match(pattern) then out[#out + 1] = path end
      end
    end
  end
  return out
end

local function read(path)
  return fs.read(root .. "/" .. path)
end

-- Each {path, layer, included file} of runtime/; the programs at its top level belong to no layer.
local function includes()
  local out = {}
  for _, path in ipairs(files("runtime", { "%.[ch]$" })) do
    local layer = path:match "^runtime/(%w+)/"
    for included in ("\n" .. read(path)):gmatch '\n%s*#%s*include%s*[<"]([^>"]+)[>"]' do
      out[#out + 1] = { path = path, layer = layer, included = included }
    end
  end
  return out
end

describe("the source tree", function()
  it("includes only its own layer and lower ones", function()
    local seen, wrong = 0, {}
    for _, use in ipairs(includes()) do
      local target = use.included:match "^(%w+)/"
      if use.layer and rank[target] then
        seen = seen + 1
        if rank[target] > rank[use.layer] then
          wrong[#wrong + 1] = use.path .. " includes " .. use.included
        end
      end
    end
    assert.is_true(seen > 50)
    assert.same({}, wrong)
  end)

  it("has no folder in runtime/ that is no layer", function()
    for _, path in ipairs(files("runtime", { "%.[ch]$" })) do
      local layer = path:match "^runtime/(.+)/[^/]+$"
      assert.is_true(layer == nil or rank[layer] ~= nil, path)
    end
  end)

  it("names its own headers by their layer, so that the rule above can be checked", function()
    for _, use in ipairs(includes()) do
      local sibling = use.layer and "runtime/" .. use.layer .. "/" .. use.included
      assert.is_false(sibling ~= nil and fs.exists(root .. "/" .. sibling),
        use.path .. " includes " .. use.included .. " without its folder")
    end
  end)

  it("knows Lua in script/ and bind/ alone", function()
    local wrong = {}
    for _, use in ipairs(includes()) do
      if use.layer and not knows_lua[use.layer] and
        (use.included:match "^lua" or use.included:match "^lauxlib") then
        wrong[#wrong + 1] = use.path .. " includes " .. use.included
      end
    end
    assert.same({}, wrong)
  end)

  it("says at the top of each C file, or of its header, what it is for", function()
    local wrong = {}
    for _, path in ipairs(files("runtime", { "%.[ch]$" })) do
      local header = path:gsub("%.c$", ".h")
      local said = read(path):match "^/%*"
        or fs.exists(root .. "/" .. header) and read(header):match "^/%*"
      if not said then wrong[#wrong + 1] = path end
    end
    assert.same({}, wrong)
  end)

  it("says at the top of each Lua file what it is for", function()
    local wrong = {}
    for _, dir in ipairs { "lua", "ndctl", "recipes", "tests/lua" } do
      for _, path in ipairs(files(dir, { "%.lua$" })) do
        if not read(path):match "^%-%-" and not read(path):match "^#![^\n]*\n%-%-" then
          wrong[#wrong + 1] = path
        end
      end
    end
    assert.same({}, wrong)
  end)

  it("has no file that asks to be two", function()
    local wrong = {}
    for _, dir in ipairs { "runtime", "lua", "ndctl", "recipes" } do
      for _, path in ipairs(files(dir, { "%.[ch]$", "%.lua$" })) do
        local _, lines = read(path):gsub("\n", "")
        if lines > most_lines then wrong[#wrong + 1] = path .. ": " .. lines .. " lines" end
      end
    end
    assert.same({}, wrong)
  end)
end)
