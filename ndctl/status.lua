-- status.lua - `ndctl status`: what serves, for all apps or for one.

local client = require "ndctl.lib.client"
local clock = require "clock"
local out = require "ndctl.lib.out"
local outcome = require "ndctl.lib.outcome"
local tables = require "ndctl.lib.table"
local text = require "ndctl.lib.text"

local present = outcome.present

local function show_list(ctx)
  local c = ctx.client()
  local payload = c:apps()
  if ctx.options.json then return out.json(payload) end
  if #payload == 0 then
    out.progress("No apps yet: ndctl deploy IMAGE --app NAME")
    return
  end
  local now = clock.now()
  out.print(tables.render({
    { "APP", "app_name" },
    { "STATUS", "status" },
    { "RELEASE", "release", right = true },
    { "IMAGE", "image" },
    { "ADDRESS", "service_address" },
    { "URL", outcome.urls },
    { "UPDATED", function(row) return text.ago(row.updated_at, now) end },
  }, payload))
end

local function scope_text(app)
  local project, environment = present(app.project), present(app.environment)
  if not environment then return nil end
  if not project or project == "default" then
    return environment ~= "production" and environment or nil
  end
  return project .. " / " .. environment
end

local function published(app)
  local list = {}
  for i, p in ipairs(present(app.published) or {}) do
    list[i] = ("%d/%s -> %d, %s"):format(p.port, p.proto, p.target,
      #p.from > 0 and "from " .. table.concat(p.from, " ") or "from this host")
  end
  return #list > 0 and table.concat(list, "; ") or nil
end

local function held(app)
  local ends = present(app.paused_until)
  return ends and "new requests wait until " .. ends
    or present(app.maintenance) and ("maintenance: its host names answer 503; `ndctl proxy maintenance %s off`")
      :format(app.app_name) or nil
end

local function show_instances(app, now)
  local instances = present(app.instances) or {}
  if #instances == 0 then return end
  out.print("")
  out.print(tables.render({
    { "INSTANCE", function(row) return row.name or row.id end },
    { "RELEASE", "release", right = true },
    { "STATE", "state" },
    { "ADDRESS", "address" },
    { "RESTARTS", "restarts", right = true },
    { "STARTED", function(row) return text.ago(row.started_at, now) end },
  }, instances))
end

local function show_processes(app, now)
  local processes = present(app.processes)
  if not processes then return end
  out.print("")
  out.print(tables.render({
    { "PROCESS", "name" },
    { "KIND", "kind" },
    { "RUNNING", function(row) return row.replicas and ("%d/%d"):format(row.running, row.replicas) end },
    { "ADDRESS", "address" },
    { "SCHEDULE", function(row)
      return row.schedule and row.schedule .. (present(row.zone) and " " .. row.zone or "")
    end },
    { "NEXT", function(row) return present(row.next) and text.ago(row.next, now) end },
  }, processes))
end

local function show_releases(app, now)
  local releases = present(app.releases) or {}
  if #releases == 0 then return end
  table.sort(releases, function(a, b) return a.number > b.number end)
  releases = table.move(releases, 1, math.min(#releases, 10), 1, {})
  out.print("")
  out.print(tables.render({
    { "RELEASE", "number", right = true },
    { "STATE", "state" },
    { "IMAGE", outcome.image },
    { "LIVE SINCE", function(row) return text.ago(row.live_at, now) end },
    { "KEPT UNTIL", function(row)
      return present(row.keep_until) and text.ago(row.keep_until, now)
    end },
  }, releases))
end

local function show_app(ctx, name)
  local c = ctx.client()
  local app = c:call("GET", "/apps/" .. client.escape(name), { query = c:scoped {} })
  if ctx.options.json then return out.json(app) end
  local now = clock.now()
  out.print(("%s: %s"):format(app.app_name, app.status))
  out.print(tables.pairs({
    { "release", present(app.release) },
    { "image", outcome.image(app) },
    { "scope", scope_text(app) },
    { "url", outcome.urls(app) },
    { "address", present(app.service_address) },
    { "port", app.port ~= 0 and present(app.port) or nil },
    { "published", published(app) },
    { "edge", held(app) },
    { "strategy", present(app.strategy) },
    { "previous", present(app.previous) and ("release %d; ndctl rollback %s goes back to it")
      :format(app.previous, app.app_name) },
    { "run", app.status == "updating" and present(app.run_id) or nil },
    { "updated", text.ago(app.updated_at, now) },
    { "note", present(app.message) },
  }, "  "))
  show_processes(app, now)
  show_instances(app, now)
  show_releases(app, now)
end

return {
  name = "status",
  summary = "Show what serves: all apps, or one with its instances and releases.",
  args = { { "app", optional = true } },
  options = {},
  permission = "read", json = "AppStatus|AppStatus[]",
  examples = {
    { "ndctl status" },
    { "ndctl status web" },
    { "ndctl status web --json" },
  },
  run = function(ctx)
    if ctx.args.app then return show_app(ctx, ctx.args.app) end
    return show_list(ctx)
  end,
}
