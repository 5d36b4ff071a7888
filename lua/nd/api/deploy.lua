-- The seeds' routes: deploy, status, stop, restart, swap; and rollback.

local json = require "json"
local err = require "nd.error"
local ask = require "nd.api.ask"
local s = require "nd.api.schema"
local shapes = require "nd.api.shapes"
local policy = require "nd.service.policy"
local Request = require "nd.service.request"
local release_config = require "nd.service.release_config"

-- Waits for a run. When it failed, raises its error with the app's status and the error's data as
-- the payload.
local function wait_for(c, run, message)
  local d = c.d
  local row = d.runs:wait(run)
  local status = d.apps:status(run.app)
  status.run_id = row.id
  if row.state == "done" then return status, message end
  local e = json.decode(row.error or row.reason)
  status.error = e
  local failed = err.new(e.code, e.message, e.hint or ("`ndctl runs show %s`"):format(row.id), status)
  failed.http = err.run_status(e.code)
  error(failed, 0)
end

local function begun(c, run, message)
  if c.query.wait then return wait_for(c, run, message) end
  local status = c.d.apps:status(run.app)
  status.run_id = run.row.id
  return status, message
end

local function start(c, kind, message)
  if c.query.plan then return ask.plan(c, kind) end
  return begun(c, ask.ask(c, kind), message)
end

-- Tags are the app's, not the release's: they are set at once.
local function deploy(c)
  local tags = c.d.apps.check_tags(c.body.tags)
  if c.query.plan or not tags then return start(c, "deploy", "Deployment started") end
  local run = ask.ask(c, "deploy")
  c.d.apps:tag(run.app, tags)
  return begun(c, run, "Deployment started")
end

local function status(c)
  if not c.query.app then return c.d.apps:list(c.query), "all apps" end
  return c.d.apps:status_json(c.query), "App status fetched"
end

local function live_run(c, app) c.d.runs:conflict(app) end

local function stop(c)
  local app = c.d.apps:get(c.body)
  live_run(c, app)
  c.d.releases:user_stop(app)
  return c.d.apps:status(app), "App stopped"
end

-- The same image and configuration again, by the app's strategy: nothing is dropped. An app that a
-- person stopped is started.
local function restart(c)
  local d = c.d
  local app = d.apps:get(c.body)
  live_run(c, app)
  local release = d.releases:live(app)
  if app.stopped == 1 or not release then
    d.releases:user_start(app)
    return d.apps:status(app), "App started"
  end
  local spec = d.apps:pin_secrets(app, release_config.of(release))
  policy.check(c.user.rights, app.name, spec)
  local named = d.docker:image(release.image) -- its name may stand for another image by now
  local image = named and named.Id == release.image_id and release.image or release.image_id
  spec.prepared = true -- the release command has had its run
  local run = d.runs:start { app = app, recipe = Request.strategy({}, spec), spec = spec,
    owner = c.user.name, params = { app = app.name, image = image } }
  return wait_for(c, run, "App restarted")
end

local function swap(c) return start(c, "swap", "Swap started") end

local function rollback(c) return start(c, "rollback", "Rollback started") end

local function scale(c) return start(c, "scale", "Scaling started") end

local app_or_plan = s.one_of(s.ref "AppStatus", s.ref "Plan")
local starts = { 404, 409, 422, 502, 504, 507 } -- how a request that starts a run may fail

return {
  { method = "POST", path = "/deploy", id = "deploy", permission = "deploy",
    about = "body", query = ask.query, header = ask.header,
    summary = "Deploys an image by a strategy; with plan=true only says what it would do.",
    doc = "Makes the app where there is none yet. What isn't said stays as the live release has it, "
      .. "`env` aside, which is replaced as a whole. The answer comes at once with status `updating` and "
      .. "the run's id; with wait=true when the run has ended, and is an error if it failed: the payload is "
      .. "then the app's status with the run's `error`. Until the switch the version before serves.",
    body = s.ref "DeployRequest", payload = app_or_plan, fails = starts,
    handler = deploy },
  { method = "GET", path = "/status", id = "status", permission = "read", about = "query",
    query = { app = s.doc(s.text, "The app's name."), project = shapes.key.project,
      environment = shapes.key.environment,
      tag = s.doc(s.text, "Only apps that have it; without `app`."),
      limit = shapes.page.limit, after = shapes.page.after },
    summary = "What an app is right now; without `app`, all apps.",
    doc = "A container that was killed behind the daemon's back shows within two seconds. All apps come in "
      .. "pages of 100, unless `limit` says otherwise: see `after`.",
    payload = s.one_of(s.ref "AppStatus", s.list(s.ref "AppStatus")), fails = { 404 }, handler = status },
  { method = "POST", path = "/stop", id = "stop", permission = "deploy", about = "body", body = s.ref "AppRequest",
    summary = "Takes an app out of service: drain, SIGTERM, grace, SIGKILL.",
    doc = "Answers when the containers have stopped. The app stays stopped, through restarts too, until "
      .. "/restart or the next deploy.",
    payload = s.ref "AppStatus", fails = starts, handler = stop },
  { method = "POST", path = "/restart", id = "restart", permission = "deploy",
    about = "body", body = s.ref "AppRequest",
    summary = "Starts the live release anew, or a stopped app; nothing is dropped.",
    doc = "The same image and configuration again, by the app's strategy, with the newest versions of its "
      .. "secrets. Answers when it serves.",
    payload = s.ref "AppStatus", fails = starts, handler = restart },
  { method = "POST", path = "/swap", id = "swap", permission = "deploy",
    about = "body", query = ask.query, header = ask.header,
    summary = "Blue-green to an image; without one, back to the kept release.",
    doc = "Swapping twice without an image ends where it began.",
    body = s.ref "SwapRequest", payload = app_or_plan, fails = starts,
    handler = swap },
  { method = "POST", path = "/rollback", id = "rollback", permission = "deploy",
    about = "body", query = ask.query, header = ask.header,
    summary = "Back to the last good release, or to release `to`.",
    doc = "The release comes back as it was: its kept containers, else new ones from its image, which is pulled "
      .. "by digest if it has gone. The last good one is what the live release replaced when it first served, so "
      .. "each rollback goes further back. 409 where there is none, and for a release that was never healthy.",
    body = s.ref "RollbackRequest", payload = app_or_plan, fails = starts,
    handler = rollback },
  { method = "POST", path = "/scale", id = "scale", permission = "deploy",
    about = "body", query = ask.query, header = ask.header,
    summary = "Changes how many instances of a process the live release has.",
    doc = "New ones get traffic once they are healthy; those that are too many drain first. The release stays "
      .. "the same.",
    body = s.ref "ScaleRequest", payload = app_or_plan, fails = starts, handler = scale },
}
