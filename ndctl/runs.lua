-- runs.lua - `ndctl runs`: what recipes did, are doing, and how to stop them.

local clientlib = require "ndctl.lib.client"
local clock = require "clock"
local follow = require "ndctl.lib.follow"
local out = require "ndctl.lib.out"
local outcome = require "ndctl.lib.outcome"
local tables = require "ndctl.lib.table"
local text = require "ndctl.lib.text"

local present = outcome.present

local function took(run, now)
  local from, to = text.parse_time(run.started_at), text.parse_time(present(run.ended_at))
  return from and text.duration((to or now) - from) or nil
end

local function list(ctx)
  local c, o = ctx.client(), ctx.options
  local payload = c:call("GET", "/runs", { query = c:scoped {
    app = o.app, state = o.state, limit = o.limit, before = o.before } })
  if o.json then return out.json(payload) end
  if #payload == 0 then return out.progress("No runs.") end
  local now = clock.now()
  out.print(tables.render({
    { "RUN", "id" },
    { "APP", "app" },
    { "RECIPE", "recipe" },
    { "STATE", "state" },
    { "STARTED", function(run) return text.ago(run.started_at, now) end },
    { "TOOK", function(run) return took(run, now) end, right = true },
    { "STEP", function(run)
      local err = present(run.error)
      if err then return text.fit(text.clean(err.message), 60, not out.utf8) end
      return not follow.ended(run) and present(run.step) or nil
    end },
  }, payload))
end

local function effect_took(effect)
  local from, to = text.parse_time(effect.asked_at), text.parse_time(effect.answered_at)
  return from and to and text.duration(to - from) or nil
end

local function show(ctx)
  local c = ctx.client()
  local run = c:call("GET", "/runs/" .. clientlib.escape(ctx.args.id))
  if ctx.options.json then return out.json(run) end
  local now = clock.now()
  local params = present(run.params)
  out.print(("run %s: %s"):format(run.id, run.state))
  out.print(tables.pairs({
    { "recipe", run.recipe },
    { "app", present(run.app) },
    { "params", params and next(params) and require("json").encode(params) or nil },
    { "owner", present(run.owner) },
    { "started", ("%s (%s)"):format(tostring(run.started_at), text.ago(run.started_at, now)) },
    { "took", took(run, now) },
    { "deadline", not follow.ended(run) and present(run.deadline)
      and ("%s (%s)"):format(run.deadline, text.ago(run.deadline, now)) or nil },
    { "bundle", present(run.bundle) and tostring(run.bundle):sub(1, 19) },
  }, "  "))
  local effects = present(run.effects) or {}
  if #effects > 0 then
    out.print("")
    out.print(tables.render({
      { "N", "n", right = true },
      { "STEP", function(effect) return present(effect.label) or effect.name end },
      { "STATE", function(effect)
        if present(effect.error) then return "failed" end
        return effect.pivot and effect.state .. ", pivot" or effect.state
      end },
      { "TOOK", effect_took, right = true },
      { "AT", "at" },
    }, effects))
  end
  if run.state == "failed" or run.state == "cancelled" then
    out.print("")
    local lines, err = outcome.failure(run, nil)
    out.print(lines)
    if present(err.hint) then out.print("hint: " .. text.clean(err.hint)) end
  end
end

local function watch(ctx)
  local c = ctx.client()
  local id = ctx.args.id
  local run = c:call("GET", "/runs/" .. clientlib.escape(id))
  if follow.ended(run) then
    local display = follow.display()
    display:sync(run, clock.now())
    display:stop()
  else
    out.progress(("Watching %s%s; Ctrl-C stops watching only."):format(run.recipe or "run",
      present(run.app) and " of " .. run.app or ""))
    run = follow.run(c, id, follow.display())
  end
  outcome.tell(c, run, { json = ctx.options.json and "run" })
end

local function approve(ctx)
  local id = ctx.args.id
  local run = ctx.client():call("POST", ("/runs/%s/approve"):format(clientlib.escape(id)))
  if ctx.options.json then return out.json(run) end
  out.print(("run %s goes on"):format(id))
  out.progress("Watch it: ndctl runs watch " .. id)
end

local function cancel(ctx)
  local c = ctx.client()
  local id = ctx.args.id
  out.progress(("Cancelling run %s, and undoing what it did ..."):format(id))
  local run = c:call("POST", ("/runs/%s/cancel"):format(clientlib.escape(id)),
    { timeout_ms = 900000 })
  if ctx.options.json then return out.json(run) end
  out.print(("run %s: %s"):format(id, run.state))
end

return {
  name = "runs",
  summary = "List, show, watch, approve and cancel runs of recipes.",
  examples = { { "ndctl runs list" }, { "ndctl runs watch 6h2k9xq4mz" } },
  commands = {
    {
      name = "list", also = { "ls" },
      summary = "List runs, the newest first.",
      options = {
        { "app", short = "a", value = "NAME", doc = "those of one app" },
        { "state", type = "choice",
          choices = { "queued", "running", "sleeping", "rolling_back", "done", "cleaning", "failed",
            "cancelled" },
          value = "STATE", doc = "those in one state, such as running or failed" },
        { "limit", short = "n", type = "int", least = 1, most = 200, default = 20, value = "N",
          doc = "at most so many" },
        { "before", value = "ID", complete = "runs", doc = "those older than a run" },
      },
      permission = "read", json = "Run[]",
      examples = {
        { "ndctl runs list" },
        { "ndctl runs list --app web --state failed" },
      },
      run = list,
    },
    {
      name = "show",
      summary = "Show a run: its parameters, its steps, and why it failed.",
      args = { { "id", complete = "runs" } },
      options = {}, permission = "read", json = "Run",
      examples = { { "ndctl runs show 6h2k9xq4mz" } },
      run = show,
    },
    {
      name = "watch",
      summary = "Watch a run until it ends; the exit status is the run's.",
      args = { { "id", complete = "runs" } },
      options = {}, permission = "read", json = "Run",
      examples = { { "ndctl runs watch 6h2k9xq4mz" } },
      run = watch,
    },
    {
      name = "approve",
      summary = "Let a run go on that waits for somebody's approval; to say no, cancel it.",
      args = { { "id", complete = "runs" } },
      options = {}, permission = "deploy", json = "Run",
      examples = { { "ndctl runs approve 6h2k9xq4mz" } },
      run = approve,
    },
    {
      name = "cancel",
      summary = "Cancel a run: the step in flight is interrupted, what was done is undone.",
      args = { { "id", complete = "runs" } },
      options = {}, permission = "deploy", json = "Run",
      examples = { { "ndctl runs cancel 6h2k9xq4mz" } },
      run = cancel,
    },
  },
}
