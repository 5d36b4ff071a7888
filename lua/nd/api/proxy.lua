-- The edge: host names, the proxies that serve them, maintenance and pause.

local err = require "nd.error"
local duration = require "nd.duration"
local s = require "nd.api.schema"

local PAUSE_MOST_MS = 30 * 1000

local function list(c)
  return { proxies = c.d.edge:proxies(), routes = c.d.edge:routes(c.sees) }
end

local function configure(c)
  local app = c.d.apps:get(c.body)
  return c.d.edge:configure(app, c.body), "Route configured"
end

local function forget(c) return c.d.edge:forget(c.path.domain), "Route removed" end

local function maintenance(c)
  local app = c.d.apps:get(c.body)
  c.d.edge:maintenance(app, c.body.on)
  return c.d.apps:status(app), c.body.on and "Under maintenance" or "Back in service"
end

local function pause(c)
  local app = c.d.apps:get(c.body)
  local ms = c.body["for"] and duration.ms("for", c.body["for"]) or PAUSE_MOST_MS
  if ms < 1 or ms > PAUSE_MOST_MS then
    err.raise("bad_request", "for: a pause lasts at most 30s", "callers give up after that; "
      .. "`ndctl proxy maintenance` is for longer")
  end
  c.d.edge:pause(app, ms)
  return c.d.apps:status(app), "Paused"
end

local function resume(c)
  local app = c.d.apps:get(c.body)
  c.d.edge:resume(app)
  return c.d.apps:status(app), "Resumed"
end

local fails = { 404, 409, 502, 504, 507 }

return {
  { method = "GET", path = "/proxy", id = "listRoutes", permission = "read", about = "any",
    summary = "All host names, and the proxies that serve them.", payload = s.ref "ProxyState", handler = list },
  { method = "GET", path = "/proxy/check", id = "checkProxy", permission = "read", about = "host",
    summary = "Checks the proxies in use, and asks every host name for an answer.",
    doc = "Each host is sent a HEAD request for / through its proxy.", payload = s.list(s.ref "Check"),
    handler = function(c) return c.d.edge:check() end },
  { method = "POST", path = "/proxy/configure", id = "configureProxy", permission = "deploy", about = "body",
    summary = "Gives an app a host name, or changes how it is served.",
    doc = "What isn't said stays as it is. Another `proxy_type` moves the host: the new proxy serves it when "
      .. "the answer comes, the old one for 30 s more. The next deploy goes on with it.",
    body = s.ref "ProxyRoute", payload = s.ref "ServedRoute", fails = fails, handler = configure },
  { method = "DELETE", path = "/proxy/routes/{domain}", id = "removeRoute", permission = "deploy", about = "domain",
    summary = "Takes a host name from its app.", payload = s.ref "ServedRoute", fails = fails,
    handler = forget },
  { method = "POST", path = "/proxy/maintenance", id = "maintenance", permission = "deploy", about = "body",
    summary = "All host names of an app answer 503 with Retry-After, or the app again.",
    doc = "Nothing is reloaded, and the app runs on: its service address answers as before.",
    body = s.ref "MaintenanceRequest", payload = s.ref "AppStatus", fails = fails, handler = maintenance },
  { method = "POST", path = "/proxy/pause", id = "pause", permission = "deploy", about = "body",
    summary = "Holds new requests for at most 30 s.",
    doc = "They wait, and go on to whatever release is live when it ends: by /proxy/resume, or by itself. "
      .. "Requests and connections under way go on.",
    body = s.ref "PauseRequest", payload = s.ref "AppStatus", fails = fails, handler = pause },
  { method = "POST", path = "/proxy/resume", id = "resume", permission = "deploy", about = "body",
    summary = "Ends a pause; held requests go on within half a second.",
    body = s.ref "AppRequest", payload = s.ref "AppStatus", fails = fails, handler = resume },
}
