-- lib/act.lua - sends a request that changes an app, and stays with the run that comes of it.

local follow = require "ndctl.lib.follow"
local out = require "ndctl.lib.out"
local outcome = require "ndctl.lib.outcome"

local act = {}

local SLOW = 900000 -- ms: a stop waits for the drain and the grace period

-- Options that every such command has.
act.options = {
  wait = { "wait", type = "flag", negatable = true, default = true,
    doc = "stay until the run has ended (the default), or return as soon as it began" },
  plan = { "plan", type = "flag", doc = "print what would be done, and do nothing; exit status 0: "
    .. "nothing would change, 1: something would, 2: it can't be told" },
}

-- What commands take that begin a run.
act.run_options = {
  act.options.plan,
  act.options.wait,
  { "queue", type = "flag", doc = "where the app is being changed already: wait for a turn" },
  { "supersede", type = "flag", doc = "or also end that, if it can still go back, and drop what waits" },
  { "deadline", type = "duration", value = "TIME",
    doc = "after so long it goes back by itself; 7d, unless the recipe says another" },
  { "idempotency-key", value = "KEY", doc = "the same command again with this key makes no second run" },
}

local function body_of(ctx, client, body)
  body.deadline = ctx.options.deadline
  return client:scoped(body)
end

-- Prints the plan of a request; returns 0 where nothing would change, else 1. (What goes wrong on the way
-- is 2: main.lua.)
function act.plan(ctx, path, body)
  local client = ctx.client()
  local p = client:call("POST", path, { query = { plan = "true" }, body = body_of(ctx, client, body),
    timeout_ms = SLOW })
  local plan = require "ndctl.lib.plan"
  if ctx.options.json then
    out.json(p)
  else
    out.print(plan.lines(p))
  end
  return plan.same(p) and 0 or 1
end

local function tell_started(ctx, payload, id)
  if ctx.options.json then return out.json(payload) end
  out.print(id)
  local run = ctx.client():call("GET", "/runs/" .. id)
  out.progress(("%s: ndctl runs watch %s"):format(run.state == "queued" and "The run waits for its turn"
    or "The run has begun", id))
end

-- Posts `body`; with --wait follows the run named by the answer and tells how it ended.
-- spec: path, body, json = "run" | "app", done(payload) where no run follows.
function act.post(ctx, spec)
  local client = ctx.client()
  local o = ctx.options
  local ok, payload = pcall(client.call, client, "POST", spec.path, {
    body = body_of(ctx, client, spec.body), timeout_ms = SLOW,
    query = { busy = o.supersede and "supersede" or o.queue and "queue" or nil },
    headers = { ["idempotency-key"] = o.idempotency_key } })
  if not ok then
    if type(payload) == "table" and payload.code == "cancelled" and not payload.http then
      out.note("", "Interrupted before the daemon answered; it may do it all the same.",
        "  look    ndctl runs list")
      payload.shown = true
    end
    error(payload, 0)
  end
  local id = outcome.present(payload.run_id) or outcome.present(payload.id)
  if not id or (spec.done and payload.status ~= "updating") then
    if ctx.options.json then return out.json(payload) end
    return spec.done and spec.done(payload)
  end
  if ctx.options.wait == false then return tell_started(ctx, payload, id) end
  local run = follow.run(client, id, follow.display())
  outcome.tell(client, run, { json = ctx.options.json and (spec.json or "app"),
    result = spec.json == "run" })
end

return act
