-- lib/replayed.lua - a replay (lib/replay.lua) as a person reads it: per call its line in the recipe, what
-- was asked, when, and what came of it.

local json = require "json"
local out = require "ndctl.lib.out"
local outcome = require "ndctl.lib.outcome"
local replay = require "ndctl.lib.replay"
local text = require "ndctl.lib.text"

local present = outcome.present

local replayed = {}

local LONG = 600 -- bytes of a value; --json has all of it

local function short(s)
  s = text.clean(s)
  if #s <= LONG then return s end
  return ("%s… (%d bytes; --json has them all)"):format(s:sub(1, utf8.offset(s, 0, LONG) - 1), #s)
end

local function time_of(step) return ("%9.3f s"):format(step.ms / 1000) end

-- The branch, where it isn't the recipe's main line.
local function number_of(step)
  local task = step.task and step.task ~= "1" and (" [%s]"):format(step.task) or ""
  return ("%3d%s"):format(step.n, task)
end

local function error_text(e)
  return ("%s: %s"):format(e.code or "failed", e.message or "")
end

local endings = {
  done = function(step)
    return step.value ~= nil and "the recipe ends: " .. json.encode(step.value) or "the recipe ends"
  end,
  failed = function(step) return "the recipe fails: " .. error_text(step.error) end,
  continue_as = function(step) return "it goes on as another run: ndctl runs replay " .. tostring(step.value) end,
  ["given up"] = function(step) return "here the recipe was stopped: " .. error_text(step.error or {}) end,
  ["under way"] = function() return "so far the run has come" end,
  ["never began"] = function(step) return "the recipe never began: " .. error_text(step.error or {}) end,
}

local tellers = {
  asked = function(step, paint)
    local lines = { ("%s  %s  %s"):format(time_of(step), number_of(step), short(replay.quoted(step))) }
    if step.at then
      table.insert(lines, 1, paint(("%s  %s"):format(step.at, text.clean(step.source or "")), "dim"))
    end
    return lines
  end,
  answered = function(step, paint)
    local value
    if step.ok then
      value = "= " .. (step.result == nil and "nothing" or short(json.encode(step.result)))
    else
      value = paint("! " .. short(error_text(step.error or {})), "red")
    end
    return { ("%s  %3d  %s%s"):format(time_of(step), step.n, value,
      step.pivot and "  (from here on only forward)" or "") }
  end,
  log = function(step) return { ("%s       %s"):format(time_of(step), text.clean(step.text)) } end,
  undone = function(step, paint)
    return { ("%s  %3d  undone: %s%s"):format(time_of(step), step.n, text.clean(step.label),
      step.ok and "" or paint(", which failed: " .. text.clean(step.error or ""), "red")) }
  end,
  ended = function(step) return { ("%s       %s"):format(time_of(step), short(endings[step.how](step))) } end,
}

function replayed.lines(step) return tellers[step.kind](step, out.painter(1)) end

function replayed.heading(run)
  local ended = text.parse_time(present(run.ended_at))
  local took = ended and (" in " .. text.duration(ended - text.parse_time(run.started_at))) or ""
  local params = present(run.params)
  local lines = { ("run %s of %s by %s: %s%s"):format(run.id, run.app, run.recipe, run.state, took),
    ("started %s by %s"):format(run.started_at, text.clean(run.owner)) }
  if params and next(params) then lines[3] = "params  " .. short(json.encode(params)) end
  return lines
end

return replayed
