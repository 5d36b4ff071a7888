-- What a worker may say. A recipe can reach into the library that writes its frames, and has taken over the
-- process where it found a way: so whoever reads them gets nothing here that the protocol doesn't have.
--
--   frames.receive(w, ms) -> message    waits, as w:recv does, nil at the worker's end; raises
--                                       bad_frame as well
--
--   {type = "header", recipe = {deadline?, ...}}             what the recipe says of itself
--   {type = "parked", effects = {{n, name, version?, task?, at?, args?, pivot?}, ...}, logs?}
--   {type = "done", value?, logs?}                           {type = "continue_as", state?, logs?}
--   {type = "failed", error, logs?}                          error: as err.of_recipe makes it

local json = require "json"
local effects = require "nd.effect"
local err = require "nd.error"

local LEVELS = 8  -- that an answer of the API has around what a frame has
local NAME, PLACE = 64, 1024 -- bytes

local M = {}

local function integer(v) return math.type(v) == "integer" and v >= 1 and v <= 1 << 31 end

local function text(most, pattern)
  return function(v) return type(v) == "string" and #v <= most and v:find(pattern) ~= nil end
end

local function list(check)
  return function(v)
    if type(v) ~= "table" or not json.is_array(v) then return false end
    for _, item in ipairs(v) do
      if not check(item) then return false end
    end
    return true
  end
end

local function optional(check)
  return function(v) return v == nil or check(v) end
end

local function object(shape)
  return function(v)
    if type(v) ~= "table" then return false end
    for name, check in pairs(shape) do
      if not check(v[name]) then return false end
    end
    return true
  end
end

local function anything() return true end

local logs = optional(list(text(math.huge, "")))

local effect = object {
  n = integer, name = text(NAME, "^[%w_.]+$"), version = optional(integer), task = optional(text(PLACE, "^[%d.]+$")),
  at = optional(text(PLACE, "")), args = optional(list(anything)),
  pivot = optional(function(v) return type(v) == "boolean" end),
}

local shapes = {
  header = object { recipe = object { deadline = optional(effects.types.ms) } },
  parked = object { effects = list(effect), logs = logs },
  done = object { logs = logs },
  continue_as = object { logs = logs },
  failed = object { logs = logs },
}

-- Whatever of it is told to somebody can be encoded then.
local function is_flat(message)
  for _ = 1, LEVELS do message = { message } end
  return (pcall(json.encode, message))
end

function M.receive(w, ms)
  local message = w:recv(ms)
  if not message then return nil end
  local shape = shapes[message.type]
  if not shape or not shape(message) or not is_flat(message) then
    err.raise("bad_frame", ("the recipe's worker said what its protocol has no words for (%s)"):format(
      shape and message.type or "of no known type"), "ask for effects as recipes/README.md shows, and "
      .. "leave nd.recipe.* as it is")
  end
  if message.type == "failed" then message.error = err.of_recipe(message.error) end
  return message
end

return M
