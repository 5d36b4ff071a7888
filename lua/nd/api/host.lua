-- The host and the daemon itself: health, doctor.

local clock = require "clock"
local json = require "json"
local s = require "nd.api.schema"
local sandbox = require "nd.service.sandbox"

local function bytes(n)
  for _, unit in ipairs { "B", "kB", "MB" } do
    if n < 1000 then return ("%d %s"):format(n, unit) end
    n = (n + 500) // 1000
  end
  return ("%d GB"):format(n)
end

local function healthz(c)
  local d = c.d
  return { version = d.version, instance = d.store.instance,
    uptime_ms = clock.monotonic() - d.started }
end

local function add(list, name, ok, message, hint)
  list[#list + 1] = { name = name, ok = ok, message = message, hint = not ok and hint or nil }
end

-- What takes the disk, in a sentence.
local function disk_line(report)
  local used = report.used
  return ("%s of %s: images %s, build cache %s, logs %s, database %s"):format(bytes(report.total), bytes(report.limit),
    bytes(used.images), bytes(used.build_cache), bytes(used.logs), bytes(used.database))
    .. (report.over > 0 and ("; %s more than can be freed"):format(bytes(report.over)) or "")
end

local function check_disk(d, list)
  local ok, report = pcall(d.gc.look, d.gc, {})
  if not ok then return add(list, "disk", false, report.message, "see the daemon's log") end
  add(list, "disk", report.over == 0, disk_line(report), report.hint)
end

local function gc(c)
  local options = { all = c.query.all, fresh = true }
  if c.query.plan then return (c.d.gc:look(options)), "this is what would be removed" end
  return c.d.gc:run(options), "what nothing needs is removed"
end

local function doctor(c)
  local d = c.d
  local list = json.array {}
  local ok, version = pcall(function()
    d.docker:ping() -- a version may be an old answer
    return d.docker:version()
  end)
  add(list, "docker", ok, ok and ("Docker %s, API %s"):format(version.server, version.api)
    or version.message, not ok and version.hint)
  for _, checks in ipairs { d.network:check(), d.proxy:check() } do
    for _, check in ipairs(checks) do list[#list + 1] = check end
  end
  list[#list + 1] = sandbox.check(d)
  list[#list + 1] = d.certs:check()
  if ok then check_disk(d, list) end
  local unknown = d.watch:strangers()
  add(list, "orphans", #unknown == 0, ("%d containers of unknown runs"):format(#unknown),
    "they carry our label, but this database does not know their run; look at them before removing any")
  add(list, "machine", not d.store.cloned, d.store.cloned and "this database was made on another machine"
    or "this database belongs to this machine", "nothing unknown is removed here")
  local broken = d.audit.log:trouble()
  add(list, "audit", not broken, broken or ("%d rows so far"):format(d.audit.log.seq),
    "`ndctl audit verify` tells what is wrong; changes wait for a disk that is full")
  local live = 0
  for _ in pairs(d.runs.live) do live = live + 1 end
  for _ in pairs(d.runs.asleep) do live = live + 1 end
  return { checks = list, unknown = unknown, live_runs = live, database_bytes = d.store:size(),
    instance = d.store.instance, version = d.version }
end

local function upgrade(c)
  local versions = c.d.upgrade:begin(c.user.name)
  return versions, ("nextdeployd %s takes over from %s"):format(versions.to, versions.from), 202
end

return {
  { method = "GET", path = "/healthz", id = "healthz", permission = "none",
    summary = "The daemon answers.", doc = "It needs no token and looks at nothing else: see /doctor.",
    payload = s.ref "Health", handler = healthz },
  { method = "GET", path = "/doctor", id = "doctor", permission = "read", about = "host",
    summary = "Checks of the host, Docker, rules, proxy and journal.",
    doc = "Each check that isn't `ok` has a hint. The answer is 200 whatever they say.",
    payload = s.ref "Doctor", handler = doctor },
  { method = "POST", path = "/upgrade", id = "upgrade", permission = "admin", about = "host",
    summary = "Has the nextdeployd that is on disk take over.",
    doc = "It is asked first whether it would start on this configuration and database, and 409 tells why not. "
      .. "It takes over within a second or so: requests wait meanwhile, none is refused, WebSockets are closed "
      .. "with 1012, and runs go on from the journal.",
    payload = s.ref "Upgrade", status = { 202 }, fails = { 409 }, handler = upgrade },
  { method = "POST", path = "/gc", id = "gc", permission = "admin", about = "host",
    query = { plan = s.doc(s.boolean, "Remove nothing, and answer with what would go."),
      all = s.doc(s.boolean, "All that nothing needs, whatever the budget.") },
    summary = "Removes what nothing needs of images and build cache, as far as the disk budget asks for it.",
    doc = "Only images that NextDeploy pulled or that its releases ran from, the one longest unused first; never "
      .. "those of a release that is there or can be gone back to, of an app that a person stopped, or that any "
      .. "container uses. The daemon does the same by itself once an hour and after deploys.",
    payload = s.ref "GcReport", fails = { 502, 504, 507 }, handler = gc },
}
