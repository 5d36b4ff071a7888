-- The shapes that requests and answers have, by the name /openapi.json gives them.
--
-- Requests are closed: a field that isn't listed is refused. Answers may grow; the contract tests
-- (tests/web) hold every answer against what is listed here, unlisted fields included.

local json = require "json"
local s = require "nd.api.schema"
local permission = require "nd.permission"
local policy = require "nd.service.policy"

local array = json.array
local object, closed, doc, one_of = s.object, s.closed, s.doc, s.one_of
local text, integer, boolean, time, any, list, ref =
  s.text, s.integer, s.boolean, s.time, s.any, s.list, s.ref

local number = { type = "number" }
local maybe_number = { type = "number", nullable = true }
local port = { type = "integer", minimum = 1, maximum = 65535 }
local duration = one_of(text, number)
duration.description = 'A duration: "500ms", "30s", "1h30m", or a number of seconds.'

local proxy_type = { type = "string", enum = array { "caddy", "nginx", "none" },
  description = "Who serves the host name; without it the daemon's own choice." }

local tls = { type = "string", enum = array { "auto", "internal", "off" },
  description = "Whose certificate the proxy shows: auto, one that is trusted by everybody (by ACME, or imported); "
    .. "internal, one by the host's own authority; off is plain HTTP." }

local function texts(description)
  return { type = "object", description = description, additionalProperties = text }
end

local function fields(...)
  local out = {}
  for _, part in ipairs { ... } do
    for name, schema in pairs(part) do out[name] = schema end
  end
  return out
end

-- What names an app.
local key = {
  app_name = { type = "string", pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", maxLength = 40,
    description = "1 to 40 of a-z, 0-9 and inner dashes." },
  project = { type = "string", default = "default" },
  environment = { type = "string", default = "production" },
}

local short = { type = "string", minLength = 1, maxLength = 254 }
local password = { type = "string", minLength = 1, maxLength = 4096, writeOnly = true,
  description = "At least 12 characters, UTF-8." }
local permissions = doc(list(text), "Each is a permission (" .. table.concat(permission.names, ", ") .. "), for the "
  .. "whole host or, as in deploy@default/staging/*, for apps by project/environment/app.")

-- Of whatever begins a run.
local of_run = { deadline = fields(duration, { description = "After so long the run goes back by itself; past its "
  .. "point of no return, to its end. Without it as long as the recipe says, else seven days." }) }

-- Of a list of apps.
local page = {
  limit = { type = "integer", minimum = 1, maximum = 1000, default = 100, description = "At most so many apps." },
  after = { type = "string", description = "project/environment/app of an app: those that come after it. To see "
    .. "all, ask on with the last one's as long as `limit` apps come." },
}

-- ---- requests ----

local probe_fields = {
  path = doc(text, "HTTP GET of this path; 200 to 399 is healthy."), port = port,
  status = doc(integer, "This status alone is healthy."),
  body = doc(text, "Text that the answer must contain."),
  tcp = doc(boolean, "A connect is enough."),
  command = doc(list(text), "Run in the container; exit status 0 is healthy."),
  up = { oneOf = array { text, number }, description = "It has run for so long without ending; 2s for workers." },
  interval = duration, timeout = duration, deadline = duration, grace = duration,
  successes = doc(integer, "So many in a row make it healthy."),
  failures = doc(integer, "So many in a row make it unhealthy again."),
}

-- The settings of a container that are more than what it runs, as policy.lua has them.
local container_fields = {}
for name, setting in pairs(policy.settings) do
  container_fields[name] = ({ boolean = boolean, string = text, list = list(text),
    map = texts "Texts by name." })[setting.type]
end
local container = closed(container_fields)
container.description = "Docker's settings of these names. Who is no admin may give only what leaves the host out of "
  .. "reach: read_only, cap_drop, Docker's usual capabilities, no-new-privileges, and sysctls of its own network."

