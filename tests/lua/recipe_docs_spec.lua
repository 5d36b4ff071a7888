-- The recipe API as recipes/README.md tells it: every example runs, every word is told.

local support = require "tests.lua.recipe_support"
local effects = require "nd.recipe.effects"

local function read()
  local file <close> = assert(io.open(os.getenv("ND_SOURCE_DIR") .. "/recipes/README.md"))
  return file:read("a")
end

-- Plausible answers, in the shapes that the daemon gives.
local function answer(e)
  if e.name:find("^app%.") then
    return { release = e.n, state = "created", instances = {} }
  elseif e.name:find("^docker%.") then
    return { image = "web:v2", id = "sha256:" .. e.n, digest = "sha256:" .. e.n }
  elseif e.name == "http.request" then
    return { status = 200, headers = {}, body = "0" }
  elseif e.name == "uuid" then
    return "0190-uuid"
  elseif e.name == "time.now" then
    return 1767225600000
  end
end

describe("recipes/README.md", function()
  local text = read()

  it("has examples that run", function()
    local count = 0
    for source in text:gmatch("```lua\n(.-)```") do
      count = count + 1
      local run = support.run(source, {
        answer = answer, params = source:find("param%.image") and { app = "web", image = "web:v2" }
          or source:find("param%.app") and { app = "web" } or nil,
      })
      local result = run.result or {}
      assert.is_true(result.type == "done" or result.type == "continue_as",
        ("example %d: %s\n%s"):format(count, result.error and result.error.message or "died", source))
    end
    assert.is_true(count >= 9)
  end)

  it("tells every word of the library, and none that isn't there", function()
    local there = {}
    for _, row in ipairs(effects) do
      there[row[1]] = row[3] ~= "special" or nil
    end
    for name in ("recipe param pivot undo fail continue_as task.all task.race task.timeout now log "
      .. "json"):gmatch("%S+") do
      there[name] = true
    end
    for name in text:gmatch("\n### ([%w_.]+)\n") do
      assert.is_true(there[name], name .. " is told but not there")
      there[name] = nil
    end
    assert.is_nil((next(there)), tostring(next(there)) .. " is there but not told")
  end)

  it("agrees with the daemon's table of effects", function()
    local rows = require("nd.effect").rows
    for _, row in ipairs(effects) do
      local daemons = rows[row[1]]
      assert.is_truthy(daemons, "the daemon has no effect " .. row[1])
      assert.equal(row[2], daemons.version, row[1])
      assert.equal(#row[4], #daemons.args, row[1])
      for i, spec in ipairs(row[4]) do
        local name = type(spec) == "table" and spec[1] or spec
        assert.equal(daemons.args[i][1] .. (daemons.args[i][3] and "?" or ""), name, row[1])
      end
    end
  end)
end)
