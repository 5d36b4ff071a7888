-- nginx.lua - nginx as the proxy: a file a host, checked before it is loaded, put back when refused.
--
-- nginx is reloaded when a host or its certificate comes or goes, and at no other time. It is never
-- our child: systemd or a script runs `nginx -c <state_dir>/proxy/nginx/nginx.conf`, and we find it
-- by its pid file. A reload has happened once the front door answers with the new revision and no
-- worker of before accepts any more: only then does `set` return. What these workers had, as
-- WebSockets, they keep until it ends.
--
--   nginx.new{ instance=, dir=, run=, marks=, authority=, http_port=, https_port=, address="",
--              shared_port=whether Caddy's are the same, on_event=,
--              bundle=function(host) -> path, mark | nil: a certificate for `tls = auto` }
--   n:find(host) -> cert.read's first | nil     parks; the certificate of the host's own authority
--   n:remake(host)         parks; makes it anew
--   n:recertify(hosts)     parks; `bundle` answers otherwise than before: one reload for all that changed
--   The rest is what proxy.lua asks of a driver. `set`, `remove` and `replace` raise proxy_refused,
--   with nginx's own words, and leave everything as it was. Where nginx doesn't run the files are
--   written all the same, for when it does.

local cert = require "cert"
local clock = require "clock"
local crypto = require "crypto"
local fs = require "fs"
local process = require "process"
local task = require "task"
local err = require "nd.error"
local authority = require "nd.service.proxy.authority"
local config = require "nd.service.proxy.nginx_config"
local driver = require "nd.service.proxy.driver"

local nginx = {}
local Nginx = {}
Nginx.__index = Nginx