local requests = {
  HealthCheck = {
    description = "How to probe: a path, or a probe with at most one of path, tcp, command and up.",
    oneOf = array { text, closed(probe_fields) },
  },

  Volume = {
    description = 'NAME:/path, or the same in fields. It has one writer unless `shared` is true.',
    oneOf = array { { type = "string", pattern = "^[^:]+:/" },
      closed({ name = text, path = text, shared = boolean, read_only = boolean,
        host = doc(text, "Instead of a name: a path of the host's, which only an admin may give.") }, { "path" }) },
  },

  Container = container,

  Process = closed({
    kind = { type = "string", enum = array { "web", "worker", "cron", "job" },
      description = "web and worker run as long as the release; cron by its schedule, job when asked for. "
        .. "Follows from the name or the schedule; otherwise worker." },
    command = doc(list(text), "Instead of the image's own, after its entrypoint."),
    replicas = { type = "integer", minimum = 0, maximum = 20 },
    port = doc(port, "It listens there, and gets a service address of its own."),
    env = { type = "object", additionalProperties = one_of(text, number, boolean),
      description = "On top of the app's." },
    user = text, memory = one_of(text, integer), cpu = number, grace = duration,
    volumes = list(ref "Volume"), container = ref "Container", health = ref "HealthCheck",
    publish = list(ref "Publish"),
    schedule = doc(text, "Five cron fields, or @daily and the like."),
    zone = doc(text, "Of the schedule, as in Europe/Berlin; UTC unless it is said."),
    overlap = { type = "string", enum = array { "skip", "allow" }, default = "skip",
      description = "What becomes of a firing while the one before still runs." },
    missed = { type = "string", enum = array { "skip", "run" }, default = "skip",
      description = "Whether one firing makes up for those missed while the daemon was down." },
    timeout = doc(duration, "How long a cron or job container may take; 1h unless it is said."),
  }),

  RouteRequest = { oneOf = array { text, closed({ domain = text,
    tls = tls, proxy_type = proxy_type, port = doc(port, "Of the container, where it isn't the app's own.") },
    { "domain" }) } },

  Publish = {
    description = '"[HOSTPORT:]PORT[/tcp|udp]": a port of the host that leads to one of the container. This host '
      .. "itself may come by it, and whom `from` names.",
    oneOf = array { { type = "string", pattern = "^[0-9]+(:[0-9]+)?(/(tcp|udp))?$" },
      closed({ port = { type = "string", pattern = "^[0-9]+(:[0-9]+)?(/(tcp|udp))?$" },
        from = doc(list(text), "IPv4 ranges, as in 10.0.0.0/8.") }, { "port" }) },
  },

  ProxyRoute = closed(fields(key, {
    domain = doc(text, "The host name."), port = doc(port, "Of the container; without it the app's own."),
    proxy_type = proxy_type, tls = tls }), { "domain", "app_name" }),
  MaintenanceRequest = closed(fields(key, { on = boolean }), { "app_name", "on" }),
  PauseRequest = closed(fields(key, { ["for"] = doc(duration, "At most 30s, which it is unless it is said.") }),
    { "app_name" }),

  DeployRequest = closed(fields(key, of_run, {
    image = { type = "string", minLength = 1,
      description = "Used as it is if the host has it, else pulled." },
    env = { type = "object", additionalProperties = one_of(text, number, boolean),
      description = "Plain variables, visible in `docker inspect`; replaces the earlier ones." },
    port = doc(port, "The port the app listens on inside its container."),
    domain = doc(text, "The host name that the proxy sends to the app."),
    proxy_type = proxy_type,
    tls = tls,
    strategy = doc(text, "blue-green, rolling, canary, recreate, or the name of any recipe with these parameters."),
    health_check = ref "HealthCheck", health = ref "HealthCheck",
    replicas = { type = "integer", minimum = 1, maximum = 20 },
    command = doc(list(text), "Instead of the image's own."), user = text,
    memory = one_of(text, integer), cpu = doc(number, "Cores."),
    grace = duration, go_back = doc(boolean,
      "Return to the kept release by itself when this one dies or turns unhealthy."),
    volumes = list(ref "Volume"), container = ref "Container", routes = list(ref "RouteRequest"),
    publish = list(ref "Publish"),
    tags = doc(list(text), "The app's tags, instead of those it has."),
    processes = { type = "object", additionalProperties = ref "Process",
      description = "By name. Without any the app is one process, web; {} goes back to that." },
    release = one_of(list(text), closed { command = list(text), timeout = duration }),
    params = { type = "object", description = "More parameters of the strategy's recipe, as "
      .. "`drain`, `keep` and `settle`." },
    secrets = { description = "The app's secrets: NAME or NAME:env|file|both, or an object of these by name. They "
      .. "replace those it had; each in its newest version, which the release keeps.",
      oneOf = array { list(text), texts() } },
  }), { "app_name", "image" }),

  AppRequest = closed(key, { "app_name" }),
  SwapRequest = closed(fields(key, of_run, { image = { type = "string", minLength = 1 } }), { "app_name" }),
  RollbackRequest = closed(fields(key, of_run, { to = { type = "integer", minimum = 1,
    description = "Number of the release; without it, the last good one." } }), { "app_name" }),

  RecipeFiles = closed({ name = text, files = texts "Source by path; one is recipe.lua." }, { "files" }),

  RunRequest = closed(fields(key, of_run, {
    recipe = one_of(doc(text, "Name of a recipe."), ref "RecipeFiles"),
    params = { type = "object", description = "The recipe's parameters; `app` is app_name." },
  }), { "recipe", "app_name" }),

  RegistryLogin = closed({
    host = { type = "string", minLength = 1, maxLength = 253,
      description = "As images name it: ghcr.io, registry.example.com:5000; docker.io is Docker's own." },
    username = { type = "string", minLength = 1, maxLength = 256 },
    password = { type = "string", minLength = 1, maxLength = 16384, writeOnly = true,
      description = "Or an access token. It is never shown again." },
  }, { "host", "username", "password" }),

  SecretsSync = closed({
    app = doc(text, "For this app; without it for all apps of the environment."),
    project = key.project, environment = key.environment,
    secrets = texts "By name: an age file, best armored, encrypted to the agent's key; 1 MiB of value at most.",
    copies = texts "By name: the same encrypted to its owner, for `reveal`.",
  }, { "secrets" }),

  TagRequest = closed { add = list(text), remove = list(text) },

  ScaleRequest = closed(fields(key, of_run, {
    process = { type = "string", default = "web" },
    replicas = { type = "integer", minimum = 0, maximum = 20 }, drain = duration,
  }), { "app_name", "replicas" }),

  JobRequest = closed(fields(key, {
    process = doc(text, "Of kind job or cron."),
    arguments = doc(list(text), "Added to its command."),
  }), { "app_name", "process" }),

  CertImport = closed({
    domain = doc(text, "A host name, or *.zone: what it is kept as, and must be good for."),
    certificate = { type = "string", minLength = 1, maxLength = 262144,
      description = "PEM: the host's own, then those of its issuers." },
    key = { type = "string", minLength = 1, maxLength = 65536, description = "PEM, without a passphrase." },
  }, { "domain", "certificate", "key" }),
  CertRequest = closed(fields(key, { domain = doc(text, "A host name, or *.zone."),
    recipe = doc(text, "Makes and removes TXT records: gets `app`, `act` (present or remove), `name` and `value`.") }),
    { "domain", "app_name", "recipe" }),
  CertName = closed({ domain = text }, { "domain" }),
  TokenRequest = closed({ name = text,
    role = doc(text, "admin, deployer, viewer, or one of /roles; without it the asker's own."),
    expires = doc(duration, "It is good for so long; without it, until it is removed."),
    app = doc(text, "Only for apps of this name."), project = doc(text, "Only for this project."),
    environment = doc(text, "Only for this environment."),
  }, { "name" }),

  LoginRequest = closed({ email = short, password = password }, { "email", "password" }),
  AcceptRequest = closed({ invitation = short, password = password }, { "invitation", "password" }),
  RefreshRequest = closed({ refresh_token = { type = "string", minLength = 1, maxLength = 8192, writeOnly = true } },
    { "refresh_token" }),
  PasswordRequest = closed({ old = password, new = password }, { "old", "new" }),
  PersonRequest = closed({ email = short, role = text }, { "email", "role" }),
  PersonRoleRequest = closed({ role = text }, { "role" }),
  RoleRequest = closed({ name = text, permissions = permissions,
    replace = doc(boolean, "Change one that there is.") }, { "name", "permissions" }),
}

