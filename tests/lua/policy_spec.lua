-- What a deployer might give a container to get at the host, in each spelling: refused before anything is
-- asked of Docker. What an admin gives reaches Docker under its own names.

local crypto = require "crypto"
local fs = require "fs"
local json = require "json"
local Store = require "nd.store"
local api = require "nd.api"
local config = require "nd.service.app_config"
local permission = require "nd.permission"
local policy = require "nd.service.policy"

-- -> code of the error that a deployer gets; nil where he may
local function refused(request, role)
  local ok, e = pcall(function()
    policy.check({ permission.roles[role or "deployer"] or {} }, "shop", config.merge({}, request))
  end)
  return not ok and (e.code or error(e)) or nil
end

local host_paths = {
  "/:/host", "/etc:/etc2", "/var/run/docker.sock:/docker.sock", "/run/docker.sock:/d", "/proc:/p", "/dev/sda:/disk",
  "//var/run/docker.sock:/d", "/./var/run/docker.sock:/d", "/srv/../var/run/docker.sock:/d",
  "/srv/app/link-to-the-socket:/d", "/tmp/..:/t", "/:/x:ro", "/proc/self/root:/r", "/proc/1/root/etc:/r",
}

local never = { -- by anybody
  "../../etc:/x", "..:/x", "./data:/x", "~/.ssh:/x", "$HOME:/x", "a/../../b:/x", "data/../..:/x", ".:/x", "-v:/x",
  "%2fetc:/x", "C:\\:/x", "data:relative", "data:/x:rshared", "data:/x:ro,bind", "/etc:/x:rw,shared", "data", ":/x", "",
  "/etc\0:/x",
  "data\0:/x", "data:/x\0",
  "data:/", "data:/run/secrets", "data:/run/secrets/x", "data:/.nextdeploy", "data:/.nextdeploy/nd-init", "data:/proc",
  "data:/proc/sys", "data:/sys/fs/cgroup", "data:/dev", "data://run//secrets", "data:/x/../run/secrets", "data:/x/..",
  "data:/./run/secrets", "/srv:/", "/srv:/x/../proc",
}

