-- What a container may be given, and by whom: one row for each setting that says more of it than what it
-- runs. An admin may give all that is here; who is none, only what leaves the host and its other
-- containers out of reach. What isn't here is given by nobody: an app's container has its own network,
-- since service addresses lead there, and Docker's own seccomp and AppArmor profiles.
--
--   container = { read_only = true, cap_drop = { "ALL" }, cap_add = { "NET_BIND_SERVICE" } }
--
--   policy.settings           the rows of `container`, by name:
--     type                    of the value: "boolean" | "string" | "list" (of texts) | "map" (of texts)
--     wrong(value) -> why     beyond its type; nil where it may be
--     beyond(value) -> text   what of it needs an admin; nil where anybody may
--     docker                  its name in Docker's HostConfig; put(value) -> Docker's form
--   policy.read(value)        of a request: checked; raises bad_request
--   policy.volume(v)          the same of a volume: {name | host, path, shared, read_only}
--   policy.check(rights, app, config)   raises `policy` where the rights are no admin's and it says more
--   policy.enforce(d, owner, app, config)   the same for whoever began a run, with the volumes that Docker
--                             has under these names; waits
--   policy.put(host, config)  into Docker's HostConfig
--
-- The host's files are an admin's to give, however their path is written: a link or `..` makes no
-- difference, since a path of the host as such is beyond anybody else. So is a volume of an app that one may
-- not deploy, since Docker has one volume of a name on the whole host; a name that is new is anybody's.

local json = require "json"
local who = require "nd.service.who"
local err = require "nd.error"
local permission = require "nd.permission"
local Process = require "nd.service.process"
local release_config = require "nd.service.release_config"

local M = {}

local function set(words)
  local out = {}
  for word in words:gmatch "%S+" do out[word] = true end
  return out
end

-- What Docker gives unasked (20.10; moby/profiles): asking for it again, after cap_drop, is harmless.
local usual_caps = set [[AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP
  SETGID SETPCAP SETUID SYS_CHROOT]]
-- The kernel keeps these by network or IPC namespace, and they reach nobody outside of it.
local safe_sysctls = set [[net.core.somaxconn net.ipv4.ip_local_port_range net.ipv4.ip_unprivileged_port_start
  net.ipv4.ping_group_range net.ipv4.tcp_fin_timeout net.ipv4.tcp_keepalive_intvl net.ipv4.tcp_keepalive_probes
  net.ipv4.tcp_keepalive_time net.ipv4.tcp_syncookies kernel.shm_rmid_forced]]
-- Drivers' options under which a volume is not a part of the host's file system.
local remote = set "nfs nfs4 cifs tmpfs"

local function capability(text) return (text:upper():gsub("^CAP_", "")) end

-- A row's `beyond` for lists and maps: the first entry that `allowed` doesn't know.
local function only(allowed)
  return function(value)
    for key, item in pairs(value) do
      local entry = math.type(key) and item or key
      if not allowed(entry) then return entry end
    end
  end
end

-- A namespace of the host's, or of another container's.
local function namespace(docker)
  return { type = "string", docker = docker, beyond = function(v) return v end,
    wrong = function(v) return v ~= "host" and 'must be "host"' or nil end }
end

local function device(text)
  local from, to, mode = text:match "^(/[^:]*):?([^:]*):?([rwm]*)$"
  return from and { PathOnHost = from, PathInContainer = to ~= "" and to or from,
    CgroupPermissions = mode ~= "" and mode or "rwm" }
end

M.settings = {
  privileged = { type = "boolean", docker = "Privileged", beyond = function(v) return v and "true" or nil end },
  pid = namespace "PidMode",
  ipc = namespace "IpcMode",
  userns = namespace "UsernsMode",
  network = { type = "string", wrong = function() return "an app's container has a network of its own" end },
  devices = { type = "list", docker = "Devices", beyond = only(function() return false end),
    wrong = function(list)
      for _, text in ipairs(list) do
        if not device(text) then return "each is /dev/NAME, or /dev/NAME:/dev/NAME:rwm" end
      end
    end,
    put = function(list)
      local out = json.array {}
      for i, text in ipairs(list) do out[i] = device(text) end
      return out
    end },
  cap_add = { type = "list", docker = "CapAdd",
    beyond = only(function(text) return usual_caps[capability(text)] end) },
  cap_drop = { type = "list", docker = "CapDrop", beyond = function() end },
  security_opt = { type = "list", docker = "SecurityOpt",
    beyond = only(function(text) return text == "no-new-privileges" or text == "no-new-privileges:true" end) },
  sysctls = { type = "map", docker = "Sysctls", beyond = only(function(name) return safe_sysctls[name] end) },
  read_only = { type = "boolean", docker = "ReadonlyRootfs", beyond = function() end },
}

-- ---- what a request says ----

local function bad(field, why, hint) err.raise("bad_request", field .. ": " .. why, hint) end

local function text(v) return type(v) == "string" and not v:find "%z" end

-- Does `v` have this type?
local fits = {
  boolean = function(v) return type(v) == "boolean" end,
  string = text,
  list = function(v)
    if type(v) ~= "table" then return false end
    for key, item in pairs(v) do
      if math.type(key) ~= "integer" or not text(item) then return false end
    end
    return true
  end,
  map = function(v)
    if type(v) ~= "table" then return false end
    for name, item in pairs(v) do
      if type(name) ~= "string" or not text(item) then return false end
    end
    return true
  end,
}
local called = { boolean = "true or false", string = "a text", list = "a list of texts", map = "an object of texts" }

