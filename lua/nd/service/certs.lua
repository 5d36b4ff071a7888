-- certs.lua - certificates: whose is shown for a host, where it comes from, when the next one is due.
--
-- A host with `tls = auto` shows, in this order: a certificate that is kept here and covers it (one of the
-- user's own, or one that was asked for by name); one that an ACME authority gives for the host (Caddy asks
-- itself, for nginx the daemon does); until there is one, that of the host's own authority. An authority that
-- fails changes nothing of what is shown.
--
-- What is kept is a file, CERT_DIR/NAME.pem: certificate, chain and key, root's alone, written whole. Its row
-- says what is in it; where they differ, after a power cut or by hand, the file is right.
--
--   certs:start()                        parks; then one task looks after all of them
--   certs:wake()                         routes have changed
--   certs:bundle(host) -> path, mark | nil       parks; another bundle has another mark, whatever its serial number
--   certs:list() -> {shown, ...}         parks; as the API has them
--   certs:show(name) -> shown            parks; raises cert_not_found
--   certs:import(name, certificate, key) -> shown        parks; PEM
--   certs:order(name, {recipe=, app=}) -> shown          parks; asks for one by dns-01 and keeps it renewed
--   certs:rotate(name) -> shown          parks; a new one now
--   certs:remove(name) -> shown          parks
--   certs:check() -> {name=, ok=, message=, hint=}       parks; for `ndctl doctor`
-- Events: cert.issued, cert.imported, cert.removed, cert.failed{error}, cert.expiring, each with {domain=}.

local cert = require "cert"
local clock = require "clock"
local crypto = require "crypto"
local db = require "db"
local fs = require "fs"
local json = require "json"
local log = require "log"
local task = require "task"
local Acme = require "nd.service.acme"
local check = require "nd.service.cert_check"
local err = require "nd.error"
local instant = require "nd.instant"
local tasks = require "nd.tasks"

local Certs = {}
Certs.__index = Certs

local MINUTE, DAY = 60 * 1000, 24 * 3600 * 1000
local MOST_WAIT = 12 * 60 * MINUTE
local LEAST_WAIT = 1000
local AT_ONCE = 4             -- authorities see no crowd
local CADDY_WAIT = 60 * 1000  -- ms for a renewal that somebody waits for
local RUN_WAIT = 60 * 1000    -- ms that a TXT record's run waits for another of its app
local WARN_SHARE = 6          -- when a sixth of its life is left something is wrong

function Certs.new(d)
  local o = d.options
  local self = setmetatable({ d = d, dir = o.cert_dir, woken = task.signal(), lock = tasks.lock(),
    warned = {},          -- name -> the end of the certificate that was told of
    asking = {}, count = 0,
    at = {}, tried = {},  -- of Caddy's hosts: when to look at it again, how often in vain
    acme = Acme.new { directory = o.acme_directory, email = o.acme_email, ca = o.acme_ca, keys = o.cert_dir,
      run = o.run_dir, well_known = o.run_dir .. "/nginx/acme/.well-known/acme-challenge" } }, Certs)
  d.metrics:gauge("nextdeploy_certificate_expiry_timestamp_seconds",
    "When the certificate that is shown for a host expires, in seconds since 1970.", function() return self:gauge() end)
  self.failures = d.metrics:counter("nextdeploy_certificate_failures_total",
    "Times that no new certificate could be had.", { "domain" })
  return self
end

---- what is kept ----

local function path_of(self, name) return ("%s/%s.pem"):format(self.dir, (name:gsub("%*", "_"))) end

local function rows(self) return self.d.store:all "SELECT * FROM certificate ORDER BY name" end

local function row_of(self, name) return self.d.store:get("SELECT * FROM certificate WHERE name = ?", name) end

-- The row that is best for a host: that of its own name, one that names it, a wildcard.
local function best(list, host)
  local found, rank
  for _, row in ipairs(list) do
    if row.serial and check.covers(json.decode(row.names), host) then
      local r = row.name == host and 2 or row.kind == "own" and 1 or 0
      if not found or r > rank or r == rank and row.not_after > found.not_after then found, rank = row, r end
    end
  end
  return found
end

function Certs:bundle(host)
  local row = best(rows(self), host)
  local path = row and path_of(self, row.name)
  if path and fs.exists(path) then return path, crypto.sha256(fs.read(path)):sub(1, 16) end