describe("a container's policy", function()
  it("gives the host's files to admins only, however their path is written", function()
    for _, volume in ipairs(host_paths) do
      assert.equal("policy", refused { volumes = { volume } }, volume)
      assert.is_nil(refused({ volumes = { volume } }, "admin"), volume)
      local host, path = volume:match "^([^:]+):([^:]+)"
      assert.equal("policy", refused { volumes = { { host = host, path = path } } }, volume)
      assert.equal("policy", refused { processes = { web = { volumes = { volume } } } }, volume)
      assert.equal("policy", refused { processes = { web = {}, up = { kind = "job", command = { "x" },
        volumes = { volume } } } }, volume)
    end
    for _, volume in ipairs(never) do
      assert.equal("bad_request", refused { volumes = { volume } }, volume)
      assert.equal("bad_request", refused({ volumes = { volume } }, "admin"), volume)
    end
    for _, volume in ipairs {
      { name = "/etc", path = "/x" }, { name = "data", host = "/etc", path = "/x" }, { name = {}, path = "/x" },
      { host = "etc", path = "/x" }, { host = {}, path = "/x" }, { path = "/x" }, { name = "data" },
    } do
      assert.equal("bad_request", refused { volumes = { volume } })
    end
    assert.is_nil(refused { volumes = { "data:/data",
      { name = "more.data_1-x", path = "/run/secrets2", shared = true } } })
  end)

  it("keeps what reaches the host, or other containers, for admins", function()
    for name, values in pairs {
      privileged = { true }, pid = { "host" }, ipc = { "host" }, userns = { "host" },
      devices = { { "/dev/sda" }, { "/dev/kvm:/dev/kvm:rwm" }, { "/dev/null" }, { "/dev/mem:/dev/x:r" } },
      cap_add = { { "SYS_ADMIN" }, { "CAP_SYS_PTRACE" }, { "sys_module" }, { "ALL" }, { "all" }, { "cap_net_admin" },
        { "CHOWN", "BPF" }, { "" } },
      security_opt = { { "seccomp=unconfined" }, { "apparmor=unconfined" }, { "apparmor:unconfined" },
        { "label=disable" }, { "systempaths=unconfined" }, { "no-new-privileges:false" },
        { "no-new-privileges", "seccomp=/x.json" } },
      sysctls = { { ["kernel.core_pattern"] = "|/x" }, { ["net.ipv4.ip_forward"] = "1" }, { ["kernel.shmmax"] = "1" },
        { ["net.core.somaxconn"] = "1", ["kernel.msgmax"] = "1" } },
    } do
      for _, value in ipairs(values) do
        assert.equal("policy", refused { container = { [name] = value } }, name)
        assert.equal("policy", refused { processes = { web = { container = { [name] = value } } } }, name)
        assert.equal("policy", refused({ container = { [name] = value } }, "none"), name)
        assert.is_nil(refused({ container = { [name] = value } }, "admin"), name)
      end
    end
  end)

  it("lets everybody tighten, and set what concerns the container alone", function()
    assert.is_nil(refused { container = {
      read_only = true, cap_drop = { "ALL" }, cap_add = { "NET_BIND_SERVICE", "cap_chown" }, privileged = false,
      security_opt = { "no-new-privileges" }, sysctls = { ["net.core.somaxconn"] = "1024" }, devices = {},
    } })
  end)

  it("knows no setting that Docker has beyond its own", function()
    for name, value in pairs {
      network = "host", network_mode = "host", Privileged = true, PRIVILEGED = true, uts = "host", cgroupns = "host",
      volumes_from = { "other" }, binds = { "/:/host" }, mounts = {}, runtime = "runc", cgroup_parent = "/",
      device_cgroup_rules = { "a *:* rwm" }, oom_score_adj = -1000, group_add = { "docker" }, links = {}, ulimits = {},
      volume_driver = "x", host_config = {}, masked_paths = {}, [1] = "privileged",
    } do
      assert.equal("bad_request", refused { container = { [name] = value } }, tostring(name))
      assert.equal("bad_request", refused({ container = { [name] = value } }, "admin"), tostring(name))
    end
    for name, value in pairs { privileged = "true", pid = "container:x", ipc = "shareable", userns = true,
      devices = "/dev/sda", cap_add = "ALL", security_opt = {{}}, sysctls = { "a" }, read_only = 1,
      cap_drop = { 1 } } do
      assert.equal("bad_request", refused({ container = { [name] = value } }, "admin"), name)
    end
    assert.equal("bad_request", refused { container = "privileged" })
    assert.equal("bad_request", refused({ container = { devices = { "sda" } } }, "admin"))
  end)

  it("has a process's settings stand for the app's, and tells Docker in its words", function()
    local Process = require "nd.service.process"
    local whole = config.merge({}, { container = { privileged = true }, processes = {
      web = { container = { read_only = true } }, worker = { command = { "x" } } } })
    assert.same({ read_only = true }, Process.of(whole, "web").container)
    assert.same({ privileged = true }, Process.of(whole, "worker").container)
    local host = {}
    policy.put(host, { container = { privileged = true, pid = "host",
      devices = { "/dev/fuse", "/dev/a:/dev/b:r" }, cap_add = { "NET_ADMIN" }, cap_drop = { "ALL" },
      security_opt = { "label=disable" },
      read_only = true, sysctls = { a = "1" } } })
    assert.same({ Privileged = true, PidMode = "host", CapAdd = { "NET_ADMIN" }, CapDrop = { "ALL" },
      SecurityOpt = { "label=disable" }, ReadonlyRootfs = true, Sysctls = { a = "1" }, Devices = {
        { PathOnHost = "/dev/fuse", PathInContainer = "/dev/fuse", CgroupPermissions = "rwm" },
        { PathOnHost = "/dev/a", PathInContainer = "/dev/b", CgroupPermissions = "r" } } }, host)
  end)

  it("looks at what Docker has under a volume's name", function()
    local volumes, asked = {}, 0
    local d = {
      store = { get = function(_, _, name) return name == "ci" and { role = "deployer" } or nil end,
        all = function() return { { config = '{"volumes":[{"name":"data"}]}', name = "shop" } } end,
        memo = function(_, _, _, make, ...) return make(...) end },
      docker = { call = function(_, _, path)
        asked = asked + 1
        local found = volumes[path:match "[^/]+$"]
        return found and 200 or 404, found
      end },
    }
    local function may(owner, options)
      volumes.data = options and { Options = options } or nil
      return (pcall(policy.enforce, d, owner, "shop", config.merge({}, { volumes = { "data:/data" } })))
    end
    for _, options in ipairs {
      { type = "none", o = "bind", device = "/" }, { type = "none", o = "rbind,ro", device = "/etc" },
      { device = "/dev/sda1" }, { type = "ext4", device = "/dev/sda1" },
      { type = "overlay", o = "lowerdir=/,upperdir=/x", device = "overlay" },
      { type = "tmpfs", o = "bind", device = "/var/run" }, { o = "bind" }, { type = "proc", device = "proc" },
    } do
      assert.is_false(may("ci", options))
      assert.is_false(may("nobody's", options))
      assert.is_true(may("uid 0", options))
    end
    for _, options in ipairs { {}, { type = "nfs", o = "addr=10.0.0.1", device = ":/export" },
      { type = "tmpfs", device = "tmpfs" }, { type = "cifs", device = "//server/share" } } do
      assert.is_true(may("ci", options))
    end
    assert.is_true(may("ci", nil))
    assert.is_true(asked > 0)
  end)
end)

