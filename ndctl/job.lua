-- job.lua - `ndctl job`: one-off containers. Jobs run on demand, what schedules have fired, release
-- commands.

local clock = require "clock"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local outcome = require "ndctl.lib.outcome"
local tables = require "ndctl.lib.table"
local task = require "task"
local text = require "ndctl.lib.text"

local present = outcome.present

local POLL_MS = 300

local function result_of(job)
  if job.exit_code then return tostring(job.exit_code) end
  local err = present(job.error)
  return err and err.code or nil
end

local function took(job)
  local from, to = text.parse_time(present(job.started_at) or ""), text.parse_time(present(job.ended_at) or "")
  return from and to and text.duration(math.max(0, to - from)) or nil
end

local function list(ctx)
  local c, o = ctx.client(), ctx.options
  local jobs = c:call("GET", "/jobs", { query = c:scoped { app = ctx.args.app, process = o.process,
    state = o.state, limit = o.limit } })
  if o.json then return out.json(jobs) end
  if #jobs == 0 then return out.progress("No jobs.") end
  local now = clock.now()
  out.print(tables.render({
    { "JOB", "id", right = true },
    { "APP", "app" },
    { "PROCESS", "process" },
    { "TRIGGER", "trigger" },
    { "STATE", "state" },
    { "EXIT", result_of, right = true },
    { "DUE", function(job) return present(job.due_at) and text.ago(job.due_at, now) end },
    { "STARTED", function(job) return present(job.started_at) and text.ago(job.started_at, now) end },
    { "TOOK", took, right = true },
  }, jobs))
end

local function tell(job)
  for _, line in ipairs(present(job.output) or {}) do out.print(text.clean(line)) end
end

-- Raises where the job failed, with what is known of it.
local function judge(job)
  if job.state ~= "failed" then return end
  local err = present(job.error)
  local e = fail.new(err and err.code or "job_failed", err and err.message
    or ("job %d (%s) ended with exit status %d"):format(job.id, job.process, job.exit_code or -1),
    err and err.hint or "ndctl job show " .. job.id)
  e.data = job
  error(e, 0)
end

local function run(ctx)
  local c, o = ctx.client(), ctx.options
  local words = ctx.args.argument or {}
  local job = c:call("POST", "/jobs", { body = c:scoped { app_name = ctx.args.app, process = ctx.args.process,
    arguments = #words > 0 and words or nil } })
  if o.wait == false then
    if o.json then return out.json(job) end
    out.print(tostring(job.id))
    return out.progress("The job has begun: ndctl job show " .. job.id)
  end
  out.progress(("Job %d: %s of %s"):format(job.id, job.process, job.app))
  while not present(job.ended_at) do
    task.sleep(POLL_MS)
    job = c:call("GET", "/jobs/" .. job.id)
  end
  if o.json then out.json(job) else tell(job) end
  judge(job)
end

local function show(ctx)
  local job = ctx.client():call("GET", "/jobs/" .. ctx.args.job)
  if ctx.options.json then return out.json(job) end
  local err = present(job.error)
  out.print(("job %d: %s of %s, %s"):format(job.id, job.process, job.app, job.state))
  out.print(tables.pairs({
    { "trigger", job.trigger },
    { "release", tostring(job.release) },
    { "command", table.concat(job.command, " ") },
    { "due", present(job.due_at) },
    { "started", present(job.started_at) },
    { "took", took(job) },
    { "exit", job.exit_code and tostring(job.exit_code) },
    { "error", err and err.message },
    { "run", present(job.run_id) },
  }, "  "))
  for _, line in ipairs(present(job.output) or {}) do out.print("  | " .. text.clean(line)) end
end

return {
  name = "job",
  summary = "Run a job of an app, and see what jobs, schedules and release commands did.",
  examples = {
    { "ndctl job run shop report", "the process `report` of kind job, in a container of its own" },
    { "ndctl job list shop" },
  },
  commands = {
    {
      name = "run",
      summary = "Run a job (or cron) process of the live release once; prints what it printed.",
      args = { { "app" }, { "process" }, { "argument", many = true, optional = true } },
      options = { { "wait", type = "flag", negatable = true, default = true,
        doc = "stay until it has ended (the default), or return as soon as it began" } },
      permission = "deploy", json = "Job",
      notes = { "Further arguments, after --, are added to its command." },
      examples = {
        { "ndctl job run shop report" },
        { "ndctl job run shop report -- --month 2026-01" },
        { "ndctl job run shop report --no-wait" },
      },
      run = run,
    },
    {
      name = "list",
      summary = "List jobs, the newest first.",
      args = { { "app", optional = true } },
      options = {
        { "process", value = "NAME", doc = "only this process" },
        { "state", type = "choice", choices = { "starting", "running", "done", "failed", "skipped" },
          doc = "only those in this state" },
        { "limit", type = "int", least = 1, most = 200, default = 20, value = "N", doc = "how many" },
      },
      permission = "read", json = "Job[]",
      examples = { { "ndctl job list" }, { "ndctl job list shop --process report --json" } },
      run = list,
    },
    {
      name = "show",
      summary = "Show one job with its last lines.",
      args = { { "job", complete = "jobs" } },
      permission = "read", json = "Job",
      examples = { { "ndctl job show 17" } },
      run = show,
    },
    {
      name = "cancel",
      summary = "End a job: SIGTERM, ten seconds, SIGKILL.",
      args = { { "job", complete = "jobs" } },
      permission = "deploy", json = "Job",
      examples = { { "ndctl job cancel 17" } },
      run = function(ctx)
        local job = ctx.client():call("POST", "/jobs/" .. ctx.args.job .. "/cancel", { timeout_ms = 60000 })
        if ctx.options.json then return out.json(job) end
        out.print(("job %d was cancelled"):format(job.id))
      end,
    },
  },
}