requests.DeployRequest.properties.release.description =
  "A command run in a container of the new image before the switch, as migrations are; when it fails, "
  .. "nothing is switched. [] for none."
requests.DeployRequest.example = { app_name = "myapp", image = "myimage", env = { PORT = "3000" },
  port = 3000, domain = "myapp.com", proxy_type = "caddy" }
requests.AppRequest.example = { app_name = "myapp" }
requests.SwapRequest.example = { app_name = "myapp", image = "myimage:v2" }
requests.RollbackRequest.example = { app_name = "myapp" }
requests.ProxyRoute.example = { domain = "myapp.com", app_name = "myapp", proxy_type = "nginx" }
requests.MaintenanceRequest.example = { app_name = "myapp", on = true }
requests.PauseRequest.example = { app_name = "myapp", ["for"] = "10s" }
requests.RunRequest.example = { recipe = "bluegreen", app_name = "myapp",
  params = { image = "myimage:v2", drain = "5s" } }
requests.RecipeFiles.example = { name = "mine", files = { ["recipe.lua"] =
  'return recipe { summary = "Nothing yet.", params = {}, run = function() end }' } }
requests.RegistryLogin.example = { host = "ghcr.io", username = "robot", password = "an-access-token" }
requests.CertImport.example = { domain = "myapp.com", certificate = "-----BEGIN CERTIFICATE-----\n...",
  key = "-----BEGIN EC PRIVATE KEY-----\n..." }