local TAKES = 15000      -- ms; a reload of 1,000 hosts takes 0.3 s here
local RENEW_EVERY = 24 * 3600 * 1000
local PATH = { PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" }

function nginx.new(o)
  o.name, o.state = "nginx", "unknown"
  o.conf, o.certs = o.dir .. "/nginx.conf", o.dir .. "/certs"
  o.files = nil          -- what is on disk: name in `dir` -> text
  o.free = task.signal()
  o.renewed = 0
  return setmetatable(o, Nginx)
end

-- One change at a time: a reload shows what all of them left.
local function locked(self, fn, ...)
  while self.busy do self.free:wait() end
  self.busy = true
  local ok, result = pcall(fn, self, ...)
  self.busy = false
  self.free:notify()
  if not ok then error(result, 0) end
  return result
end

---- files ----

local function read_files(self)
  if self.files then return end
  fs.mkdir(self.dir .. "/hosts", 493)
  fs.mkdir(self.run, 493)
  local files = {}
  for _, dir in ipairs { "", "hosts/" } do
    for _, name in ipairs(fs.list(self.dir .. "/" .. dir)) do
      if name:find("%.conf$") then files[dir .. name] = fs.read(self.dir .. "/" .. dir .. name) end
    end
  end
  self.files = files
end

-- Names the whole of what nginx is to serve.
local function revision(self)
  local names, all = {}, {}
  for name in pairs(self.files) do
    if name ~= "revision.conf" then names[#names + 1] = name end
  end
  table.sort(names)
  for i, name in ipairs(names) do all[i] = name .. "\n" .. self.files[name] end
  return crypto.sha256(table.concat(all)):sub(1, 12)
end

-- changes: name -> text, or false: removed. -> what undoes them; nil when there is nothing to do
local function write(self, changes)
  local before
  for name, text in pairs(changes) do
    local had = self.files[name] or false
    if had ~= text then
      before = before or {}
      before[name] = had
      if text then
        fs.write(self.dir .. "/" .. name, text, 420) -- 0644
      else
        fs.remove(self.dir .. "/" .. name)
      end
      self.files[name] = text or nil
    end
  end
  return before
end

local function write_revision(self)
  write(self, { ["revision.conf"] = config.revision(revision(self)) })
end

---- the program ----

local function run(self, ...)
  local ok, r = pcall(process.run, { argv = { "nginx", "-c", self.conf, ... }, env = PATH,
    timeout_ms = 20000 })
  if ok then return r end
  if r.code == "process_start" then return nil end
  error(r, 0)
end

local function first_line(text)
  return text:match("%[emerg%][^\n]*") or text:gsub("%s+$", ""):match("[^\n]*$")
end

-- -> whether nginx would take the files, and why not. Without an nginx nobody can say.
local function test(self)
  local r = run(self, "-t", "-q")
  if not r or r.status == 0 then return true end
  return false, first_line(r.stderr)
end

local function read(path)
  local ok, text = pcall(fs.read, path)
  return ok and text or ""
end

-- The master's pid where it runs with our configuration. A pid file may be older than a reboot.
local function master(self)
  local pid = read(self.run .. "/nginx.pid"):match "^(%d+)"
  local line = pid and read(("/proc/%s/cmdline"):format(pid)):gsub("%z", " ") or ""
  return line:find("nginx: master", 1, true) and line:find(self.conf, 1, true) and pid or nil
end

-- The workers that take new connections.
local function accepting(pid)
  local out = {}
  for child in read(("/proc/%s/task/%s/children"):format(pid, pid)):gmatch "%d+" do
    local line = read(("/proc/%s/cmdline"):format(child))
    if line:find("worker process", 1, true) and not line:find("shutting down", 1, true) then
      out[child] = true
    end
  end
  return out
end

-- -> revision, whether workers see the marks; nil, why
local function identity(self)
  local r, why = driver.get(self, config.ID)
  if not r then return nil, why end
  local instance, found, sight = r.body:match "^(%x+) (%x+) (%a+)$"
  if r.status ~= 200 or instance ~= self.instance then
    return nil, ("something else answers on port %d (status %d)"):format(self.http_port, r.status)
  end
  return found, sight == "sees"
end

-- -> whether a reload has happened, and what shows that it hasn't
local function taken(self, pid, before, wanted)
  for worker in pairs(accepting(pid)) do
    if before[worker] then return false, "its worker " .. worker .. " goes on as before" end
  end
  local found, why = identity(self)
  if found == wanted then return true end
  return false, found and ("it answers with revision %s instead of %s"):format(found, wanted) or why
end

-- What it said since its log had `from` bytes: the first complaint, which is the reason, and whether
-- it has given up. It tries to bind for 2.5 s.
local function complaint(self, from)
  local file = io.open(self.dir .. "/error.log")
  if not file then return nil end
  file:seek("set", from)
  local text = file:read(4096) or ""
  file:close()
  local why = text:match "%[emerg%][^\n]*"
  return why, why and (not why:find("bind()", 1, true) or text:find("still could not bind", 1, true) ~= nil)
end

-- -> whether it serves what the files say now, and why not
local function reload(self, pid)
  local before, wanted = accepting(pid), revision(self)
  local log = fs.stat(self.dir .. "/error.log")
  local from = log and log.size or 0
  local r = run(self, "-s", "reload")
  if not r or r.status ~= 0 then return false, r and first_line(r.stderr) or "nginx is gone" end
  local deadline = clock.monotonic() + TAKES
  local ok, seen
  repeat
    ok, seen = taken(self, pid, before, wanted)
    if ok then return true end
    local why, final = complaint(self, from)
    if final then return false, why end
    if not master(self) then return false, "it ended: " .. (why or "see its log") end
    task.sleep(10)
  until clock.monotonic() > deadline
  return false, (complaint(self, from)) or ("after %d s %s"):format(TAKES / 1000, seen)
end

local function down(self)
  local r = run(self, "-v")
  return driver.down(self, r and "nginx doesn't run with " .. self.conf
    or "nginx isn't installed on this host",
    (r and "start it: " or "apt-get install nginx-light, and start it: ") .. "nginx -c " .. self.conf
      .. (self.shared_port and "; where Caddy runs too, give nginx ports of its own: nginx_http_port, "
      .. "nginx_https_port" or ""))
end

local function refused(self, why)
  return driver.refused(self, "nginx doesn't serve as configured: " .. why,
    "nginx -t -c " .. self.conf .. "; what it served before goes on")
end

---- the driver ----

-- Writes the changes, has them checked and loaded; puts everything back when they aren't taken.
local function apply(self, changes)
  read_files(self)
  local before = write(self, changes)
  if not before then return end
  write_revision(self)
  local pid = master(self)
  local ok, why = test(self)
  if ok and pid then ok, why = reload(self, pid) end
  if ok then
    if pid then driver.set_state(self, "up") end
    return
  end
  write(self, before)
  write_revision(self)
  if pid and master(self) then pcall(reload, self, pid) end
  err.raise("proxy_refused", "nginx refused the new configuration: " .. why,
    "it serves on as before; the files are in " .. self.dir)
end

function Nginx:write_config()
  locked(self, function()
    read_files(self)
    local o = setmetatable({ ipv6 = fs.exists "/proc/net/if_inet6" }, { __index = self })
    if write(self, config.shared(o)) or not self.files["revision.conf"] then write_revision(self) end
  end)
end

-- One by the host's own authority. -> whether it was made anew
local function certificate(self, host, anew)
  local path = self.certs .. "/" .. host
  local have = not anew and fs.stat(path .. ".crt")
  if have and clock.now() - have.mtime < authority.RENEW and fs.exists(path .. ".key") then return false end
  fs.mkdir(self.certs, 448)
  local pem, key = self.authority:make(host)
  authority.private(path .. ".key", key)
  authority.private(path .. ".crt", pem)
  return true
end

-- A host's file; its certificate is there afterwards. Without a public one it has the one of `internal`.
local function host_file(self, host, at, tls, canary)
  local bundle, mark
  if tls == "auto" then bundle, mark = self.bundle(host) end
  if tls ~= "off" and not bundle then certificate(self, host) end
  return config.host { host = host, at = at, tls = tls, canary = canary, certs = self.certs, bundle = bundle,
    mark = mark, marks = self.marks, run = self.run, https_port = self.https_port }
end

local function name_of(host) return "hosts/" .. host .. ".conf" end

function Nginx:set(host, at, tls, canary)
  locked(self, function() apply(self, { [name_of(host)] = host_file(self, host, at, tls, canary) }) end)
end

function Nginx:remove(host)
  locked(self, function()
    apply(self, { [name_of(host)] = false })
    for _, suffix in ipairs { ".crt", ".key" } do
      local path = self.certs .. "/" .. host .. suffix
      if fs.exists(path) then fs.remove(path) end
    end
  end)
end

function Nginx:list()
  read_files(self)
  local out = {}
  for name, text in pairs(self.files) do
    local host = name:match "^hosts/(.+)%.conf$"
    if host then
      out[#out + 1] = { host = host, at = text:match "server (%d[%d.]+:%d+) ",
        tls = text:match "\n# tls (%l+)" or text:find("listen-tls", 1, true) and "internal" or "off" }
    end
  end
  return out
end

function Nginx:find(host)
  local ok, list = pcall(function() return cert.read(fs.read(self.certs .. "/" .. host .. ".crt")) end)
  return ok and list[1] or nil
end

function Nginx:remake(host)
  locked(self, function()
    certificate(self, host, true)
    local pid = master(self)
    local ok, why = test(self)
    if ok and pid then ok, why = reload(self, pid) end
    if not ok then err.raise("proxy_refused", "nginx refused the new certificate: " .. why) end
  end)
end

function Nginx:recertify(hosts)
  locked(self, function()
    read_files(self)
    local changes = {}
    for _, host in ipairs(hosts) do
      local text = self.files[name_of(host)]
      if text and text:find("\n# tls auto", 1, true) then
        local path, mark = self.bundle(host)
        if not path then certificate(self, host) end
        changes[name_of(host)] = config.certified(text, self.certs, host, path, mark)
      end
    end
    if next(changes) then apply(self, changes) end
  end)
end

-- At the daemon's start. What nginx refuses then is its state, and nobody's error.
function Nginx:replace(routes)
  local ok, e = pcall(locked, self, function()
    read_files(self)
    local changes = {}
    for name in pairs(self.files) do
      if name:find("^hosts/") then changes[name] = false end
    end
    for host, r in pairs(routes) do changes[name_of(host)] = host_file(self, host, r.at, r.tls, r.canary) end
    apply(self, changes)
  end)
  if ok then return end
  if e.code == "cancelled" then error(e, 0) end
  refused(self, e.message or tostring(e))
end

-- What a canary's host answered. Nobody but us keeps this file from growing.
function Nginx:answers_log() return self.run .. "/answers.log", true end

-- A line of it -> host, release, status, seconds
function Nginx.answer(_, line)
  local host, release, status, seconds = line:match "^(%S+) (%d+) (%d+) ([%d.]+)$"
  return host, tonumber(release), tonumber(status), tonumber(seconds)
end

-- Certificates that have become old; nginx has to load them.
local function renew(self)
  if clock.now() - self.renewed < RENEW_EVERY then return false end
  self.renewed = clock.now()
  local any = false
  for _, r in ipairs(self:list()) do
    any = r.tls ~= "off" and not (r.tls == "auto" and self.bundle(r.host)) and certificate(self, r.host) or any
  end
  return any
end

local function sync(self)
  read_files(self)
  local pid = master(self)
  if not pid then return down(self) end
  local found, sees = identity(self)
  if renew(self) or found ~= revision(self) then
    local ok, why = test(self)
    if ok then ok, why = reload(self, pid) end
    if not ok then return refused(self, why) end
    found, sees = identity(self)
  end
  if not found then return refused(self, sees) end
  if not sees then
    return refused(self, "its workers can't look into " .. self.marks)
  end
  return driver.set_state(self, "up")
end

function Nginx:sync() return locked(self, sync) end

function Nginx:check()
  return locked(self, function()
    read_files(self)
    if not master(self) then return down(self) end
    local found, sees = identity(self)
    if not found then return refused(self, sees) end
    if found ~= revision(self) then return refused(self, "it runs another one than " .. self.conf) end
    if not sees then return refused(self, "its workers can't look into " .. self.marks) end
    return driver.set_state(self, "up")
  end)
end

return nginx