function M.read(value)
  if type(value) ~= "table" then bad("container", "must be an object of settings") end
  local out = {}
  for name, given in pairs(value) do
    local row, field = M.settings[name], "container." .. tostring(name)
    if not row then
      local names = {}
      for known in pairs(M.settings) do names[#names + 1] = known end
      table.sort(names)
      local near = err.nearest(tostring(name), names)
      bad("container", ("there is no setting '%s'"):format(tostring(name)), near and ("did you mean '%s'?"):format(near)
        or "the settings are " .. table.concat(names, ", "))
    end
    if not fits[row.type](given) then bad(field, "must be " .. called[row.type]) end
    local why = row.wrong and row.wrong(given)
    if why then bad(field, why) end
    out[name] = row.type == "list" and json.array(given) or given
  end
  return out
end

-- Where nothing of an app's may be mounted: what starts it, its secrets, and the kernel's own.
local taken = { "/", "/.nextdeploy", "/run/secrets", "/proc", "/sys", "/dev" }

local function check_target(path)
  if not path:find "^/" or path:find("%z") or (path .. "/"):find "/%.%.?/" then
    bad("volumes", ("%s is no place in a container"):format(path), 'write it whole, without "." and ".."')
  end
  local plain = (path .. "/"):gsub("/+", "/")
  for _, dir in ipairs(taken) do
    if plain == dir .. "/" or plain == dir or dir ~= "/" and plain:sub(1, #dir + 1) == dir .. "/" then
      bad("volumes", ("nothing can be mounted at %s"):format(path), "choose a directory of the app's own")
    end
  end
end

local VOLUME = "each is NAME:/path or {name, path, shared}; an admin's may be /host/path:/path[:ro] or "
  .. "{host, path, read_only}"

function M.volume(v)
  if type(v) == "string" then
    local from, path, mode = v:match "^([^:]+):(/[^:]*):?([^:]*)$"
    if not from or mode ~= "" and mode ~= "ro" then bad("volumes", VOLUME .. ", got " .. json.encode(v)) end
    v = { [from:find "^/" and "host" or "name"] = from, path = path, read_only = mode == "ro" or nil }
  end
  if type(v) ~= "table" or type(v.path) ~= "string" or (v.name == nil) == (v.host == nil) then
    bad("volumes", VOLUME)
  end
  if v.name and not (type(v.name) == "string" and v.name:match "^[%w][%w_.-]*$")
    or v.host and not (type(v.host) == "string" and v.host:match "^/[^%z:]*$") then
    bad("volumes", VOLUME .. ", got " .. json.encode(v.name or v.host))
  end
  check_target(v.path)
  return { name = v.name, host = v.host, path = v.path, shared = v.shared == true or nil,
    read_only = v.read_only == true or nil }
end

-- ---- who may ----

local function refuse(app, what)
  err.raise("policy", ("only an admin may give a container of '%s' %s"):format(app, what),
    "leave it out, or have an admin deploy it; recipes/README.md has the whole policy")
end

-- Each process as it would run, the release command too.
local function processes_of(config)
  local list = Process.list(config)
  list[#list + 1] = Process.of(config, "release")
  return list
end

function M.check(rights, app, config)
  if permission.allows(rights, "admin") then return end
  for _, process in ipairs(processes_of(config)) do
    for name, value in pairs(process.container or {}) do
      local what = M.settings[name].beyond(value)
      if what then refuse(app, ("%s = %s"):format(name, what)) end
    end
    for _, v in ipairs(process.volumes or {}) do
      if v.host then refuse(app, ("the host's %s"):format(v.host)) end
    end
  end
end

-- A volume that somebody made under this name may be a directory or a disk of the host's.
local function is_host(found)
  local options = found.Options or {}
  if options == json.null or next(options) == nil then return false end
  return not remote[options.type] or (options.o or ""):find "bind" ~= nil
end

local function has_volume(config, name)
  for _, process in ipairs(processes_of(config)) do
    for _, v in ipairs(process.volumes or {}) do
      if v.name == name then return true end
    end
  end
end

-- The apps whose a volume is that Docker has: the one for which it was made, as its labels say; where they
-- don't, all that have a release with it.
local function owners(d, name, found)
  local labels = found.Labels or json.null
  if labels ~= json.null and labels["nextdeploy.instance"] == d.store.instance then
    return { { project = labels["nextdeploy.project"], environment = labels["nextdeploy.env"],
      name = labels["nextdeploy.app"] } }
  end
  local list = {}
  for _, release in ipairs(d.store:all([[SELECT release.*, app.project, app.environment, app.name FROM release
    JOIN app ON app.id = release.app WHERE instr(release.config, ?)]], json.encode(name))) do
    if release_config.problem(release) or has_volume(release_config.of(release), name) then
      list[#list + 1] = release
    end
  end
  return list
end

local function may_deploy(rights, apps)
  for _, app in ipairs(apps) do
    if not permission.allows(rights, "deploy", app) then return false end
  end
  return #apps > 0
end

local function check_volume(d, rights, app, name)
  local status, found = d.docker:call("GET", "/volumes/" .. name, nil, { ok = { [404] = true } })
  if status == 404 then return end
  if is_host(found) then refuse(app, ("the volume '%s', which is a part of the host"):format(name)) end
  if not may_deploy(rights, owners(d, name, found)) then
    refuse(app, ("the volume '%s', which belongs to no app that you may deploy"):format(name))
  end
end

function M.enforce(d, owner, app, config)
  local rights = who.rights(d, owner)
  if permission.allows(rights, "admin") then return end
  M.check(rights, app, config)
  for _, process in ipairs(processes_of(config)) do
    for _, v in ipairs(process.volumes or {}) do check_volume(d, rights, app, v.name) end
  end
end

function M.put(host, config)
  for name, value in pairs(config.container or {}) do
    local row = M.settings[name]
    host[row.docker] = row.put and row.put(value) or value
  end
end

return M
