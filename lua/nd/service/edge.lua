-- edge.lua - an app's host names as people change them: /proxy/configure, maintenance, pause.
--
-- A route is part of a release; what is configured here becomes part of the live one, so that the
-- next deploy goes on with it. A rollback brings back the routes that the older release had.
--
--   edge:configure(app, {domain=, tls=, proxy_type=, port=}) -> route   parks; unset: as it was
--   edge:forget(domain) -> route       parks; raises route_not_found
--   edge:routes() -> {route, ...}      as /proxy shows them, by domain
--   edge:proxies() -> {{name=, state=, ...}, ...}
--   edge:check() -> {{name=, ok=, message=, hint=}, ...}   parks; asks each host at its proxy
--   edge:maintenance(app, on)          parks; its host names answer 503, through restarts too
--   edge:pause(app, ms)                parks; new connections wait until edge:resume(app), which
--                                      happens by itself after `ms`, and when the daemon starts
--   edge:paused_until(app) -> UTC ms | nil
--   edge:restore()                     parks; at start
--
-- A paused app gets no new connection: their first packet is dropped, which its sender repeats. The
-- proxies try again every half a second for 30 s, then answer 504; other callers as their kernel
-- does, after 1, 3, 7 and 15 s. Requests under way go on.

local clock = require "clock"
local http = require "http"
local json = require "json"
local log = require "log"
local task = require "task"
local Apps = require "nd.service.app"
local config = require "nd.service.app_config"
local err = require "nd.error"
local tasks = require "nd.tasks"
local release_config = require "nd.service.release_config"

local Edge = {}
Edge.__index = Edge

local CHECKS_AT_ONCE = 8

function Edge.new(d) return setmetatable({ d = d, paused = {}, changing = tasks.lock() }, Edge) end

---- routes ----

local function url(d, row)
  local http_port, https_port = d.proxy:ports(row.proxy_type)
  if not http_port then return nil end
  local scheme, port, default = "http", http_port, 80
  if row.tls ~= "off" then scheme, port, default = "https", https_port, 443 end
  return ("%s://%s%s/"):format(scheme, row.domain, port == default and "" or ":" .. port)
end

local function shown(d, row)
  local service = d.network:find_service(Apps.route_service(row, row))
  local problem = d.proxy:problem(row.proxy_type)
  return { domain = row.domain, app_name = row.name, project = row.project,
    environment = row.environment, tls = row.tls, proxy_type = row.proxy_type, port = row.port,
    url = url(d, row), service_address = service and service.at, served = not problem,
    message = problem and problem.message, maintenance = row.maintenance == 1 or nil }
end

local ROUTES = [[SELECT domain, tls, proxy_type, port, project, environment, name, maintenance, app.id
  FROM route JOIN app ON app.id = route.app]]