end

-- When the next one is wanted: a third of its life before its end, not all of a host's at once. An authority that
-- gives one that is as old already is asked again when a sixth of what is left has passed.
local function due(self, name, leaf)
  local life = leaf.not_after - leaf.not_before
  local share = math.tointeger(tonumber(crypto.sha256(name):sub(1, 4), 16)) / 0xffff
  local soonest = clock.now() + math.max(self.d.options.acme_retry, (leaf.not_after - clock.now()) // 6)
  return math.max(soonest, leaf.not_after - life // 3 - math.floor(life * share / 30))
end

-- Asked for is what the row is called, also where an authority gave more.
local function record(self, name, kind, leaf, hook)
  local names = kind == "own" and leaf.names or { name }
  return { [[INSERT INTO certificate (name, kind, names, hook, subject, issuer, serial, not_before, not_after,
      failures, next_at, error, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 0, ?10, NULL, ?11)
    ON CONFLICT (name) DO UPDATE SET kind = ?2, names = ?3, hook = ?4, subject = ?5, issuer = ?6, serial = ?7,
      not_before = ?8, not_after = ?9, failures = 0, next_at = ?10, error = NULL, updated_at = ?11]],
    name, kind, json.encode(json.array(names)), hook or db.null, leaf.subject, leaf.issuer_name, leaf.serial,
    leaf.not_before, leaf.not_after, kind == "acme" and due(self, name, leaf) or db.null, clock.now() }
end

-- Rows are as their files say.
local function refresh(self)
  for _, row in ipairs(rows(self)) do
    local path = path_of(self, row.name)
    local ok, leaf = pcall(function()
      local bundle = fs.read(path)
      cert.fits(bundle, bundle)
      return cert.read(bundle)[1]
    end)
    if ok and (leaf.serial ~= row.serial or leaf.not_after ~= row.not_after) then
      self.d.store:commit { record(self, row.name, row.kind, leaf, row.hook) }
    elseif not ok and row.serial then
      log.warn(("the certificate of %s can't be read from %s: %s"):format(row.name, path, leaf.message))
      self.d.store:commit { { "UPDATE certificate SET serial = NULL, next_at = ? WHERE name = ?",
        row.kind == "acme" and clock.now() or db.null, row.name } }
    end
  end
end

---- hosts ----

local function routes(self)
  return self.d.store:all [[SELECT domain, tls, proxy_type, name AS app_name, project, environment
    FROM route JOIN app ON app.id = route.app WHERE tls <> 'off' AND proxy_type <> 'none' ORDER BY domain]]
end

-- Asked for by name, or brought: shown by every proxy. Others are nginx's, for its own hosts.
local function for_all(row) return row.kind == "own" or row.hook ~= nil end

local function bundles_for(list, hosts)
  local out, seen = {}, {}
  local shared = {}
  for _, row in ipairs(list) do
    if for_all(row) then shared[#shared + 1] = row end
  end
  for _, host in ipairs(hosts) do
    local row = host.tls == "auto" and host.proxy_type == "caddy" and best(shared, host.domain)
    host.row = row or host.tls == "auto" and host.proxy_type == "nginx" and best(list, host.domain) or nil
    if row and not seen[row.name] then
      seen[row.name] = true
      out[#out + 1] = row
    end
  end
  return out
end

local function all(self)
  local list, hosts = rows(self), routes(self)
  return list, hosts, bundles_for(list, hosts)
end

-- Gives the proxies what they are to show. Each looks itself whether anything has changed. Raises what one refuses.
local function show_all(self)
  local _, hosts, shown = all(self)
  local nginx, own = {}, {}
  for _, row in ipairs(shown) do
    local path = path_of(self, row.name)
    if fs.exists(path) then own[#own + 1] = { name = row.name, bundle = fs.read(path) } end
  end
  self.d.proxy:driver "caddy":set_own(own)
  for _, host in ipairs(hosts) do
    if host.tls == "auto" and host.proxy_type == "nginx" then nginx[#nginx + 1] = host.domain end
  end
  self.d.proxy:driver "nginx":recertify(nginx)
end

function Certs:spread()
  local _ <close> = self.lock:hold(self) -- a key that no host is called
  show_all(self)
end

---- keeping another ----

-- A row as it was.
local function restored(row)
  local columns, values = {}, {}
  for column, value in pairs(row) do columns[#columns + 1], values[#values + 1] = column, value end
  return { ("REPLACE INTO certificate (%s) VALUES (?%s)"):format(table.concat(columns, ", "),
    (", ?"):rep(#columns - 1)), table.unpack(values) }
end

-- Writes the file, then the row, and has the proxies show it. Where one refuses it, all is put back. Nobody else
-- has them show anything meanwhile, and takes the refusal for his own.
local function keep(self, name, kind, bundle, event, hook)
  local leaf, path, row = cert.read(bundle)[1], path_of(self, name), row_of(self, name)
  local _ <close> = self.lock:hold(self)
  local had = fs.exists(path) and fs.read(path)
  fs.mkdir(self.dir, 448)
  fs.write(path, bundle, 384) -- 0600
  self.d.store:commit { record(self, name, kind, leaf, hook) }
  local ok, e = pcall(show_all, self)
  if not ok then
    if e.code == "cancelled" then error(e, 0) end
    if had then fs.write(path, had, 384) else fs.remove(path) end
    self.d.store:commit { row and restored(row) or { "DELETE FROM certificate WHERE name = ?", name } }
    pcall(show_all, self)
    error(e, 0)
  end
  self.d.store:commit { self.d.store:event(event, nil, nil, { domain = name, serial = leaf.serial,
    expiry = clock.format(leaf.not_after) }) }
end

---- asking the authority ----

-- Doubles with each failure, and is never quite the same for two hosts.
local function wait_after(self, failures)
  local wait = math.min(MOST_WAIT, self.d.options.acme_retry * 2 ^ math.min(failures - 1, 20))
  return math.floor(wait * (0.9 + 0.2 * math.random()))
end

local function failed(self, row, e)
  local failures = row.failures + 1
  local wait = wait_after(self, failures)
  local told = type(e.data) == "table" and e.data.retry_at
  local next_at = math.max(clock.now() + wait, math.min(told or 0, clock.now() + 7 * DAY))
  self.failures:add(1, row.name)
  self.d.store:commit {
    { "UPDATE certificate SET failures = ?, next_at = ?, error = ?, updated_at = ? WHERE name = ?", failures,
      next_at, json.encode { code = e.code or "internal", message = e.message or tostring(e), hint = e.hint },
      clock.now(), row.name },
    self.d.store:event("cert.failed", nil, nil, { domain = row.name, error = { code = e.code, message = e.message },
      next_at = clock.format(next_at) }),
  }
end

-- What the authority gave is looked at before anybody else sees it. -> what is kept of it
local function take(row, names, chain, key)
  local leaf = cert.read(chain)[1]
  for _, name in ipairs(names) do
    if not check.covers(leaf.names, name) then
      err.raise("cert_failed", ("the authority was asked for %s and gave a certificate for %s"):format(name,
        table.concat(leaf.names, ", ")), "it isn't shown; see who answers at acme_directory")
    end
  end
  local ok, bundle = pcall(check.check, row.name, chain, key, clock.now())
  if ok then return bundle end
  err.raise("cert_failed", "the authority gave a certificate that is no good: " .. bundle.message, bundle.hint)
end

-- A deploy of the same app may be under way.
local function start_run(self, request)
  local deadline = clock.monotonic() + RUN_WAIT
  while true do
    local ok, run = pcall(self.d.runs.start, self.d.runs, request)
    if ok then return run end
    if run.code ~= "run_conflict" or clock.monotonic() > deadline then error(run, 0) end
    task.sleep(200)
  end
end

-- A TXT record: a run of the user's recipe, whose end is waited for.
local function dns_of(self, row)
  if not row.hook then return nil end
  local hook = json.decode(row.hook)
  return function(act, name, value)
    local d = self.d
    local app = d.apps:get { app_name = hook.app, project = hook.project, environment = hook.environment }
    local run = start_run(self, { app = app, recipe = hook.recipe, owner = "the certificate of " .. row.name,
      params = { app = app.name, act = act, name = name, value = value } })
    local ended = d.runs:wait(run)
    if ended.state == "done" then return end
    local e = json.decode(ended.error or ended.reason)
    err.raise("cert_failed", ("the recipe %s didn't %s the record %s: %s"):format(hook.recipe, act, name, e.message),
      "`ndctl runs show " .. ended.id .. "`")
  end
end

-- Asks now, for a row. Raises what went wrong, after it has been recorded.
local function issue(self, name)
  local _ <close> = self.lock:hold(name)
  local row = row_of(self, name)
  if not row or row.kind ~= "acme" then return end -- an import came first
  local names = { name }
  local ok, e = pcall(function()
    local chain, key = self.acme:issue { names = names, dns = dns_of(self, row) }
    keep(self, name, "acme", take(row, names, chain, key), "cert.issued", row.hook)
  end)
  if ok then return end
  if e.code == "cancelled" then error(e, 0) end
  log.warn(("no certificate for %s: %s"):format(name, e.message or tostring(e)))
  failed(self, row, e)
  error(e, 0)
end

---- looking after them ----

-- Every host of nginx that shows none of ours gets a row, and so is asked for.
local function order_missing(self, hosts)
  for _, host in ipairs(hosts) do
    if host.tls == "auto" and host.proxy_type == "nginx" and not host.row and not row_of(self, host.domain) then
      self.d.store:commit { { [[INSERT INTO certificate (name, kind, names, next_at, updated_at)
        VALUES (?1, 'acme', ?2, ?3, ?3)]], host.domain, json.encode(json.array { host.domain }), clock.now() } }
    end
  end
end

-- A row without a host isn't asked for again; the file stays, for a host that comes back.
local function wanted(row, hosts)
  if row.kind ~= "acme" then return false end
  if row.hook then return true end
  for _, host in ipairs(hosts) do
    if host.domain == row.name then
      return host.tls == "auto" and host.proxy_type == "nginx" and (not host.row or host.row.name == row.name)
    end
  end
  return false
end

local function warn_of(self, name, not_before, not_after)
  local late = clock.now() > not_after - (not_after - not_before) // WARN_SHARE
  if late and self.warned[name] ~= not_after then
    self.warned[name] = not_after
    log.warn(("the certificate of %s expires on %s"):format(name, clock.format(not_after)))
    self.d.store:post { self.d.store:event("cert.expiring", nil, nil, { domain = name,
      expiry = clock.format(not_after) }) }
  end
end

-- A slow authority keeps nobody else waiting.
local function ask_for(self, list)
  for _, row in ipairs(list) do
    if self.count < AT_ONCE and not self.asking[row.name] then
      self.asking[row.name], self.count = true, self.count + 1
      task.spawn("certificate of " .. row.name, function()
        pcall(issue, self, row.name)
        self.asking[row.name], self.count = nil, self.count - 1
        self.woken:notify()
      end)
    end
  end
end

-- Caddy looks at a certificate when somebody asks for its host: we do, where one is due. -> when to look again
local function look_at_caddy(self, host)
  local driver = self.d.proxy:driver "caddy"
  local info = driver.certificates:find(host.domain)
  if not info then return clock.now() + MINUTE end
  local life = info.not_after - info.not_before
  if not info.standby then warn_of(self, host.domain, info.not_before, info.not_after) end
  local at = info.not_after - life // 3 + LEAST_WAIT
  if clock.now() < at then return at end
  if driver.state == "up" then driver:touch(host.domain) end
  self.tried[host.domain] = (self.tried[host.domain] or 0) + 1
  return clock.now() + math.min(MINUTE, LEAST_WAIT * 2 ^ math.min(self.tried[host.domain], 10))
end

local function attend(self)
  local ok, e = pcall(self.spread, self)
  if not ok then -- which keeps nobody from a new one
    if e.code == "cancelled" then error(e, 0) end
    log.warn("certificates: " .. tostring(e.message or e))
  end
  local now, next_at = clock.now(), clock.now() + MINUTE
  local _, hosts = all(self)
  order_missing(self, hosts)
  local due_rows, due_hosts = {}, {}
  for _, row in ipairs(rows(self)) do
    if row.serial then warn_of(self, row.name, row.not_before, row.not_after) end
    if wanted(row, hosts) then
      if row.next_at > now then next_at = math.min(next_at, row.next_at)
      else due_rows[#due_rows + 1] = row end
    end
  end
  for _, host in ipairs(hosts) do
    if host.tls == "auto" and host.proxy_type == "caddy" and not host.row then
      local at = self.at[host.domain] or 0
      if at <= now then due_hosts[#due_hosts + 1] = host else next_at = math.min(next_at, at) end
    end
  end
  ask_for(self, due_rows)
  tasks.each("certificate", due_hosts, function(host) self.at[host.domain] = look_at_caddy(self, host) end, AT_ONCE)
  return #due_hosts > 0 and now or next_at
end

function Certs:start()
  refresh(self)
  self.acme:tidy()
  task.spawn("certificates", function()
    while not self.d.stopping do
      local ok, at = pcall(attend, self)
      if not ok then
        if at.code == "cancelled" then return end
        log.warn("certificates: " .. tostring(at.message or at))
        at = clock.now() + 10 * LEAST_WAIT
      end
      self.woken:wait(math.max(100, math.min(MINUTE, at - clock.now())))
    end
  end)
end

function Certs:wake()
  self.at, self.tried = {}, {}
  self.woken:notify()
end

---- as people see them ----

local function state_of(now, not_before, not_after, problem)
  if not not_after then return problem and "failing" or "pending" end
  if now > not_after then return "expired" end
  if problem then return "failing" end
  if now > not_after - (not_after - not_before) // WARN_SHARE then return "expiring" end
  return "valid"
end

local function shown_row(self, row, hosts)
  local problem = row.error and json.decode(row.error)
  local out = { domain = row.name, names = json.array(json.decode(row.names)), source = row.kind,
    subject = row.subject, issuer = row.issuer, serial = row.serial, hosts = json.array {},
    expiry = row.serial and clock.format(row.not_after),
    state = state_of(clock.now(), row.serial and row.not_before, row.serial and row.not_after, problem),
    renewal = row.kind == "acme" and row.next_at and clock.format(row.next_at) or nil,
    message = problem and problem.message, hint = problem and problem.hint }
  if row.kind == "own" and not row.serial then
    out.state, out.message = "failing", "its file is missing: " .. path_of(self, row.name)
    out.hint = "import it again"
  end
  for _, host in ipairs(hosts) do
    local waits = not host.row and host.domain == row.name and host.tls == "auto" and host.proxy_type == "nginx"
    if waits or host.row and host.row.name == row.name then
      out.hosts[#out.hosts + 1] = host.domain
      out.proxy_type = out.proxy_type or host.proxy_type
    end
  end
  if #out.hosts == 0 and row.kind == "acme" and not row.hook then
    out.renewal = wanted(row, hosts) and out.renewal or nil
  end
  return out
end

-- What a host shows that is none of the rows'.
local function found_at(self, host)
  local driver = self.d.proxy:driver(host.proxy_type)
  if host.proxy_type == "caddy" then
    local info = driver.certificates:find(host.domain)
    return info, host.tls == "auto" and (not info or info.own_authority) or nil
  end
  return driver:find(host.domain), host.tls == "auto" or nil
end

local function shown_host(self, host)
  local info, pending = found_at(self, host)
  local problem = host.tls == "auto" and host.proxy_type == "caddy" and (pending or
    info and clock.now() > info.not_after - (info.not_after - info.not_before) // 4)
    and self.d.proxy:driver "caddy".certificates:problem(host.domain) or nil
  return { domain = host.domain, names = json.array { host.domain }, hosts = json.array { host.domain },
    proxy_type = host.proxy_type, source = host.tls == "auto" and host.proxy_type or "internal",
    subject = info and info.subject, issuer = info and info.issuer_name, serial = info and info.serial,
    expiry = info and clock.format(info.not_after),
    state = pending and (problem and "failing" or "pending")
      or state_of(clock.now(), info and info.not_before, info and info.not_after, problem),
    renewal = info and not pending and clock.format(info.not_after - (info.not_after - info.not_before) // 3) or nil,
    message = problem, hint = problem and "Caddy asks again by itself; the name must lead to this host" }
end

function Certs:list()
  local list, hosts = all(self)
  local out, named = json.array {}, {}
  for _, row in ipairs(list) do
    named[row.name] = true
    out[#out + 1] = shown_row(self, row, hosts)
  end
  for _, host in ipairs(hosts) do
    if not host.row and not (named[host.domain] and host.proxy_type == "nginx" and host.tls == "auto") then
      out[#out + 1] = shown_host(self, host)
    end
  end
  table.sort(out, function(a, b) return a.domain < b.domain end)
  return out
end

local function not_found(name)
  err.raise("cert_not_found", ("there is no certificate of %s"):format(name), "`ndctl certs list` shows all; "
    .. "`ndctl proxy set HOST --app APP --tls auto` has a host get one")
end

function Certs:show(name)
  name = check.name(name)
  local covering
  for _, shown in ipairs(self:list()) do
    if shown.domain == name then return shown end
    if #shown.hosts > 0 and check.covers(shown.hosts, name) then covering = shown end
  end
  return covering or not_found(name)
end

---- what people do ----

function Certs:import(name, certificate, key)
  name = check.name(name)
  local bundle = check.check(name, certificate, key, clock.now())
  do
    local _ <close> = self.lock:hold(name)
    keep(self, name, "own", bundle, "cert.imported")
  end
  self:wake()
  return self:show(name)
end

function Certs:order(name, hook)
  name = check.name(name)
  local app = self.d.apps:get(hook)
  local row = row_of(self, name)
  if row and row.kind == "own" then
    err.raise("cert_own", ("%s has a certificate of your own"):format(name), ("`ndctl certs rm %s` first"):format(name))
  end
  self.d.recipes:files(hook.recipe) -- raises where there is none
  self.d.store:commit { { [[INSERT INTO certificate (name, kind, names, hook, next_at, updated_at)
    VALUES (?1, 'acme', ?2, ?3, ?4, ?5) ON CONFLICT (name) DO UPDATE SET hook = ?3, next_at = ?4, updated_at = ?5
      WHERE kind = 'acme']],
    name, json.encode(json.array { name }), json.encode { recipe = hook.recipe, app = app.name, project = app.project,
      environment = app.environment }, clock.now() + MINUTE, clock.now() } }
  issue(self, name)
  return self:show(name)
end

function Certs:rotate(name)
  local shown = self:show(name)
  local row = row_of(self, shown.domain)
  if shown.source == "own" then
    err.raise("cert_own", ("the certificate of %s is your own: nobody else can make a new one"):format(shown.domain),
      ("`ndctl certs import %s --cert FILE --key FILE`"):format(shown.domain))
  elseif row then
    issue(self, row.name)
  elseif shown.source == "caddy" then
    self.d.proxy:driver "caddy":renew(shown.domain, CADDY_WAIT)
    self.d.store:post { self.d.store:event("cert.issued", nil, nil, { domain = shown.domain }) }
  else
    self.d.proxy:driver(shown.proxy_type):remake(shown.domain)
  end
  return self:show(name)
end

function Certs:remove(name)
  name = check.name(name)
  local row = row_of(self, name) or not_found(name)
  local _, hosts = all(self)
  local was = shown_row(self, row, hosts)
  do
    local _ <close> = self.lock:hold(name)
    self.d.store:commit { { "DELETE FROM certificate WHERE name = ?", name },
      self.d.store:event("cert.removed", nil, nil, { domain = name }) }
    self:spread() -- before its file goes
    if fs.exists(path_of(self, name)) then fs.remove(path_of(self, name)) end
  end
  self:wake()
  return was
end

---- metrics and doctor ----

-- A name that has one in store and shows another (its host is `internal`, say) is told by what it shows.
function Certs:gauge()
  local values, of = {}, {}
  for _, c in ipairs(self:list()) do
    local value = of[c.domain]
    if c.expiry and not value then
      value = { labels = { { "domain", c.domain } } }
      values[#values + 1], of[c.domain] = value, value
    end
    if c.expiry and (not value[1] or #c.hosts > 0) then value[1] = instant.ms("expiry", c.expiry) / 1000 end
  end
  return values
end

function Certs:check()
  local bad, first = {}, nil
  local list = self:list()
  for _, c in ipairs(list) do
    if c.state ~= "valid" and c.state ~= "pending" then
      bad[#bad + 1] = ("%s is %s"):format(c.domain, c.state)
      first = first or c
    end
  end
  return { name = "certificates", ok = #bad == 0,
    message = #bad == 0 and ("%d, none of them late"):format(#list)
      or table.concat(bad, ", ") .. (first.message and ": " .. first.message or ""),
    hint = first and (first.hint or ("`ndctl certs show %s`"):format(first.domain)) or nil }
end

return Certs
