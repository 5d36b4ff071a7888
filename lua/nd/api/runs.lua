-- Runs: of recipes, as they go and as they went.

local json = require "json"
local err = require "nd.error"
local ask = require "nd.api.ask"
local s = require "nd.api.schema"

local function list(c) return c.d.runs:list(c.query) end

local function show(c) return c.d.runs:show(c.path.id) end

local function recording(c) return c.d.runs:recording(c.path.id) end

local function create(c)
  local d = c.d
  if c.query.plan then return ask.plan(c, "run") end
  local run = ask.ask(c, "run")
  if not c.query.wait then return d.runs:describe(run.row), "Run started", 202 end
  local row = d.runs:wait(run)
  if row.state == "done" then return d.runs:describe(row), "Run done" end
  local e = json.decode(row.error or row.reason)
  local failed = err.new(e.code, e.message, e.hint or ("`ndctl runs show %s`"):format(row.id), d.runs:describe(row))
  failed.http = err.run_status(e.code)
  error(failed, 0)
end

local function approve(c)
  return c.d.runs:describe(c.d.runs:approve(c.path.id, c.user.name).row), "Run approved"
end

local function cancel(c)
  local row = c.d.runs:wait(c.d.runs:cancel(c.path.id, c.user.name))
  if row.state == "done" then
    err.raise("past_pivot", ("the run %s got past its point of no return before it could be interrupted: it is done")
      :format(row.id), ("`ndctl rollback %s` goes back"):format(c.d.apps:by_id(row.app).name))
  end
  return c.d.runs:describe(row), "Run cancelled"
end

return {
  { method = "GET", path = "/runs", id = "listRuns", permission = "read", about = "any",
    query = { app = s.text, project = s.text, environment = s.text, state = s.components.Run.properties.state,
      before = s.doc(s.text, "Runs older than the one with this id: the next page."),
      limit = { type = "integer", minimum = 1, maximum = 200, default = 20 } },
    summary = "Runs, the newest first.",
    doc = "Of each app the newest 500 are kept, all of the last 30 days, and those whose release is still there.",
    payload = s.list(s.ref "Run"), handler = list },
  { method = "POST", path = "/runs", id = "startRun", permission = "deploy", about = "body",
    query = ask.query, header = ask.header,
    summary = "Runs a recipe for an app: by name, or sent as {name, files}.",
    doc = "Bad parameters and a recipe that doesn't load are refused before anything is recorded. With "
      .. "wait=true the answer comes when the run has ended, and is an error if it failed, with the run as "
      .. "its payload.",
    body = s.ref "RunRequest", payload = s.one_of(s.ref "Run", s.ref "Plan"), status = { 200, 202 },
    fails = { 404, 409, 422, 502, 504, 507 }, handler = create },
  { method = "GET", path = "/runs/{id}", id = "showRun", permission = "read", about = "run",
    summary = "One run with every effect.", doc = "Arguments and results as the journal has them.",
    payload = s.ref "Run", handler = show },
  { method = "GET", path = "/runs/{id}/recording", id = "recordRun", permission = "read", about = "run",
    summary = "One run with all that its recipe saw: what `ndctl runs replay` goes through, without a daemon.",
    doc = "The files are those that the run pinned, the recipe library of its time among them.",
    payload = s.ref "Recording", fails = { 409 }, handler = recording },
  { method = "POST", path = "/runs/{id}/approve", id = "approveRun", permission = "deploy", about = "run",
    summary = "Lets a run go on that waits for somebody's approval.",
    doc = "What it waits for is its `step`. To say no, cancel it.", payload = s.ref "Run", fails = { 409 },
    handler = approve },
  { method = "POST", path = "/runs/{id}/cancel", id = "cancelRun", permission = "deploy", about = "run",
    summary = "Interrupts a run that is not past its pivot, and undoes what it did.",
    doc = "Answers when that is done.", payload = s.ref "Run", fails = { 409 }, handler = cancel },
}
