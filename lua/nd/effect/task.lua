-- What the recipe's own structure asks for: cancelling and rolling back branches, undos by hand.

local err = require "nd.error"
local json = require "json"

return {
  -- Interrupts what these tasks and those below them have in flight; each is answered first.
  ["task.cancel"] = {
    version = 1, class = "read", capability = "time", args = { { "selection", "selection" } },
    label = function() return "cancel the other branches" end,
    deadline = false,
    act = function(ctx, selection) ctx.run:interrupt(selection.tasks, ctx.n) end,
    plan = function() end,
  },

  -- Runs the undos of a branch that lost.
  ["task.rollback"] = {
    version = 1, class = "act", capability = "time", args = { { "selection", "selection" } },
    label = function() return "undo the other branches" end,
    deadline = false,
    act = function(ctx, selection) ctx.run:undo(selection.tasks) end,
    plan = function() end,
  },

  -- undo(label, effect, args...): what a rollback is to run, as data. It takes the place of an
  -- earlier undo with this label; without an effect, that one is only dropped.
  ["undo.set"] = {
    version = 1, class = "read", capability = "time",
    args = { { "label", "text" }, { "effect", "text", "optional" }, { "args", "table", "optional" } },
    label = function(label) return "undo: " .. label end,
    check = function(e, run)
      local effects = require "nd.effect"
      local _, effect, args = effects.unpack(e)
      if not effect then return end
      local def = effects.find(effect)
      effects.check(def, { name = effect, args = args or {}, at = e.at }, run)
      if def.class == "read" or def.capability == "time" then
        err.raise("bad_argument", ("undo: %s undoes nothing"):format(effect),
          "an undo is an effect that acts, as app.remove does")
      end
    end,
    act = function(ctx, label)
      ctx.run:drop_undo(label)
      return true
    end,
    undo = function(given)
      local label, effect, args = require("nd.effect").unpack { args = given }
      return effect and { effect = effect, args = json.array(args or {}), label = label }
    end,
    plan = function() return true end,
  },
}
