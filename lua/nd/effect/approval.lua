-- approval.wait: a person looks, and says that the run may go on. While it waits for long, the run has
-- no process (it sleeps).

local clock = require "clock"
local json = require "json"

local YEAR = 365 * 24 * 3600 * 1000

return {
  ["approval.wait"] = {
    version = 1, class = "read", planned = true, capability = "time", args = { { "what", "text" } },
    label = function(what) return "wait for somebody's approval: " .. what end,
    deadline = false,
    wake = function() return YEAR end,
    act = function(ctx)
      local run = ctx.run
      ctx.progress(("(ndctl runs approve %s)"):format(run.row.id))
      while true do
        local row = ctx.d.store:get("SELECT * FROM approval WHERE run = ? AND n = ?", run.row.id, ctx.n)
        if row then return { by = row.by, at = clock.format(row.at) } end
        run.approved:wait(60000)
      end
    end,
    plan = function() return { by = "somebody", at = json.null } end,
  },
}
