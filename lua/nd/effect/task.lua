-- What the recipe's own structure asks for: cancelling and rolling back branches, undos by hand.

local err = require "nd.error"
local json = require "json"

return {
  -- Interrupts what these tasks and those below them have in flight; each is answered first.
  ["task.cancel"] = {
    version = 1, class = "read", capability = "time", args = { { "tasks", "table" } },
    label = function() return "cancel the other branches" end,
    act = function(ctx, roots) ctx.run:interrupt(roots, ctx.n) end,
    plan = function() end,
  },

  -- Runs the undos of a branch that lost.
  ["task.rollback"] = {
    version = 1, class = "act", capability = "time", args = { { "tasks", "table" } },
    label = function() return "undo the other branches" end,
    act = function(ctx, roots) ctx.run:undo(roots) end,
    plan = function() end,
  },

  -- undo(label, effect, args...): what a rollback is to run, as data.
  ["undo.set"] = {
    version = 1, class = "read", capability = "time",
    args = { { "label", "text" }, { "effect", "text" }, { "args", "table" } },
    label = function(label) return "undo: " .. label end,
    act = function(_, _, effect)
      if not require("nd.effect").find(effect) then
        err.raise("unknown_effect", ("undo: there is no effect '%s'"):format(effect))
      end
      return true
    end,
    undo = function(args)
      return { effect = args[2], args = json.array(args[3]), label = args[1] }
    end,
    plan = function() return true end,
  },
}
