-- Apps: all of them, one with its releases, and destroying one.

local clock = require "clock"
local json = require "json"
local permission = require "nd.permission"
local s = require "nd.api.schema"
local shapes = require "nd.api.shapes"
local release_config = require "nd.service.release_config"

local key = { project = shapes.key.project, environment = shapes.key.environment }
local filter = { project = s.text, environment = s.text, tag = s.text,
  limit = shapes.page.limit, after = shapes.page.after }

local function list(c) return c.d.apps:list(c.query) end

local function release_of(row, with_secrets)
  local problem = release_config.problem(row)
  local config = problem and {} or release_config.of(row)
  return {
    error = problem,
    number = row.number, state = row.state, image = row.image, digest = row.image_id,
    run_id = row.run, created_at = clock.format(row.created_at),
    live_at = row.live_at and clock.format(row.live_at), env = config.env, port = config.port,
    secrets = with_secrets and config.secrets or nil,
    keep_until = row.keep_until and clock.format(row.keep_until),
    drain = row.drained and json.decode(row.drained),
  }
end

local function find(c)
  return c.d.apps:get { app = c.path.app, project = c.query.project, environment = c.query.environment }
end

local function show(c)
  local app = find(c)
  local status = c.d.apps:status(app)
  status.releases = json.array {}
  local with_secrets = permission.allows(c.user.rights, "secrets:read", app)
  for i, row in ipairs(c.d.store:all(
    "SELECT * FROM release WHERE app = ? ORDER BY number DESC LIMIT 50", app.id)) do
    status.releases[i] = release_of(row, with_secrets)
  end
  return status
end

local function tag(c)
  local app = find(c)
  c.d.apps:tag(app, nil, c.body.add, c.body.remove)
  return c.d.apps:status(app), "Tags changed"
end

local function destroy(c)
  local app = find(c)
  c.d.runs:conflict(app)
  c.d.guard:leave(app)
  c.d.apps:destroy(app)
  return { app_name = app.name }, "App destroyed"
end

return {
  { method = "GET", path = "/apps", id = "listApps", permission = "read", about = "query", query = filter,
    summary = "All apps.",
    doc = "By project, environment and name; or those of one project or environment. In pages of 100, unless "
      .. "`limit` says otherwise: see `after`.",
    payload = s.list(s.ref "AppStatus"), handler = list },
  { method = "GET", path = "/apps/{app}", id = "showApp", permission = "read", about = "path", query = key,
    summary = "One app with its releases.", doc = "The newest release first, at most 50.",
    payload = s.ref "AppStatus", handler = show },
  { method = "POST", path = "/apps/{app}/tags", id = "tagApp", permission = "deploy", about = "path", query = key,
    summary = "Adds tags to an app and removes others.", body = s.ref "TagRequest",
    payload = s.ref "AppStatus", fails = { 404 }, handler = tag },
  { method = "DELETE", path = "/apps/{app}", id = "destroyApp", permission = "admin", about = "path", query = key,
    summary = "Removes an app, its containers, network, address and host names. Volumes stay.",
    payload = s.object({ app_name = s.text }, { "app_name" }), fails = { 409, 502, 504, 507 },
    handler = destroy },
}
