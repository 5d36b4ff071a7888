-- One instance's container: what Docker is told to create, and the tmpfs directory of its secrets.
--
-- Every app container starts through nd-init, which reads /run/secrets, sets the environment and
-- becomes the image's own entrypoint. `env` is plain and visible; secrets never come this way.

local fs = require "fs"
local json = require "json"
local task = require "task"
local err = require "nd.error"
local policy = require "nd.service.policy"

local M = {}

local INIT = "/.nextdeploy/nd-init"
local STRAY_MS = 1000

-- Whose a thing is.
local function labels_of(d, app)
  return { ["nextdeploy.instance"] = d.store.instance, ["nextdeploy.project"] = app.project,
    ["nextdeploy.env"] = app.environment, ["nextdeploy.app"] = app.name }
end

function M.labels(d, app, release, process, position, run, key)
  local labels = labels_of(d, app)
  for name, value in pairs { process = process, release = tostring(release), index = tostring(position), run = run,
    key = key } do
    labels["nextdeploy." .. name] = value
  end
  return labels
end

-- A name that says whose it is: nd-3fa2-default-production-shop-web-12-1
function M.name(d, app, release, process, position)
  return table.concat({ "nd", d.store.instance, app.project, app.environment, app.name, process,
    release, position }, "-")
end

local function secrets_dir(d, name) return d.options.run_dir .. "/secrets/" .. name end

-- Fills the directory that becomes /run/secrets with what the app's configuration says. Without secrets it
-- holds an empty manifest, since nd-init refuses to start an app whose manifest is missing.
function M.put_secrets(d, name, app, secrets)
  local dir = secrets_dir(d, name)
  fs.mkdir(dir, 493) -- 0755: whoever the app runs as reads it; on the host only root gets this far
  if secrets and next(secrets) then return d.secrets:deliver(app, secrets, dir) end
  fs.write(dir .. "/.nextdeploy", "nextdeploy 1\n", 292) -- 0444
end

function M.drop_secrets(d, name) fs.remove(secrets_dir(d, name), { recursive = true }) end

local function env_list(env)
  local list = json.array {}
  for name, value in pairs(env) do list[#list + 1] = name .. "=" .. value end
  table.sort(list)
  return list
end

-- What the image would run: its entrypoint and the command.
local function command(image, config)
  local own = image.Config or {}
  local list = json.array { "run", "--" }
  for _, word in ipairs(own.Entrypoint or {}) do list[#list + 1] = word end
  for _, word in ipairs(config.command or own.Cmd or {}) do list[#list + 1] = word end
  if #list == 2 then
    err.raise("bad_config", "the image has neither an entrypoint nor a command",
      "say what to run: `command = {...}` in nextdeploy.lua")
  end
  return list
end

-- A volume that isn't there yet is made by this, and says ever after whose it is (policy.lua).
local function mounts(d, app, name, config)
  local list = json.array {
    { Type = "bind", Source = d.options.init_path, Target = INIT, ReadOnly = true },
    { Type = "bind", Source = secrets_dir(d, name), Target = "/run/secrets", ReadOnly = true },
  }
  for _, v in ipairs(config.volumes or {}) do
    list[#list + 1] = { Type = v.host and "bind" or "volume", Source = v.host or v.name, Target = v.path,
      ReadOnly = v.read_only, VolumeOptions = v.name and { Labels = labels_of(d, app) } or nil }
  end
  return list
end

-- One that has run was started, whatever became of it since; one that Docker began to start and didn't bring
-- up was not. `found`: what inspect says, or nil.
function M.was_started(found)
  local state = found and found.State
  return state and (state.Running or state.StartedAt:sub(1, 4) ~= "0001" and state.Error == "")
end

-- What still runs of a container: its processes, and its shim.
local function strays_of(id)
  local strays = {}
  for _, pid in ipairs(fs.list "/proc") do
    if pid:match "^%d+$" then
      local there, cgroup = pcall(fs.read, "/proc/" .. pid .. "/cgroup")
      local _, line = pcall(fs.read, "/proc/" .. pid .. "/cmdline")
      if there and (cgroup:find(id, 1, true) or tostring(line):find("shim.*%-id%z" .. id)) then
        strays[#strays + 1] = pid
      end
    end
  end
  return strays
end

-- A dockerd that dies while it starts a container, or hears of its end, forgets the process, and no
-- call to Docker ends it any more. Ends what is there of a container that was removed, and goes on
-- to be there: a shim takes a moment to go. -> how many
function M.end_strays(id)
  if #strays_of(id) == 0 then return 0 end
  task.sleep(STRAY_MS)
  local strays = strays_of(id)
  if #strays > 0 then require "process".run { argv = { "kill", "-KILL", table.unpack(strays) } } end
  return #strays
end

-- instance: {name, address, process, position}; net: of network:ensure_bridge
function M.spec(d, app, release, image, config, instance, net, key)
  local spec = {
    Image = release.image_id,
    Entrypoint = json.array { INIT },
    Cmd = command(image, config),
    Env = env_list(config.env),
    User = config.user,
    Labels = M.labels(d, app, release.number, instance.process, instance.position, release.run, key),
    StopTimeout = config.grace and config.grace // 1000 or nil,
    HostConfig = {
      NetworkMode = net.network,
      RestartPolicy = { Name = "no" },
      Mounts = mounts(d, app, instance.name, config),
      Memory = config.memory, NanoCpus = config.cpu and math.floor(config.cpu * 1e9) or nil,
      MemorySwap = config.memory,
      Ulimits = json.array { { Name = "core", Soft = 0, Hard = 0 } },
      LogConfig = { Type = "json-file", Config = { ["max-size"] = "10m", ["max-file"] = "3" } },
    },
    NetworkingConfig = { EndpointsConfig = { [net.network] = {
      IPAMConfig = { IPv4Address = instance.address },
    } } },
  }
  policy.put(spec.HostConfig, config)
  return spec
end

M.init = INIT

return M