requests.CertRequest.example = { domain = "*.myapp.com", app_name = "myapp", recipe = "dns" }
requests.CertName.example = { domain = "myapp.com" }
requests.TagRequest.example = { add = array { "team-a" }, remove = array {} }
requests.ScaleRequest.example = { app_name = "myapp", process = "worker", replicas = 3 }
requests.JobRequest.example = { app_name = "myapp", process = "report" }
requests.TokenRequest.example = { name = "ci", role = "deployer", expires = "30d", environment = "staging" }
requests.LoginRequest.example = { email = "ann@example.com", password = "correct horse battery" }
requests.AcceptRequest.example = { invitation = "ndi_code", password = "correct horse battery" }
requests.RefreshRequest.example = { refresh_token = "eyJ..." }
requests.PasswordRequest.example = { old = "correct horse battery", new = "staple correct horse" }
requests.PersonRequest.example = { email = "ann@example.com", role = "deployer" }
requests.PersonRoleRequest.example = { role = "viewer" }
requests.RoleRequest.example = { name = "stager", permissions = array { "read", "deploy@*/staging/*" } }

-- ---- answers ----

local status = { type = "string", enum = array { "running", "stopped", "error", "updating", "degraded" } }
local release_state = { type = "string",
  enum = array { "created", "healthy", "live", "draining", "kept", "gone" } }
local run_state = { type = "string", enum = array { "queued", "running", "sleeping", "rolling_back",
  "cleaning", "done", "failed", "cancelled" } }

