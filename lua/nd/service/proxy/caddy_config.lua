-- caddy_config.lua - Caddy's configuration, made once: adding an app never changes it.
--
-- Caddy before 2.7 closes every WebSocket, other apps' too, whenever its configuration changes. So
-- the configuration is one catch-all, and what it serves is in files:
--
--   <routes>/plain/<host>/<address>:<port>    an empty file: http://host goes to that address
--   <routes>/tls/<host>/<address>:<port>      the same for https://host; http:// is redirected
--   <routes>/canary/<host>/<address>:<port>-<new>-<old>   some go to that address instead, which is of
--                                             release <new>; the others stay with release <old>
--   <marks>/share/<host>/<xx>                 ... those whose random number begins with the hex digits xx
--   <marks>/maintenance/<host>                503 with Retry-After, whatever else there is
--   <marks>/paused/<host>                     a connect that fails is tried for 30 s, not for 3
--   <marks>/leaving.caddy/<host>              each answer ends its connection: the host moves
--
-- A request finds its file by the directory of its host (one readdir and one stat, which the
-- kernel answers from memory), and the file's name is where it goes.
--
-- Certificates come on demand, for hosts that have a directory: Caddy asks itself whether one has, looks
-- into its storage, and asks the ACME authority for what is due there. The daemon has put a certificate
-- there before: for `tls = internal` one for long, for `auto` one that is due from its first day and so is
-- replaced as soon as the authority gives one (caddy_certificates.lua). None of this reloads Caddy. What
-- does is a certificate of the user's own (<data>/own/*.pem), and a renewal that somebody asks for.
--
-- What a canary's host answers is logged to <data>/answers.log, with the release that answered; nothing
-- else is. A cookie keeps each caller where the first request was sent.
--
--   caddy.config{ instance=, routes=dir, marks=dir, data=dir, socket=path, http_port=80,
--                 https_port=443, address="", acme={directory=, email=, ca=file}, own={{file=, tag=,
--                 names={...}}, ...}, renewing={host=, ratio=}|nil } -> table, to be written as JSON. Pure;
--                 nothing here waits.

local json = require "json"

local caddy = {}

-- What may name a directory. No slash, no glob, no leading dot: the matcher expands its pattern.
local FILES = "/[0-9]*:[0-9]*"
local NO_LIMIT = 1 << 50        -- bytes
local HOST = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]+)?$"

-- The cookie's name; its value is NEW-new or NEW-old, so that each canary draws anew.
caddy.COOKIE = "nextdeploy"
caddy.RELEASE = "Nextdeploy-Release" -- a header of what a canary's host answers

caddy.ASK = "/.nextdeploy/ask"   -- may this name have a certificate? (loopback only)
caddy.ID = "/.nextdeploy/id"     -- which instance's configuration is this? (loopback only)

local function text(status, body)
  return { handler = "static_response", status_code = status, body = body,
    headers = { ["Content-Type"] = json.array { "text/plain; charset=utf-8" } } }
end

local function route(match, ...)
  local handle = json.array { ... }
  return { match = match and json.array { match }, handle = handle, terminal = true }
end

