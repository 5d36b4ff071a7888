-- What an effect's functions get beside its arguments.
--
--   run_context.of(run, e) -> {d, run, app, n, key, task, asked_at, spec = of the run's request, and
--     intend()           parks until the intent is durable
--     happened(result)   a statement for the commit by which it happens: what it returns then, also after a
--                        crash; without a result it takes that back
--     progress(text, done, total)}

local db = require "db"
local json = require "json"

local M = {}

function M.of(run, e)
  local d = run.d
  return {
    d = d, run = run, app = run.app, n = e.n, key = run.row.id .. "/" .. e.n, task = e.task, asked_at = e.asked_at,
    spec = run.row.spec and json.decode(run.row.spec),
    intend = function() d.store:commit {} end,
    happened = function(result)
      return { "UPDATE effect SET result = ? WHERE run = ? AND n = ? AND answered IS NULL",
        result and json.encode(run:redacted(result)) or db.null, run.row.id, e.n }
    end,
    progress = function(text, done, total)
      d.store:post { run:event("effect.progress", { n = e.n, text = text, done = done, total = total }) }
    end,
  }
end

return M
