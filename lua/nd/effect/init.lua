-- The table of effects: everything a recipe can ask for, one row each.
--
--   name        "app.start"; the recipe writes app.start(...)
--   version     grows when the shape of arguments or result does
--   class       "read"   changes nothing; acted on again after a crash
--               "act"    observable: its intent is durable before it acts; `observe` or acting
--                        again (it is then idempotent, by ctx.key) settles what a crash left open
--               "once"   unobservable and not to be repeated
--   capability  what a recipe must be allowed, see capability.lua; and who began the run, see permission.lua
--   args        {{name, type[, "optional"]}, ...}; types as in `types` below
--   check(e, run)  raises what else there is against asking for it
--   label(...)  what a person reads in the plan and in `runs show`
--   label_of(ctx, ...)  the same where it depends on the app; "" for what is of no interest
--   act(ctx, ...)      does it; returns a JSON value or raises
--   commits            its first step is a commit, which takes the intent along, and nothing before
--                      reads what an earlier effect wrote; a read that may have to act calls
--                      ctx.intend() before it does
--                      ctx.happened(result) is a statement for the commit by which it happens: what
--                      it returns then, also after a crash, when nothing else tells what was before
--   observe(ctx, ...)  after a crash: the result if it happened, nil if not
--   clean(ctx, ...)    after a failure or cancellation: leaves nothing behind; idempotent
--   undo(args, result) -> {effect=, args=, label=}   data, journaled with the answer
--   planned            a read that has a line in the plan (acts all have), unless its label is ""
--   plan(ctx, ...)     a plausible result for `--plan`, which acts on nothing; notes in ctx what would
--                      be another then: see plan.lua
--   deadline(ctx, ...) ms after it was asked it is interrupted, and has failed: ten minutes, unless it
--                      says another; false where it waits as long as its run may, or ends by itself
--   wake(ctx, ...)     for sleeps: ms after it was asked

local err = require "nd.error"
local capability = require "nd.effect.capability"
local permission = require "nd.permission"

local M = { rows = {} }

local families = { "app", "approval", "scale", "shift", "docker", "health", "http", "task", "time" }
for _, family in ipairs(families) do
  for name, row in pairs(require("nd.effect." .. family)) do
    row.name = name
    assert(permission.effects[row.capability], name .. " has no capability that permission.lua knows")
    M.rows[name] = row
  end
end

function M.find(name) return M.rows[name] end

-- Whether the task `id` ("1.2.1") is one of `roots` or below one.
function M.below(id, roots)
  for _, root in ipairs(roots) do
    if id == root or id:sub(1, #root + 1) == root .. "." then return true end
  end
  return false
end

local MS_MOST = 10 ^ 13 -- the longest duration of recipe/units.lua, 317 years: the clock goes on for longer

local types = {
  app = function(v) return type(v) == "string" and v ~= "" end,
  text = function(v) return type(v) == "string" end,
  number = function(v) return type(v) == "number" end,
  ms = function(v) return math.type(v) == "integer" and v >= 0 and v <= MS_MOST end,
  release = function(v) return type(v) == "table" and math.type(v.release) == "integer" end,
  ["name or release"] = function(v)
    return type(v) == "string" or type(v) == "table" and math.type(v.release) == "integer"
  end,
  image = function(v) return type(v) == "table" and type(v.id) == "string" end,
  table = function(v) return type(v) == "table" end,
  selection = function(v)
    if type(v) ~= "table" or type(v.tasks) ~= "table" then return false end
    for _, id in ipairs(v.tasks) do
      if type(id) ~= "string" then return false end
    end
    return true
  end,
  any = function(v) return v ~= nil end,
}

M.types = types

local null = require("json").null

-- The arguments as a function takes them: what was left out is nil.
function M.unpack(e)
  local list = {}
  for i, value in ipairs(e.args) do
    if value ~= null then list[i] = value end
  end
  return table.unpack(list, 1, #e.args)
end

local DEADLINE_MS, LONGEST_MS = 10 * 60 * 1000, 366 * 24 * 3600 * 1000

-- When an effect that is asked for now is interrupted; nil for never.
function M.deadline(def, e, ctx)
  if def.deadline == false then return nil end
  local ok, ms = true, DEADLINE_MS
  if def.deadline then ok, ms = pcall(def.deadline, ctx, M.unpack(e)) end
  ms = ok and math.tointeger(ms) or DEADLINE_MS -- a recipe may have sent anything
  return e.asked_at + math.max(0, math.min(ms, LONGEST_MS))
end

-- Raises when the effect may not be asked for, or not like this.
function M.check(def, e, run)
  if not def then
    local names = {}
    for name in pairs(M.rows) do names[#names + 1] = name end
    local near = err.nearest(e.name, names)
    err.raise("unknown_effect", ("there is no effect '%s'"):format(e.name),
      near and ("did you mean %s?"):format(near))
  end
  if #e.args > #def.args then
    err.raise("bad_argument", ("%s takes %d arguments, not %d"):format(e.name, #def.args, #e.args))
  end
  for i, arg in ipairs(def.args) do
    local value = e.args[i]
    if value == null then value = nil end
    if value == nil and arg[3] ~= "optional" or value ~= nil and not types[arg[2]](value) then
      err.raise("bad_argument", ("%s: argument %d (%s) must be %s %s"):format(e.name, i, arg[1],
        arg[2]:match "^[aeiou]" and "an" or "a", arg[2]), e.at and ("see " .. e.at))
    end
    if arg[2] == "app" and value ~= nil and value ~= run.app.name then
      err.raise("capability", ("this run is for the app '%s' and may not touch '%s'"):format(
        run.app.name, value), "a recipe acts on the app it was started for")
    end
  end
  capability.check(run.needs, def, e.args)
  if run.rights and not permission.allows(run:rights(), permission.effects[def.capability], run.app) then
    err.raise("forbidden", ("%s may not do this to '%s' any more"):format(run.row.owner, run.app.name),
      "start it anew as somebody who may")
  end
  if def.check then def.check(e, run) end
  if e.pivot == 1 and run.pivot_asked and run.pivot_asked ~= e.n then
    err.raise("pivot_twice", "a run has one point of no return, and this one has passed it",
      "let pivot(...) stand around exactly one effect")
  end
  if e.pivot == 1 then run.pivot_asked = e.n end
end

-- context(): makes the effect's ctx.
function M.label(def, e, context)
  if not def.label and not def.label_of then return e.name end
  local ok, text = pcall(function()
    if def.label_of then return def.label_of(context(), M.unpack(e)) end
    return def.label(M.unpack(e))
  end)
  return ok and text or e.name
end

return M
