-- What all requests have in common that begin a run.

local err = require "nd.error"
local s = require "nd.api.schema"
local Request = require "nd.service.request"

local M = {}

M.query = {
  wait = s.doc(s.boolean, "Answer when the run has ended."),
  plan = s.doc(s.boolean, "Act on nothing, and answer with what would be done."),
  busy = s.doc({ type = "string", enum = { "refuse", "queue", "supersede" }, default = "refuse" },
    "Where the app is being changed already: refuse with 409; wait for a turn, in order; or also end what can "
      .. "still go back, and drop what waits."),
}

M.header = {
  ["Idempotency-Key"] = s.doc({ type = "string", minLength = 1, maxLength = 255 },
    "The same request sent again with it makes no second run; the answer is about the first."),
}

-- -> the run, as runs:ask says
function M.ask(c, kind)
  local key = c.request.headers["idempotency-key"]
  if key and (key == "" or #key > 255) then
    err.raise("bad_request", "the header Idempotency-Key takes 1 to 255 characters", "a random UUID will do")
  end
  return c.d.runs:ask { kind = kind, body = c.body, owner = c.user.name, key = key, busy = c.query.busy }
end

function M.plan(c, kind)
  return c.d.runs:plan(Request.make(c.d, kind, c.body, c.user.name)), "this is what would be done"
end

return M
