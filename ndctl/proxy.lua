-- proxy.lua - `ndctl proxy`: host names, who serves them, maintenance and pause.

local clientlib = require "ndctl.lib.client"
local out = require "ndctl.lib.out"
local tables = require "ndctl.lib.table"

local function state_of(route)
  return route.maintenance and "maintenance" or route.served and "served" or "not served"
end

local function list(ctx)
  local payload = ctx.client():call("GET", "/proxy")
  if ctx.options.json then return out.json(payload) end
  for _, p in ipairs(payload.proxies) do
    if p.message and p.routes > 0 then out.note(("%s: %s"):format(p.name, p.message), "  hint: " .. p.hint) end
  end
  if #payload.routes == 0 then
    return out.progress("No app has a host name yet: ndctl proxy set HOST --app APP")
  end
  out.print(tables.render({
    { "HOST", "domain" },
    { "APP", function(r)
      return r.environment == "production" and r.app_name or r.app_name .. "/" .. r.environment
    end },
    { "PROXY", "proxy_type" },
    { "TLS", "tls" },
    { "SENT TO", function(r) return r.service_address or "-" end },
    { "STATE", state_of },
  }, payload.routes))
end

local function set(ctx)
  local o, client = ctx.options, ctx.client()
  local route = client:call("POST", "/proxy/configure", { timeout_ms = 60000, body = client:scoped {
    domain = ctx.args.domain, app_name = o.app, proxy_type = o.proxy, tls = o.tls, port = o.port } })
  if o.json then return out.json(route) end
  out.print(("%s -> %s at %s, served by %s"):format(route.url or route.domain, route.app_name,
    route.service_address or "-", route.proxy_type == "none" and "your own proxy" or route.proxy_type))
end

local function remove(ctx)
  local client = ctx.client()
  local route = client:call("DELETE", "/proxy/routes/" .. clientlib.escape(ctx.args.domain), { timeout_ms = 60000 })
  if ctx.options.json then return out.json(route) end
  out.print(("%s leads to %s no longer"):format(route.domain, route.app_name))
end

local function check(ctx)
  local checks = ctx.client():call("GET", "/proxy/check", { timeout_ms = 60000 })
  local bad = 0
  for _, c in ipairs(checks) do
    if not c.ok then bad = bad + 1 end
  end
  if ctx.options.json then
    out.json(checks)
  else
    for _, c in ipairs(checks) do
      out.print(("%-5s %s: %s"):format(c.ok and "ok" or "bad", c.name, c.message))
      if not c.ok and c.hint then out.print("      hint: " .. c.hint) end
    end
  end
  return bad > 0 and 1 or 0
end

-- Posts {app_name, ...} to `path` and says what `text` makes of the app's status.
local function act(ctx, path, more, text)
  local client = ctx.client()
  more.app_name = ctx.args.app
  local status = client:call("POST", path, { body = client:scoped(more), timeout_ms = 60000 })
  if ctx.options.json then return out.json(status) end
  out.print(text(status))
end

local function maintenance(ctx)
  local state = ctx.args.state
  act(ctx, "/proxy/maintenance", { on = state == "on" }, function(status)
    return state == "on" and ("%s answers 503 until `ndctl proxy maintenance %s off`"):format(
      status.app_name, status.app_name) or status.app_name .. " is back in service"
  end)
end

local function pause(ctx)
  act(ctx, "/proxy/pause", { ["for"] = ctx.options["for"] }, function(status)
    return ("new requests of %s wait until %s, or `ndctl proxy resume %s`"):format(status.app_name,
      status.paused_until or "now", status.app_name)
  end)
end

local function resume(ctx)
  act(ctx, "/proxy/resume", {}, function(status) return status.app_name .. " goes on" end)
end

local app_arg = { "app", complete = "apps" }

return {
  name = "proxy",
  summary = "Host names: list and set them, move them between proxies; maintenance and pause.",
  notes = {
    "A host is served by caddy, by nginx, or by none: a proxy of your own, which sends its requests to the "
      .. "service address shown. Neither a deploy nor maintenance or a pause reloads a proxy.",
  },
  examples = { { "ndctl proxy list" } },
  commands = {
    {
      name = "list", also = { "ls" },
      summary = "List all host names: whose they are, who serves them, where they are sent.",
      options = {}, permission = "read", json = "ProxyState",
      examples = { { "ndctl proxy list" } },
      run = list,
    },
    {
      name = "set",
      summary = "Give an app a host name, or change how it is served.",
      args = { { "domain", complete = "domains" } },
      options = {
        { "app", short = "a", value = "NAME", required = true, complete = "apps", doc = "whose it is" },
        { "proxy", choices = { "caddy", "nginx", "none" }, doc = "who serves it" },
        { "tls", choices = { "auto", "internal", "off" }, doc = "public certificate, this host's own, none" },
        { "port", type = "int", least = 1, most = 65535, value = "PORT",
          doc = "a port of the container, where it isn't the app's own" },
      },
      notes = {
        "What isn't said stays as it is. With another --proxy the host moves: the new one serves it when the "
          .. "command ends, the old one for 30 s more, so that nobody meets a gap.",
      },
      permission = "deploy", conflict = true, json = "ServedRoute",
      examples = {
        { "ndctl proxy set www.example.com --app web" },
        { "ndctl proxy set www.example.com --app web --tls internal", "with a certificate of its own authority" },
      },
      run = set,
    },
    {
      name = "remove", also = { "rm" },
      summary = "Take a host name from its app.",
      args = { { "domain", complete = "domains" } },
      options = {}, permission = "deploy", json = "ServedRoute",
      examples = { { "ndctl proxy remove www.example.com" } },
      run = remove,
    },
    {
      name = "check",
      summary = "Check the proxies in use, and ask every host name for an answer.",
      notes = { "Exit status 1 if one has none." },
      options = {}, permission = "read", json = "Check[]",
      examples = { { "ndctl proxy check" } },
      run = check,
    },
    {
      name = "maintenance",
      summary = "Answer 503 on all host names of an app, or let them serve again.",
      args = { app_arg, { "state", choices = { "on", "off" } } },
      options = {}, permission = "deploy", json = "AppStatus",
      notes = { "With a Retry-After. The app runs on, and its service address answers as before." },
      examples = {
        { "ndctl proxy maintenance web on" },
        { "ndctl proxy maintenance web off" },
      },
      run = maintenance,
    },
    {
      name = "pause",
      summary = "Hold new requests of an app, for at most 30 s, and then let them go on.",
      args = { app_arg },
      options = { { "for", type = "duration", value = "TIME", doc = "how long, if nobody resumes it; 30s" } },
      notes = {
        "They go to whatever release is live by then. Requests under way and open connections go on.",
      },
      permission = "deploy", json = "AppStatus",
      examples = { { "ndctl proxy pause web --for 1s" } },
      run = pause,
    },
    {
      name = "resume",
      summary = "End a pause.",
      args = { app_arg },
      options = {}, permission = "deploy", json = "AppStatus",
      examples = { { "ndctl proxy resume web" } },
      run = resume,
    },
  },
}
