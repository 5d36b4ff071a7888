-- Jobs: one-off containers. Release commands, firings of schedules, and what people ask for.

local crypto = require "crypto"
local err = require "nd.error"
local s = require "nd.api.schema"
local shapes = require "nd.api.shapes"
local policy = require "nd.service.policy"
local Process = require "nd.service.process"
local release_config = require "nd.service.release_config"

local function list(c)
  local q = c.query
  local app = q.app and c.d.apps:get { app = q.app, project = q.project, environment = q.environment }
  return c.d.jobs:list { app_id = app and app.id, project = q.project, environment = q.environment,
    process = q.process, state = q.state, limit = q.limit, seen = q.seen }
end

-- The process of the live release that is asked for, which must be one that can be called.
local function callable(d, app, name)
  local release = d.releases:live(app)
  if not release then
    err.raise("app_not_live", ("'%s' has no live release to run '%s' of"):format(app.name, name),
      "`ndctl deploy IMAGE --app " .. app.name .. "`")
  end
  local config, names = release_config.of(release), {}
  for _, process in ipairs(Process.list(config, Process.CALLED)) do
    if process.name == name then return release, process end
    names[#names + 1] = process.name
  end
  local near = err.nearest(name, names)
  err.raise("process_not_found", ("'%s' has no job '%s'"):format(app.name, name),
    near and ("did you mean '%s'?"):format(near)
    or #names > 0 and "its jobs are " .. table.concat(names, ", ")
    or 'jobs are processes of kind "job" or "cron" in its nextdeploy.lua')
end

local function create(c)
  local d, body = c.d, c.body
  local app = d.apps:get(body)
  local release, process = callable(d, app, body.process)
  policy.enforce(d, c.user.name, app.name, release_config.of(release))
  process.command = table.move(body.arguments or {}, 1, #(body.arguments or {}), #process.command + 1, process.command)
  local id = crypto.hex(crypto.random(4))
  local job = d.jobs:launch(app, release, process,
    { key = "person/" .. id, trigger = "person", suffix = id, owner = c.user.name })
  if c.query.wait then job = d.jobs:wait(job) end
  return d.jobs:describe(job, true), "Job started"
end

local function id_of(c)
  local id = math.tointeger(tonumber(c.path.id))
  if not id then err.raise("job_not_found", ("there is no job %s"):format(c.path.id), "`ndctl job list` shows them") end
  return id
end

local function show(c) return c.d.jobs:describe(c.d.jobs:get(id_of(c)), true) end

local function cancel(c)
  return c.d.jobs:describe(c.d.jobs:cancel(id_of(c), c.user.name), true), "Job cancelled"
end

return {
  { method = "GET", path = "/jobs", id = "listJobs", permission = "read", about = "query",
    query = { app = s.text, project = shapes.key.project, environment = shapes.key.environment, process = s.text,
      state = s.components.Job.properties.state,
      limit = { type = "integer", minimum = 1, maximum = 200, default = 20 } },
    summary = "Jobs, the newest first.", doc = "The last 200 of an app are kept.",
    payload = s.list(s.ref "Job"), fails = { 404 }, handler = list },
  { method = "POST", path = "/jobs", id = "startJob", permission = "deploy",
    about = "body", body = s.ref "JobRequest",
    query = { wait = s.doc(s.boolean, "Answer when it has ended.") },
    summary = "Runs a job or cron process of the live release, once.",
    doc = "In a container of its own, beside what serves. Its exit status and its last lines are kept.",
    payload = s.ref "Job", fails = { 404, 409, 502, 504 }, handler = create },
  { method = "GET", path = "/jobs/{id}", id = "showJob", permission = "read", about = "job",
    summary = "One job with its last lines.", payload = s.ref "Job", handler = show },
  { method = "POST", path = "/jobs/{id}/cancel", id = "cancelJob", permission = "deploy", about = "job",
    summary = "Ends a job: SIGTERM, grace, SIGKILL.", doc = "Answers when it has ended.",
    payload = s.ref "Job", fails = { 409, 502, 504 }, handler = cancel },
}