describe("an app to which an admin gave more", function()
  local dir, d, handler, volumes

  before_each(function()
    dir, volumes = os.tmpname(), {}
    os.remove(dir)
    fs.mkdir(dir, 448)
    d = { store = Store.open(dir, "a machine"), options = { state_dir = dir }, version = "0.0.1",
      metrics = { requests = { add = function() end } },
      docker = { call = function(_, _, path)
        local found = volumes[path:match "[^/]+$"]
        return found and 200 or 404, found
      end } }
    for name, module in pairs { apps = "app", releases = "release", guesses = "guesses", seal = "seal",
      people = "people", exec = "exec", jobs = "jobs" } do
      d[name] = require("nd.service." .. module).new(d)
    end
    handler = api.handler(d)
    for name, role in pairs { admin = "admin", deployer = "deployer" } do
      d.store:commit { { "INSERT INTO token (name, hash, role, created_at) VALUES (?, ?, ?, 1)", name,
        crypto.sha256("nd_" .. name), role } }
    end
  end)

  after_each(function()
    d.store:close()
    fs.remove(dir, { recursive = true })
  end)

  -- The app default/ENVIRONMENT/NAME, whose live release has these settings.
  local function app(environment, name, settings)
    local function row()
      return d.store:get("SELECT * FROM app WHERE environment = ? AND name = ?", environment, name)
    end
    d.store:commit { { [[INSERT OR IGNORE INTO app (project, environment, name, created_at, updated_at)
      VALUES ('default', ?, ?, 1, 1)]], environment, name } }
    local id, number = row().id, d.releases:next_number(row())
    d.store:commit { { [[INSERT INTO release (app, number, state, image, image_id, config, run, key, created_at)
      VALUES (?, ?, 'live', 'shop:v1', 'sha256:1', ?, 'r', ?, 1)]], id, number,
      json.encode(config.merge({}, settings)), id .. "/" .. number },
      { "UPDATE app SET live = (SELECT max(id) FROM release) WHERE id = ?", id } }
    return row()
  end

  local function ask(method, path, token, query, body)
    local answer = handler { method = method, path = path, query = query or {}, body = body and json.encode(body) or "",
      headers = { host = "127.0.0.1:8371", authorization = "Bearer nd_" .. token },
      peer = { kind = "tcp", address = "192.0.2.1", port = 4242 } }
    return json.decode(answer.body).code
  end

  it("has its commands and jobs run by admins only, where it is a volume behind which the host is", function()
    volumes.hostroot = { Options = { type = "none", o = "bind", device = "/" } }
    app("production", "shop", { volumes = { "hostroot:/data" },
      processes = { web = {}, up = { kind = "job", command = { "x" } } } })
    local function exec(token) return ask("GET", "/ws/exec", token, { app = "shop" }) end
    local function job(token) return ask("POST", "/jobs", token, nil, { app_name = "shop", process = "up" }) end
    assert.equal("policy", exec "deployer")
    assert.equal("policy", job "deployer")
    d.jobs.launch = function() require("nd.error").raise("busy", "it came this far") end
    assert.equal("instance_not_found", exec "admin")
    assert.equal("busy", job "admin")
    volumes.hostroot = nil
    assert.equal("instance_not_found", exec "deployer")
    assert.equal("busy", job "deployer")
  end)

  -- Whoever asks for it, by a run of his that starts a release of default/ENVIRONMENT/shop with this volume.
  local function given(owner, volume)
    return (pcall(policy.enforce, d, owner, "shop", config.merge({}, { volumes = { { name = volume, path = "/x",
      shared = true } } })))
  end

  local function limited(name, limits)
    d.store:commit { { "INSERT INTO token (name, hash, role, created_at, limits) VALUES (?, ?, 'deployer', 1, ?)", name,
      crypto.sha256("nd_" .. name), json.encode { "admin@" .. limits } } }
  end

  it("is one that has another's volume: a token for one app gets no volume of another", function()
    limited("staging", "default/staging/shop")
    limited("both", "default/*/shop")
    app("production", "shop", { volumes = { "pgdata:/data" } })
    app("production", "blog", { env = { A = "own" }, processes = { web = { volumes = { "posts:/data" } } } })
    app("staging", "shop", { volumes = { "own:/data" } })
    for _, name in ipairs { "pgdata", "posts", "own", "by-hand" } do volumes[name] = { Name = name } end
    for volume, may in pairs { pgdata = "deployer admin both", posts = "deployer admin",
      own = "deployer admin both staging", ["by-hand"] = "admin", new = "deployer admin both staging" } do
      for _, owner in ipairs { "deployer", "admin", "both", "staging" } do
        assert.equal(may:find(owner, 1, true) ~= nil, given(owner, volume), owner .. " " .. volume)
      end
    end
    local _, e = pcall(policy.enforce, d, "staging", "shop", config.merge({}, { volumes = { "pgdata:/x" } }))
    assert.equal("policy", e.code)
    assert.is_nil((e.message .. e.hint):find("production", 1, true))
  end)

  it("knows whose a volume is by the labels it was made with, whatever releases are left", function()
    limited("staging", "default/staging/shop")
    local container = require "nd.service.container"
    local function made_for(environment)
      d.options.run_dir = dir
      local spec = container.spec(d, { project = "default", environment = environment, name = "shop" },
        { number = 1, run = "r" }, { Config = { Cmd = { "x" } } },
        config.merge({}, { volumes = { "data:/data", "/etc:/etc2" } }),
        { name = "n", process = "web", position = 1 }, { network = "n" }, "key")
      assert.is_nil(spec.HostConfig.Mounts[4].VolumeOptions)
      return spec.HostConfig.Mounts[3].VolumeOptions
    end
    volumes.data = made_for "staging"
    assert.is_true(given("staging", "data"))
    app("staging", "shop", { volumes = { "data:/data" } })
    volumes.data = made_for "production"
    assert.is_false(given("staging", "data"))
    volumes.data.Labels["nextdeploy.instance"] = "another's"
    assert.is_true(given("staging", "data"))
    d.store:commit { { "UPDATE app SET live = NULL" }, { "DELETE FROM release" } }
    assert.is_false(given("staging", "data"))
  end)

  it("is not named where its volume is in use", function()
    local blog = app("production", "blog", { volumes = { "posts:/data" } })
    d.store:commit { { [[INSERT INTO instance (release, process, position, name, address, state)
      SELECT id, 'web', 1, 'n', '10.0.0.2', 'running' FROM release]] } }
    local shop = app("production", "shop", {})
    local function in_use(of)
      local ok, e = pcall(d.releases.check_writers, d.releases, of, config.merge({}, { volumes = { "posts:/data" } }))
      assert.is_false(ok)
      return e
    end
    assert.matches("release 1 of blog", in_use(shop).message)
    assert.matches("release 1 runs", in_use(blog).message)
    local e = require("nd.api.about").discreet(in_use(shop))
    assert.is_nil((e.message .. e.hint):find("blog", 1, true))
  end)
end)