local answers = {
  Error = object({
    success = { type = "boolean", enum = array { false } },
    message = doc(text, "What happened, to what, and why."),
    code = doc(text, "Stable; what a program looks at."),
    hint = doc(text, "What to do next, often a command."),
    payload = doc(any, "What the error is about, where there is more to say."),
  }, { "success", "message", "code" }),

  Instance = object({
    id = integer, name = text, container_id = text, release = integer, process = text,
    index = integer, state = text, address = text, restarts = integer, exit_code = integer,
    started_at = time }, { "id", "name", "release", "process", "index", "state", "address" }),

  Route = object({ domain = text, tls = text, proxy_type = text, port = port }, { "domain", "tls" }),

  ServedRoute = object({
    domain = text, app_name = text, project = text, environment = text, tls = text, proxy_type = text,
    port = doc(port, "Of the container, where it isn't the app's own."),
    url = doc(text, "Absent with a proxy of your own."),
    service_address = doc(text, "What the proxy sends requests to."),
    served = doc(boolean, "Whether its proxy is up."), message = text, maintenance = boolean,
  }, { "domain", "app_name", "project", "environment", "tls", "proxy_type", "served" }),

  ProxyState = object({
    proxies = list(object({ name = text, default = doc(boolean, "Of routes that name none."),
      state = { type = "string", enum = array { "up", "down", "refused", "unknown" } },
      routes = integer, http_port = port, https_port = port, message = text, hint = text },
      { "name", "default", "state", "routes" })),
    routes = list(ref "ServedRoute"),
  }, { "proxies", "routes" }),

  Certificate = object({
    domain = doc(text, "What it is kept as."), names = doc(list(text), "What it is good for."),
    hosts = doc(list(text), "Host names of apps that show it."), proxy_type = text,
    source = { type = "string", enum = array { "own", "acme", "caddy", "internal" },
      description = "Who got it: the user, the daemon by ACME, Caddy by ACME, the host's own authority." },
    subject = text, issuer = text, serial = doc(text, "Hexadecimal."), expiry = time,
    state = { type = "string", enum = array { "valid", "pending", "expiring", "expired", "failing" },
      description = "pending and failing: there is no new one yet; what there was is shown on." },
    renewal = doc(time, "When the next one is asked for."),
    message = doc(text, "Why there is none."), hint = text,
  }, { "domain", "names", "hosts", "source", "state" }),

  Published = object({ port = doc(port, "Of the host."), target = doc(port, "Of the container."),
    proto = text, from = doc(list(text), "Who may come by it, this host aside.") },
    { "port", "target", "proto", "from" }),

  AppStatus = object({
    app_name = text, project = text, environment = text,
    image = doc(text, "What is live, as it was named; before the first release is, what is on its way."),
    digest = text, status = status, message = doc(text, "Why the status is what it is."),
    port = doc(integer, "In the container; 0 while unknown."),
    domain = doc(text, "The first of its host names; empty without one."),
    updated_at = time, release = doc(integer, "The live one's number."),
    previous = doc(integer, "What a rollback goes back to."),
    strategy = doc(text, "The recipe that deployed it last."),
    run_id = doc(text, "The live run, or the last one."),
    service_address = doc(text, "Where it answers on this host, whatever release is live."),
    published = list(ref "Published"), maintenance = doc(boolean, "Its host names answer 503."),
    paused_until = doc(time, "New requests are held until then."),
    routes = list(ref "Route"), instances = list(ref "Instance"), releases = list(ref "Release"),
    tags = list(text),
    processes = doc(list(ref "ProcessStatus"), "Of the live release, where it names any."),
    error = ref "RunError",
  }, { "app_name", "project", "environment", "image", "status", "port", "domain", "updated_at",
    "routes", "instances" }),

  ProcessStatus = object({
    name = text, kind = text, replicas = integer, running = doc(integer, "Of its instances."),
    address = doc(text, "Where it answers on this host."), schedule = text, zone = text,
    next = doc(time, "When the schedule is due."),
  }, { "name", "kind" }),

  Release = object({
    number = integer, image = text, digest = text, run_id = text, created_at = time, live_at = time,
    state = release_state, keep_until = time, env = texts(), port = integer,
    secrets = { type = "object", description = "By name: in which version it has them, and as what. For who has "
      .. "`secrets:read`.",
      additionalProperties = object { as = text, version = integer,
        own = doc(boolean, "The app's own, not the environment's."),
        before = doc(list(object { version = integer, own = boolean }), "What /secrets/push has exchanged.") } },
    drain = object { cut = doc(integer, "Connections that were cut when the drain ended."),
      peers = list(any) },
    error = ref "RunError",
  }, { "number", "state", "image", "created_at" }),

  RunError = object({ code = text, message = text, hint = text, data = any }, { "code", "message" }),

  Run = object({
    id = text, app = text, project = text, environment = text, recipe = text,
    bundle = doc(text, "SHA-256 of the recipe's files, which the run keeps."),
    state = run_state, owner = text, started_at = time, ended_at = time, wake_at = time,
    deadline = doc(time, "When it has to have ended."),
    step = doc(text, "The last thing it asked for."), error = ref "RunError",
    params = { type = "object" }, result = any, effects = doc(list(ref "Effect"), "The last 1,000."),
    effects_before = doc(integer, "So many came before these."),
  }, { "id", "app", "recipe", "state", "owner", "started_at", "params" }),

  Job = object({
    id = integer, app = text, project = text, environment = text,
    process = doc(text, "The process; `release` for a release command."),
    trigger = { type = "string", enum = array { "release", "cron", "person" } },
    state = { type = "string", enum = array { "starting", "running", "done", "failed", "skipped" } },
    release = doc(integer, "Number of the release it belongs to, or was to."), image = text,
    command = list(text), exit_code = integer, error = ref "RunError", owner = text,
    run_id = doc(text, "The run of a release command."), due_at = time, created_at = time,
    started_at = time, ended_at = time, output = doc(list(text), "Its last lines."),
  }, { "id", "app", "process", "trigger", "state", "release", "image", "command", "created_at" }),

  AuditEntry = object({
    seq = integer, time = time, outcome = { type = "string", enum = array { "asked", "done", "refused", "failed",
      "noted" } }, operation = text, permission = text,
    request = doc(text, "The answer's x-request-id."), kind = doc(text, "unix, token, none, system, ..."),
    user = text, credential = doc(text, "Id of the token or session that was shown."),
    origin = doc(text, "Address and port, or the process at the unix socket."), project = text,
    environment = text, app = text, object = text, run = text, code = doc(text, "Of the error."),
    count = doc(integer, "Refusals that the row stands for."), detail = text, hash = text,
  }, { "seq", "time", "outcome", "operation", "kind", "hash" }),

  AuditVerdict = object({
    ok = boolean, rows = integer, first = integer, last = integer, head = doc(text, "The last row's hash."),
    checkpoints = integer, found = doc(integer, "How many problems."), problems = list(text),
    key = doc(text, "The public key that what is signed is signed with, in base64."),
    waiting = doc(integer, "Rows that wait for the disk."),
  }, { "ok", "rows", "found", "problems", "checkpoints" }),

  Effect = object({
    n = doc(integer, "In the order asked."), name = text, version = integer, args = list(any),
    label = text, at = doc(text, "Where in the recipe."), asked_at = time,
    state = { type = "string", enum = array { "acting", "answered", "cancelled", "undone" } },
    answered = doc(integer, "In the order answered."), answered_at = time, ok = boolean,
    ms = integer, result = any, error = ref "RunError", undo = { type = "object" }, pivot = boolean,
    task = doc(text, "The branch that asked: 1, or 1.2 of the second of its branches."),
    deadline = doc(time, "It would be interrupted then."),
  }, { "n", "name", "args", "label", "state", "asked_at" }),

  Recording = object({
    run = ref "Run", files = texts "The recipe's, and the library's: source by path.",
    seed = doc(integer, "Of its random numbers."), state = doc(any, "What its predecessor gave to continue_as."),
    heard = doc(integer, "So many answers its recipe had when it was given up; absent where it came to an end."),
    undos = doc(list(object({ n = integer, label = text, ok = boolean, error = text, time = time },
      { "n", "label", "ok", "time" })), "What was undone, in order; absent as soon as its events are."),
  }, { "run", "files", "seed", "undos" }),

  Plan = object({
    recipe = text, app_name = text, lines = doc(list(text), "What would be done, in order."),
    undos = doc(list(text), "What would be undone if it failed before its pivot."),
    changes = doc(list(object({ field = text, from = any, to = any }, { "field" })),
      "What would be another afterwards: image, digest, env, routes, release, ..."),
    same = doc(boolean, "Nothing would: what is asked for is what there is."),
  }, { "recipe", "app_name", "lines", "undos", "changes", "same" }),

  Recipe = object({
    name = text, from = doc(text, "shipped, or the file it is in."), summary = text,
    error = doc(text, "Why it can't be loaded."), params = list(ref "Param"), needs = list(any),
    gap = doc(text, "Why nothing serves for a while."),
    engine = { type = "string", enum = array { "lua", "luajit" } },
    readme = text, source = text }, { "name" }),

  Param = object({ name = text, type = text, required = boolean, default = any, doc = text,
    choices = list(any), min = any, max = any, of = text }, { "name", "type" }),

  Token = object({ name = text, role = text, token = doc(text, "Shown once, when it is made."),
    limits = doc(permissions, "These have to allow a thing, beside the role."),
    person = doc(text, "Whose it is: it may no more than he may, and goes with him."),
    created_at = time, expires_at = time }, { "name" }),

  Session = object({ email = text, access_token = doc(text, "Goes with requests: Authorization: Bearer."),
    expires_in = doc(integer, "Seconds that the access token is good for."),
    refresh_token = doc(text, "Brings the next pair, once, from /login/refresh; 30 days after its last use the "
      .. "session ends.") }, { "email", "access_token", "expires_in", "refresh_token" }),

  Whoami = object({ name = text, role = text,
    kind = { type = "string", enum = array { "unix", "token", "session" } },
    rights = doc(list(permissions), "Each list has to allow a thing."), expires_at = time },
    { "name", "role", "kind", "rights" }),

  Person = object({ email = text, role = text,
    state = { type = "string", enum = array { "invited", "expired", "active" },
      description = "expired: his invitation, before he took it." },
    invitation = doc(text, "The code, shown once."), invited_until = time, created_at = time,
    sessions = doc(integer, "Where he is signed in."), seen_at = time }, { "email", "role", "state" }),

  Role = object({ name = text, permissions = permissions, builtin = boolean, created_at = time },
    { "name", "permissions" }),

  Registry = object({ host = text, username = text, created_at = time },
    { "host", "username", "created_at" }),

  Secret = object({
    name = text, project = text, environment = text,
    app = doc(text, "Absent where all apps of the environment have it."),
    version = integer, bytes = doc(integer, "Of the value."),
    binary = doc(boolean, "It has a zero byte, and can only be a file."),
    revealable = doc(boolean, "It was also encrypted to a key of its owner's."),
    copy = doc(text, "With `reveal`: that, an armored age file."),
    created_at = time, created_by = text, removed_at = time, removed_by = text,
  }, { "name", "project", "environment", "version", "bytes", "created_at", "created_by" }),
  SecretVersion = object({ name = text, version = integer,
    changed = doc(boolean, "False where the value is what it was.") }, { "name", "version", "changed" }),
  SecretPushed = object({ name = text,
    as = { type = "string", enum = array { "env", "file", "both" },
      description = "What is env was not exchanged: the variable has `version` once the app is restarted." },
    from = integer, version = integer }, { "name", "as", "from", "version" }),
  SecretsRotated = object({ recipient = text, sealed = doc(integer, "So many values were sealed again.") },
    { "recipient", "sealed" }),
  AgentKey = object({ recipient = doc(text, "age1...") }, { "recipient" }),

  SystemMetrics = object({
    time = time, cpu = doc(number, "Per cent of all cores, since the reading before."),
    memory = doc(number, "Per cent in use."),
    disk = doc(number, "Per cent in use where the state directory is, as df counts."),
    uptime = doc(text, "As in 1h42m."), uptime_seconds = integer, cores = integer, load = list(number),
    memory_total = integer, memory_available = integer, swap_total = integer, swap_free = integer,
    disk_total = integer, disk_free = integer, network_received = integer, network_sent = integer,
    disk_read = integer, disk_written = integer, rates = ref "Rates",
    pressure = doc(object { cpu = number, memory = number, io = number },
      "Per cent of the last 10 s in which something waited; absent where the kernel has no PSI."),
    containers = list(ref "ContainerMetrics"),
  }, { "cpu", "memory", "disk", "uptime" }),

  Rates = doc(object { received = integer, sent = integer, read = integer, written = integer },
    "Bytes a second since the reading before."),

  ContainerMetrics = object({
    app = text, project = text, environment = text, process = text, release = integer, instance = text,
    index = integer, container_id = text, restarts = integer, started_at = time,
    cpu = doc(number, "Per cent of one core, since the reading before."),
    cpu_seconds = doc(number, "Since its start."),
    throttled_seconds = doc(number, "In which it waited for its share."),
    memory = doc(integer, "Bytes, the page cache included."),
    memory_working = doc(integer, "Bytes, without cache that could be dropped."),
    memory_limit = doc(integer, "Absent without one."), oom_kills = integer, pids = integer,
    pids_limit = integer, received = integer, sent = integer, read = integer, written = integer,
    rates = ref "Rates",
  }, { "app", "project", "environment", "process", "release", "instance", "restarts" }),

  MetricRange = object({
    metric = text, unit = text, app = text, project = text, environment = text, process = text,
    from = time, to = time, step = doc(number, "Seconds from a value to the next."),
    values = doc(list(maybe_number), "The mean of each step; null where nothing is known."),
    most = doc(list(maybe_number), "The most in each step; of several processes, added up."),
  }, { "metric", "unit", "from", "to", "step", "values", "most" }),

  Check = object({ name = text, ok = boolean, message = text, hint = text }, { "name", "ok", "message" }),

  Doctor = object({
    checks = list(ref "Check"), unknown = list(object({ id = text, name = text, run = text }, { "id" })),
    live_runs = integer, database_bytes = integer, instance = text, version = text,
  }, { "checks" }),

  GcReport = object({
    budget = doc(integer, "Bytes: the daemon's `disk_budget`."),
    limit = doc(integer, "What it comes to now: less where the disk is nearly full."),
    used = object({ images = integer, build_cache = integer, logs = integer, database = integer },
      { "images", "build_cache", "logs", "database" }),
    total = integer, freed = doc(integer, "Bytes, or what would be."),
    over = doc(integer, "Bytes above the limit that can't be freed."), hint = text,
    releases = doc(integer, "Rows of long gone releases that were dropped."),
    removed = doc(list(ref "GcItem"), "What went, or would."), kept = doc(list(ref "GcItem"), "Images that stay."),
  }, { "budget", "limit", "used", "total", "freed", "over", "removed", "kept" }),

  GcItem = object({
    kind = { type = "string", enum = array { "image", "build_cache" } }, name = text, id = text,
    bytes = doc(integer, "What goes with it; of one that stays, its size."), used_at = time,
    why = text }, { "kind", "name", "bytes" }),

  Health = object({ version = text, instance = text, uptime_ms = integer },
    { "version", "instance", "uptime_ms" }),

  Upgrade = object({ from = doc(text, "The version that makes way."), to = doc(text, "The one on disk.") },
    { "from", "to" }),

  Event = object({
    seq = doc(integer, "Grows; `since` takes it."), time = time,
    kind = doc(text, "run.started, effect.answered, app.changed, ..."), app = text, project = text,
    environment = text, run = text, data = doc({ type = "object" }, "By kind."),
  }, { "seq", "time", "kind", "data" }),

  LogLine = object({
    seq = doc(integer, "Numbers the app's lines; `since` takes it."),
    time = doc(time, "When it reached the daemon."), app = text, release = integer, instance = text,
    stream = { type = "string", enum = array { "stdout", "stderr" } },
    line = doc(text, "Without its end; secrets are replaced by [redacted]."),
  }, { "seq", "time", "app", "release", "instance", "stream", "line" }),

  LogDropped = object({
    dropped = doc(integer, "So many lines are missing here."),
    seq = doc(integer, "Where the daemon itself had to drop them: the last one's."), time = time,
    app = text, release = integer, instance = text,
    stream = { type = "string", enum = array { "stdout", "stderr" } },
  }, { "dropped" }),
}

answers.AppStatus.example = {
  app_name = "myapp", project = "default", environment = "production", image = "myimage",
  status = "running", port = 3000, domain = "myapp.com", updated_at = "2026-01-31T12:00:00.000Z",
  release = 1, strategy = "bluegreen", run_id = "06fcsxwd3a", service_address = "10.201.0.2:80",
  routes = array { { domain = "myapp.com", tls = "off", proxy_type = "caddy" } }, instances = array {},
}
answers.MetricRange.example = { metric = "cpu", unit = "percent", from = "2026-01-31T12:00:00.000Z",
  to = "2026-01-31T12:00:30.000Z", step = 10, values = array { 17.3, 12.5, 14 }, most = array { 17.3, 12.5, 14 } }
answers.SystemMetrics.example = { cpu = 17.3, memory = 58.2, disk = 40.1, uptime = "1h42m" }
answers.Error.example = { success = false, code = "app_not_found",
  message = "there is no app 'mapp' in default/production",
  hint = "did you mean 'myapp'? `ndctl ps` lists all apps" }

s.components = {}
for _, part in ipairs { requests, answers } do
  for name, schema in pairs(part) do s.components[name] = schema end
end

return { key = key, page = page }
