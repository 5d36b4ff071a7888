-- Runs: of recipes, as they go and as they went.

local json = require "json"
local err = require "nd.error"
local s = require "nd.api.schema"

local function list(c) return c.d.runs:list(c.query) end

local function show(c) return c.d.runs:show(c.path.id) end

local function create(c)
  local d, body = c.d, c.body
  local app = d.apps:get(body)
  local params = body.params or {}
  params.app = app.name
  local request = { app = app, recipe = body.recipe, params = params, spec = d.apps:spec(app, {}),
    owner = c.user.name }
  if c.query.plan then return d.runs:plan(request), "this is what would be done" end
  local run = d.runs:start(request)
  if not c.query.wait then return d.runs:describe(run.row), "Run started", 202 end
  local row = d.runs:wait(run)
  if row.state == "done" then return d.runs:describe(row), "Run done" end
  local e = json.decode(row.error or row.reason)
  error(err.new(e.code, e.message, e.hint, { run = d.runs:describe(row), error = e.data }), 0)
end

local function cancel(c)
  local run = c.d.runs:cancel(c.path.id, c.user.name)
  return c.d.runs:describe(c.d.runs:wait(run)), "Run cancelled"
end

return {
  { method = "GET", path = "/runs", id = "listRuns", permission = "read",
    query = { app = s.text, project = s.text, environment = s.text, state = s.text, before = s.text,
      limit = { type = "integer", minimum = 1, maximum = 200 } },
    summary = "Runs, the newest first.", payload = s.list(s.ref "Run"), handler = list },
  { method = "POST", path = "/runs", id = "startRun", permission = "deploy",
    query = { wait = s.boolean, plan = s.boolean },
    summary = "Runs a recipe for an app: by name, or sent as {name, files}.",
    body = s.closed({ recipe = s.any, app_name = s.app_name, project = s.text, environment = s.text,
      params = { type = "object" } }, { "recipe", "app_name" }),
    payload = { oneOf = json.array { s.ref "Run", s.ref "Plan" } }, status = { 200, 202 }, handler = create },
  { method = "GET", path = "/runs/{id}", id = "showRun", permission = "read",
    summary = "One run with every effect.", payload = s.ref "Run", handler = show },
  { method = "POST", path = "/runs/{id}/cancel", id = "cancelRun", permission = "deploy",
    summary = "Interrupts a run that is not past its pivot, and undoes what it did.",
    payload = s.ref "Run", handler = cancel },
}