-- sees(app): whether its host names are wanted; all of them without it.
function Edge:routes(sees)
  local list = json.array {}
  for _, row in ipairs(self.d.store:all(ROUTES .. " ORDER BY domain")) do
    if not sees or sees(row) then list[#list + 1] = shown(self.d, row) end
  end
  return list
end

local function find(self, domain)
  return self.d.store:get(ROUTES .. " WHERE domain = ?", domain)
end

-- The configuration that the app's live release has, and the release.
local function live_config(self, app)
  self.d.runs:conflict(app)
  local live = self.d.releases:live(app)
  if not live then
    err.raise("app_not_live", ("'%s' has no live release to send %s to"):format(app.name, "a host name"),
      ("`ndctl deploy IMAGE --app %s --domain HOST` deploys one"):format(app.name))
  end
  return release_config.of(live)
end

function Edge:configure(app, wanted)
  local d = self.d
  local _ <close> = self.changing:hold(app.id) -- each begins with what the one before has made of them
  local base = live_config(self, app)
  local domain, list = config.domain(wanted.domain), {}
  for _, r in ipairs(base.routes or {}) do
    if r.domain ~= domain then list[#list + 1] = r end
  end
  list[#list + 1] = { domain = domain, tls = wanted.tls, proxy_type = wanted.proxy_type, port = wanted.port }
  local spec = config.merge(base, { routes = list })
  d.apps:check_routes(app, { routes = spec.routes })
  d.proxy:require_up(spec.routes[#list].proxy_type)
  d.traffic:reroute(app, spec.routes)
  return shown(d, find(self, domain))
end

function Edge:forget(domain)
  local row = find(self, config.domain(domain))
  if not row then
    err.raise("route_not_found", ("no app has the host name %s"):format(domain), "`ndctl proxy list` shows all")
  end
  local app = self.d.apps:by_id(row.id)
  local _ <close> = self.changing:hold(app.id)
  local base, list = live_config(self, app), json.array {}
  for _, r in ipairs(base.routes) do
    if r.domain ~= row.domain then list[#list + 1] = r end
  end
  local was = shown(self.d, row)
  self.d.traffic:reroute(app, list)
  return was
end

---- proxies ----

function Edge:proxies()
  local d, list = self.d, json.array {}
  local counts = {}
  for _, row in ipairs(d.store:all("SELECT proxy_type, count(*) AS n FROM route GROUP BY proxy_type")) do
    counts[row.proxy_type] = row.n
  end
  for i, name in ipairs { "caddy", "nginx", "none" } do
    local http_port, https_port = d.proxy:ports(name)
    local problem = d.proxy:problem(name)
    list[i] = { name = name, routes = counts[name] or 0, default = d.options.proxy == name,
      state = d.proxy:state(name), message = problem and problem.message, hint = problem and problem.hint,
      http_port = http_port, https_port = https_port }
  end
  return list
end

-- One request through the front door: any answer of the app's is good.
local function check_route(d, row)
  local name = ("%s (%s)"):format(row.domain, row.proxy_type)
  if row.proxy_type == "none" then
    return { name = name, ok = true, message = "your own proxy sends it to " .. (row.service_address or "nothing") }
  end
  local http_port = d.proxy:ports(row.proxy_type)
  local address = d.options.proxy_address or "127.0.0.1"
  local ok, r = pcall(http.request, { url = ("http://%s:%d/"):format(address, http_port), method = "HEAD",
    headers = { Host = row.domain, Connection = "close" }, timeout_ms = 5000, connect_timeout_ms = 1000 })
  if not ok then
    if r.code == "cancelled" then error(r, 0) end
    return { name = name, ok = false, message = r.message, hint = "`ndctl doctor` looks at the proxy itself" }
  end
  local wrong = r.status == 404 and r.headers["content-type"] == "text/plain" or r.status >= 502 and r.status <= 504
  return { name = name, ok = not wrong, message = ("answers %d"):format(r.status),
    hint = wrong and ("`ndctl status %s` shows what there is to answer"):format(row.app_name) or nil }
end

function Edge:check()
  local out, rows = self.d.proxy:check(), self:routes()
  local first = #out
  tasks.each("check", rows, function(row, i) out[first + i] = check_route(self.d, row) end, CHECKS_AT_ONCE)
  return json.array(out)
end

---- maintenance and pause ----

local function mark(self, app, kind, on)
  for _, r in ipairs(self.d.store:all("SELECT domain FROM route WHERE app = ?", app.id)) do
    self.d.proxy:mark(kind, r.domain, on)
  end
end

function Edge:maintenance(app, on)
  local d = self.d
  d.store:commit {
    { "UPDATE app SET maintenance = ?, updated_at = ? WHERE id = ?", on and 1 or 0, clock.now(), app.id },
    d.store:event("app.changed", app.id, nil, { maintenance = on }),
  }
  mark(self, app, "maintenance", on)
end

function Edge:pause(app, ms)
  local d = self.d
  local before = self.paused[app.id]
  if before then before.timer:cancel() end
  local entry = { ends = clock.now() + ms }
  self.paused[app.id] = entry
  mark(self, app, "paused", true) -- first: from now on they wait for long enough
  d.network:hold(Apps.net(app), true)
  entry.timer = task.spawn("pause", function()
    task.sleep(ms)
    if self.paused[app.id] ~= entry then return end
    local ok, e = pcall(self.resume, self, app, true)
    if not ok then log.error(("can't end the pause of %s: %s"):format(app.name, tostring(e))) end
  end)
  d.store:post { d.store:event("app.changed", app.id, nil, { paused = ms }) }
end

function Edge:resume(app, by_itself)
  local d, entry = self.d, self.paused[app.id]
  d.network:hold(Apps.net(app), false)
  self.paused[app.id] = nil
  if entry and not by_itself then entry.timer:cancel() end
  mark(self, app, "paused", false)
  if entry then d.store:post { d.store:event("app.changed", app.id, nil, { paused = 0 }) } end
end

function Edge:paused_until(app)
  local entry = self.paused[app.id]
  return entry and entry.ends
end

function Edge:restore()
  local hosts = {}
  for _, r in ipairs(self.d.store:all(
    "SELECT domain FROM route JOIN app ON app.id = route.app WHERE maintenance = 1")) do
    hosts[r.domain] = true
  end
  self.d.proxy:set_marks("maintenance", hosts)
  self.d.proxy:set_marks("paused", {})
end

return Edge
