-- runs.lua - `ndctl runs`: what recipes did, are doing, and how to stop them.

local clientlib = require "ndctl.lib.client"
local clock = require "clock"
local fail = require "ndctl.lib.fail"
local follow = require "ndctl.lib.follow"
local out = require "ndctl.lib.out"
local outcome = require "ndctl.lib.outcome"
local tables = require "ndctl.lib.table"
local term = require "term"
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
  if #payload == 0 then return out.progress(o.app and ("No runs of %s."):format(o.app) or "No runs.") end
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
    local before = present(run.effects_before) or 0
    out.print(before > 0 and ("\n  %s before these:"):format(text.plural(before, "effect")) or "")
    out.print(tables.render({
      { "N", "n", right = true },
      { "STEP", function(effect) return present(effect.label) or effect.name end },
      { "STATE", function(effect)
        if present(effect.error) and effect.state ~= "cancelled" then return "failed" end
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
  out.progress(("Cancelling %s ..."):format(id))
  local run = c:call("POST", ("/runs/%s/cancel"):format(clientlib.escape(id)),
    { timeout_ms = 900000 })
  if ctx.options.json then return out.json(run) end
  out.print(("run %s: %s, and what it had done is undone"):format(id, run.state))
end

local function export(ctx)
  out.json(ctx.client():call("GET", ("/runs/%s/recording"):format(clientlib.escape(ctx.args.id))))
end

-- A file that `export` wrote, or what the daemon has.
local function recording_of(ctx)
  local id, path = ctx.args.id, ctx.options.file
  if (id == nil) == (path == nil) then
    fail.usage("which run? its ID or --file FILE, one of them", "ndctl runs list")
  elseif id then
    return ctx.client():call("GET", ("/runs/%s/recording"):format(clientlib.escape(id)))
  end
  local fs, json = require "fs", require "json"
  if not fs.exists(path) then fail.raise("not_found", ("there is no file %s"):format(path)) end
  local ok, recording = pcall(json.decode, fs.read(path))
  if not ok or type(recording) ~= "table" or type(recording.run) ~= "table" or type(recording.files) ~= "table" then
    fail.usage(("%s is no recording of a run"):format(path), "ndctl runs export ID writes one")
  end
  return recording
end

-- Waits until the person wants the next step; true when none is wanted.
local function pause(state)
  if state.go_on then return false end
  local answer = (term.ask("-- Enter: next, c: to the end, q: leave -- ") or "q"):match "^%s*(.-)%s*$"
  state.go_on = answer == "c"
  return answer == "q"
end

local function replay(ctx)
  local o = ctx.options
  if o.step and not (term.isatty(0) and term.isatty(1)) then
    fail.usage("--step waits for Enter, and there is no terminal", "leave it out, or stop at an effect: --until N")
  end
  local recording = recording_of(ctx)
  local replayed = require "ndctl.lib.replayed"
  local steps, state = require("json").array {}, { go_on = not o.step }
  if not o.json then out.print(replayed.heading(recording.run)) end
  require("ndctl.lib.replay").run(recording, function(step)
    steps[#steps + 1] = step
    if not o.json then out.print(replayed.lines(step)) end
    if step.kind ~= "answered" then return false end
    return step.n == o["until"] or pause(state)
  end)
  if o.json then out.json { run = recording.run.id, state = recording.run.state, steps = steps } end
end

return {
  name = "runs",
  summary = "List, show, watch, approve, cancel and replay runs of recipes.",
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
      name = "replay",
      summary = "Go through a run again, on this machine: each step with its values, times, line.",
      usage = { "runs replay ID [options]", "runs replay --file FILE [options]" },
      args = { { "id", optional = true, complete = "runs" } },
      options = {
        { "file", short = "F", value = "FILE", doc = "what `ndctl runs export` wrote; no daemon is needed" },
        { "step", type = "flag", doc = "wait for Enter after each answer" },
        { "until", type = "int", least = 1, value = "N", doc = "stop when effect N has been answered" },
      },
      notes = {
        "The recipe that the run pinned runs again, in the sandbox, and gets the answers that were recorded; "
          .. "nothing is done anywhere. Of a run that goes on it shows what has been so far.",
        "Exit status 1 where the recipe asks for something else than it did then: that is named.",
      },
      permission = "read",
      json = { type = "object", required = { "run", "state", "steps" }, properties = { run = { type = "string" },
        state = { type = "string" }, steps = { type = "array",
          items = { type = "object", required = { "kind", "ms" } } } } },
      examples = {
        { "ndctl runs replay 6h2k9xq4mz" },
        { "ndctl runs replay 6h2k9xq4mz --until 3" },
        { "ndctl runs replay --file run.json" },
      },
      run = replay,
    },
    {
      name = "export",
      summary = "Print all that a run saw, as `ndctl runs replay --file` takes it.",
      args = { { "id", complete = "runs" } },
      options = {}, permission = "read", json = "Recording",
      examples = { { "ndctl runs export 6h2k9xq4mz", "in a script: > run.json" } },
      run = export,
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