-- Host names are compared without regard to case and with or without the root's dot (RFC 9110,
-- RFC 1034), but a directory's name is exact: such a host is rewritten, and matched again.
local function normalise()
  local replace = json.array { { search_regexp = "\\.(:[0-9]+)?$", replace = "$1" } }
  for c = ("A"):byte(), ("Z"):byte() do
    replace[#replace + 1] = { search = string.char(c), replace = string.char(c):lower() }
  end
  return {
    match = json.array { { header_regexp = { Host = { pattern = "[A-Z]|\\.(:[0-9]+)?$" } } } },
    handle = json.array { { handler = "headers", request = { replace = { Host = replace } } } },
  }
end

local function marked(o, kind)
  return {
    header_regexp = { Host = { pattern = HOST } },
    file = { root = o.marks .. "/" .. kind, try_files = json.array { "/{http.request.host}" } },
  }
end

-- Its clients connect anew, and so come to the proxy that has it now. WebSockets stay.
local function leaving(o)
  local match = marked(o, "leaving.caddy")
  match["not"] = json.array { { header = { Upgrade = json.array { "*" } } } }
  return { match = json.array { match }, handle = json.array { {
    handler = "headers", response = { set = { Connection = json.array { "close" } } } } } }
end

local function host_file(dir)
  return {
    header_regexp = { Host = { pattern = HOST } },
    file = { root = dir .. "/{http.request.host}", try_files = json.array { FILES } },
  }
end

-- Sends `Connection: close` upstream (WebSockets aside), so that the app closes first and keeps
-- the TIME_WAIT, and so that a switched service address is obeyed at once. A connect that fails is
-- tried again, also for POST: nothing was sent yet.
local function to_app(try)
  return {
    handler = "reverse_proxy",
    upstreams = json.array { { dial = "{http.vars.to}" } },
    transport = { protocol = "http", keep_alive = { enabled = false },
      dial_timeout = "500ms", compression = false },
    load_balancing = try,
  }
end

local function vars(values)
  values.handler = "vars"
  return values
end

local function when(match, ...) return { match = json.array { match }, handle = json.array { ... } } end

local function routes(...) return { handler = "subroute", routes = json.array { ... } } end

local function var(name, value) return { vars = { [name] = json.array { value } } } end

-- Sets where a canary's request goes (vars.to). Each route sees what the ones before it have set: the
-- draw first, then the cookie, which overrules it.
local function split(o)
  local cookie = "{http.request.cookie." .. caddy.COOKIE .. "}"
  local new, drawn = "{http.regexp.split.2}", host_file(o.marks .. "/share")
  drawn.file.try_files = json.array { "/{http.regexp.draw.1}" }
  local choice = "{http.regexp.split.2}-{http.vars.side}"
  local set = { handler = "headers", response = { add = { ["Set-Cookie"] = json.array {
    caddy.COOKIE .. "=" .. choice .. "; Path=/; HttpOnly; SameSite=Lax" } } } }
  local tell = { handler = "headers", response = { set = { [caddy.RELEASE] = json.array {
    "{http.vars.release}" } } } }
  return when(host_file(o.routes .. "/canary"), routes(when(
    { vars_regexp = { ["{http.matchers.file.relative}"] = { name = "split",
      pattern = "/([0-9.]+:[0-9]+)-([0-9]+)-([0-9]+)$" } } },
    vars { side = "old", draw = "{http.request.uuid}", skip_log = false, log_skip = false },
    routes(
      when({ vars_regexp = { draw = { name = "draw", pattern = "^(..)" } } },
        routes(when(drawn, vars { side = "new" }))),
      when(var(cookie, new .. "-new"), vars { side = "new" }),
      when(var(cookie, new .. "-old"), vars { side = "old" }),
      when(var("side", "new"), vars { to = "{http.regexp.split.1}", release = new }),
      when(var("side", "old"), vars { release = "{http.regexp.split.3}" }),
      { handle = json.array { tell } },
      when({ ["not"] = json.array { var(cookie, choice) } }, set)))))
end

-- The limit on the body is there for its reader, which remembers the body's end. Go's transport
-- asks for it once more than there are bytes; when the app has answered by then, the server has
-- closed the body, and the transport takes that for a failure and cuts the answer off.
local function forward(o)
  return {
    handler = "subroute",
    routes = json.array { {
      match = json.array { { vars_regexp = { ["{http.matchers.file.relative}"] = {
        name = "up", pattern = "/([0-9.]+:[0-9]+)$" } } } },
      handle = json.array { { handler = "request_body", max_size = NO_LIMIT }, {
        -- takes out Caddy's own; the app's comes later and stays
        handler = "headers", response = { delete = json.array { "Server" } },
      }, vars { to = "{http.regexp.up.1}" }, routes(
        split(o),
        leaving(o),
        route(marked(o, "paused"), to_app { try_duration = "30s", try_interval = "100ms" }),
        route(nil, to_app { try_duration = "3s", try_interval = "50ms" })) },
      terminal = true,
    }, {
      handle = json.array { { handler = "error", status_code = 503 } }, -- a file we didn't write
    } },
  }
end

local function not_found()
  return route(nil, text(404, "404: no app serves {http.request.host}\n"
    .. "hint: give an app this domain (ndctl deploy --domain {http.request.host})\n"))
end

-- What is said when reverse_proxy gave up.
local function errors()
  return { routes = json.array { route(nil, text("{http.error.status_code}",
    "{http.error.status_code}: nothing answers for {http.request.host} right now\n")) } }
end

local function maintenance(o)
  local page = text(503, "503: {http.request.host} is down for maintenance, and will be back soon\n")
  page.headers["Retry-After"] = json.array { "60" }
  page.headers["Cache-Control"] = json.array { "no-store" }
  return route(marked(o, "maintenance"), page)
end

-- Nothing is logged unless a route says so. (Caddy 2.8 has another name for it.)
local function unlogged() return { handle = json.array { vars { skip_log = true, log_skip = true } } } end

local LOGGED = { default_logger_name = "answers" }

-- Of a request and its answer, what the gates of a canary read.
local function logging(o)
  local fields = {}
  for _, name in ipairs { "request>uri", "request>headers", "request>tls", "request>remote_ip",
    "request>remote_port", "request>client_ip", "user_id", "logger", "bytes_read" } do
    fields[name] = { filter = "delete" }
  end
  local name = "http.log.access.answers"
  return { logs = {
    default = { exclude = json.array { name } },
    certificates = { include = json.array { "tls.obtain", "tls.renew", "http.acme_client",
      "tls.issuance.acme.acme_client" }, level = "ERROR",
      writer = { output = "file", filename = o.data .. "/certificates.log", roll_size_mb = 1, roll_keep = 1,
        roll_gzip = false } },
    answers = { include = json.array { name },
      writer = { output = "file", filename = o.data .. "/answers.log", roll_size_mb = 8, roll_keep = 1,
        roll_gzip = false },
      encoder = { format = "filter", wrap = { format = "json" }, fields = fields } },
  } }
end

local function own_address(o) return o.address ~= "" and o.address or "127.0.0.1" end

local function local_only(o, path)
  return { path = json.array { path },
    remote_ip = { ranges = json.array { "127.0.0.0/8", "::1", own_address(o) } } }
end

local function plain_server(o)
  local port = o.https_port == 443 and "" or ":" .. o.https_port
  local asked = local_only(o, caddy.ASK)
  asked.file = { root = o.routes .. "/tls/{http.request.uri.query.domain}",
    try_files = json.array { FILES } }
  asked.expression = [[{http.request.uri.query.domain}.matches("^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]]
  local redirect = text(308, "")
  redirect.headers = { Location = json.array {
    "https://{http.request.host}" .. port .. "{http.request.uri}" } }
  return {
    listen = json.array { o.address .. ":" .. o.http_port },
    automatic_https = { disable = true },
    read_header_timeout = "10s",
    logs = LOGGED,
    routes = json.array {
      unlogged(),
      route(local_only(o, caddy.ID), text(200, o.instance)),
      route(asked, text(200, "yes\n")),
      route(local_only(o, caddy.ASK), text(404, "no\n")),
      normalise(),
      maintenance(o),
      route(host_file(o.routes .. "/plain"), forward(o)),
      route(host_file(o.routes .. "/tls"), redirect),
      not_found(),
    },
    errors = errors(),
  }
end

-- Who asks for a name of the user's own certificate gets that, whatever else is at hand.
local function connection_policies(o)
  local out = json.array {}
  for i, own in ipairs(o.own) do
    out[i] = { match = { sni = json.array(own.names) },
      certificate_selection = { any_tag = json.array { own.tag } } }
  end
  out[#out + 1] = {}
  return out
end

local function issuers(o)
  return json.array { {
    module = "acme", ca = o.acme.directory, email = o.acme.email,
    trusted_roots_pem_files = o.acme.ca and json.array { o.acme.ca } or nil,
    challenges = { http = { alternate_port = o.http_port }, ["tls-alpn"] = { alternate_port = o.https_port },
      bind_host = o.address ~= "" and o.address or nil },
  } }
end

-- A ratio of 1/3: a certificate is due when a third of its life is left, which is Caddy's own.
local function tls_app(o)
  local policies = json.array { { on_demand = true, issuers = issuers(o) } }
  if o.renewing then
    table.insert(policies, 1, { subjects = json.array { o.renewing.host }, on_demand = true,
      issuers = issuers(o), renewal_window_ratio = o.renewing.ratio })
  end
  local files = json.array {}
  for i, own in ipairs(o.own) do
    files[i] = { certificate = own.file, key = own.file, tags = json.array { own.tag } }
  end
  return {
    certificates = #files > 0 and { load_files = files } or nil,
    automation = { policies = policies,
      on_demand = { ask = "http://" .. own_address(o) .. ":" .. o.http_port .. caddy.ASK } },
  }
end

local function tls_server(o)
  return {
    listen = json.array { o.address .. ":" .. o.https_port },
    automatic_https = { disable = true },
    read_header_timeout = "10s",
    tls_connection_policies = connection_policies(o),
    strict_sni_host = true,
    logs = LOGGED,
    routes = json.array {
      unlogged(),
      normalise(),
      maintenance(o),
      route(host_file(o.routes .. "/tls"), forward(o)),
      not_found(),
    },
    errors = errors(),
  }
end

function caddy.config(o)
  o = setmetatable({ address = o.address or "", http_port = o.http_port or 80,
    https_port = o.https_port or 443, own = o.own or {} }, { __index = o })
  return {
    admin = { listen = "unix/" .. o.socket, origins = json.array { "nextdeploy" },
      config = { persist = false } },
    logging = logging(o),
    storage = { module = "file_system", root = o.data },
    apps = {
      http = {
        http_port = o.http_port, https_port = o.https_port, grace_period = "10s",
        servers = { plain = plain_server(o), tls = tls_server(o) },
      },
      tls = tls_app(o),
    },
  }
end

return caddy
