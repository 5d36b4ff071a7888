-- What the recipe's own structure asks for: cancelling and rolling back branches, undos by hand.

local err = require "nd.error"
local capability = require "nd.effect.capability"
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
    act = function(ctx, label, effect, args)
      local def = effect and require("nd.effect").find(effect)
      if effect and not def then
        err.raise("unknown_effect", ("undo: there is no effect '%s'"):format(effect))
      end
      if def then capability.check(ctx.run.needs, def, args or {}) end
      ctx.run:drop_undo(label)
      return true
    end,
    undo = function(args)
      return args[2] and { effect = args[2], args = json.array(args[3] or {}), label = args[1] }
    end,
    plan = function() return true end,
  },
}
