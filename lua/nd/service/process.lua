-- The processes of a release, out of its configuration: what runs, how often, and who listens.
--
-- A configuration without `processes` has one, `web`, which is the app's own settings. With them it
-- has exactly those. Each inherits the app's env (its own comes on top), user, volumes, memory,
-- cpu, grace, secrets and container settings; `web` inherits command, port, replicas and health too, so that it
-- may be written `{}`.
--   web, worker   run as long as the release does, `replicas` of them
--   cron          a container of the live release each time its schedule is due
--   job           a container of the live release when somebody asks for it

local json = require "json"

local M = {}

local shared = { "user", "volumes", "memory", "cpu", "grace", "container", "secrets" }
local of_web = { "command", "port", "replicas", "health", "publish" }

-- Settings of one process: {name, kind, command, env, port, replicas, health, ...}; nil where the
-- configuration has none of this name. "release" is the release command.
function M.of(config, name)
  local own
  if name == "release" then
    own = config.release and { kind = "job", command = config.release.command, timeout = config.release.timeout }
  elseif config.processes then
    own = config.processes[name]
  elseif name == "web" then
    own = { kind = "web" }
  end
  if not own then return nil end
  local out = { name = name, env = {} }
  for _, key in ipairs(shared) do out[key] = config[key] end
  if name == "web" then
    for _, key in ipairs(of_web) do out[key] = config[key] end
  end
  for key, value in pairs(own) do out[key] = value end
  out.env = {}
  for _, env in ipairs { config.env or {}, own.env or {} } do
    for key, value in pairs(env) do out.env[key] = value end
  end
  out.replicas = out.replicas or 1
  return out
end

function M.set_replicas(config, name, count)
  local own = config.processes and config.processes[name] or config
  own.replicas = count
end

local function names_of(config)
  local names = {}
  for name in pairs(config.processes or { web = true }) do names[#names + 1] = name end
  table.sort(names, function(a, b)
    if (a == "web") ~= (b == "web") then return a == "web" end
    return a < b
  end)
  return names
end

-- All of them, web first; `kinds` (a set) chooses.
function M.list(config, kinds)
  local list = {}
  for _, name in ipairs(names_of(config)) do
    local process = M.of(config, name)
    if not kinds or kinds[process.kind] then list[#list + 1] = process end
  end
  return list
end

M.LONG = { web = true, worker = true }   -- kinds that run as long as the release does
M.CALLED = { cron = true, job = true }   -- kinds that run once for each call

-- The volumes with one writer: {name, processes = {name, ...} that write it, containers = how many
-- would at once, long = whether one of them runs all the time}, in the order of their names.
function M.one_writer(config)
  local by_name, list = {}, {}
  for _, process in ipairs(M.list(config)) do
    for _, volume in ipairs(process.volumes or {}) do
      if volume.name and not volume.shared then
        local row = by_name[volume.name]
        if not row then
          row = { name = volume.name, processes = {}, containers = 0 }
          by_name[volume.name], list[#list + 1] = row, row
        end
        row.processes[#row.processes + 1] = process.name
        row.containers = row.containers + (M.LONG[process.kind] and process.replicas or 1)
        row.long = row.long or M.LONG[process.kind]
      end
    end
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

-- The services of a release: {process, port, target, replicas}, the port of its address and that of
-- its containers. The app's own is web:80.
function M.services(config)
  local list = {}
  for _, process in ipairs(M.list(config, M.LONG)) do
    if process.port then
      list[#list + 1] = { process = process.name, target = process.port, replicas = process.replicas,
        port = process.name == "web" and 80 or process.port }
    end
  end
  return list
end

-- The further ports of a process: those it publishes, and those its routes name. Their services are
-- NAME.ports, since 80 may be one of them: {process, name, port, target, replicas, proto, published =
-- {{port, from}, ...}}.
function M.ports(config)
  local list, by_port = {}, {}
  local function service(process, target, proto)
    local key = process.name .. " " .. target .. proto
    if not by_port[key] then
      by_port[key] = { process = process.name, name = process.name .. ".ports", port = target,
        target = target, replicas = process.replicas, proto = proto, published = json.array {} }
      list[#list + 1] = by_port[key]
    end
    return by_port[key]
  end
  for _, process in ipairs(M.list(config, M.LONG)) do
    for _, p in ipairs(process.publish or {}) do
      table.insert(service(process, p.target, p.proto).published, { port = p.port, from = p.from })
    end
    for _, r in ipairs(process.name == "web" and config.routes or {}) do
      if r.port and r.port ~= process.port then service(process, r.port, "tcp") end
    end
  end
  return list
end

-- What a configuration publishes: {{port, target, proto, from}, ...}.
function M.published(config)
  local list = {}
  for _, process in ipairs(M.list(config, M.LONG)) do
    table.move(process.publish or {}, 1, #(process.publish or {}), #list + 1, list)
  end
  return list
end

-- What a container is told of the app's other services: API_ADDRESS=10.201.0.7:9000.
function M.address_name(process) return process:upper():gsub("-", "_") .. "_ADDRESS" end

return M
