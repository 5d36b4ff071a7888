-- network_state.lua - what network.lua keeps on disk.
--
-- Rows of addresses and bridges are in the store. Beside them, in net/: net.json has all there is,
-- and rules.v4 the rules as text, for a boot at which no daemon starts.
--
--   state.keep(net, kind, key, row | nil)   parks; kind "service" or "bridge"
--   state.load(net)                         parks; sets services, bridges and sysctls
--   state.flush(net)                        parks until the files hold the current version
--   state.writer(net)                       a task: writes them some time after each change

local fs = require "fs"
local json = require "json"
local task = require "task"
local rules = require "nd.service.network_rules"

local WRITE_AFTER = 200        -- ms after a change

local M = {}

local function rows(map)
  local out = json.array {}
  for _, key in ipairs(rules.sorted(map)) do
    local row = { key = key }
    for k, v in pairs(map[key]) do row[k] = k == "targets" and json.array(v) or v end
    row.held = nil
    out[#out + 1] = row
  end
  return out
end

local function write_files(net)
  local version = net.version
  fs.mkdir(net.dir, 448) -- 0700
  fs.write(net.dir .. "/net.json", json.encode({
    version = 1, instance = net.layout.instance, cidr = net.layout.cidr,
    backend = net.backend and net.backend.kind, sysctls = net.sysctls,
    services = rows(net.services), bridges = rows(net.bridges),
  }, true) .. "\n", 384) -- 0600
  fs.write(net.dir .. "/rules.v4", rules.file(net.layout, rules.model(net)), 384)
  net.saved = version
end

function M.flush(net)
  while net.saved < net.version do
    if net.writing then
      net.written:wait()
    else
      net.writing = true
      local ok, err = pcall(write_files, net)
      net.writing = nil
      net.written:notify()
      if not ok then error(err, 0) end
    end
  end
end

-- Off the path of a deploy: the files matter only to a boot at which no daemon starts.
function M.writer(net)
  while true do
    if net.saved == net.version then net.dirty:wait() end
    task.sleep(WRITE_AFTER)
    local ok, err = pcall(M.flush, net)
    if not ok then
      if type(err) == "table" and err.code == "cancelled" then error(err, 0) end
      net.on_event("network.failed", { doing = "writing " .. net.dir, error = err })
      task.sleep(1000)
    end
  end
end

function M.keep(net, kind, key, row)
  if not net.store then return end
  local copy = row and {} or nil
  for k, v in pairs(row or {}) do
    if k ~= "targets" and k ~= "weights" and k ~= "held" then copy[k] = v end
  end
  net.store:put(kind, key, copy)
end

-- Rows from the store; targets, which only say what the rules last said, from net.json.
function M.load(net)
  local path = net.dir .. "/net.json"
  local state = fs.exists(path) and json.decode(fs.read(path)) or {}
  if state.instance and state.instance ~= net.layout.instance
    or state.cidr and state.cidr ~= net.layout.cidr then
    state = {} -- another instance or range: nothing of it is ours to apply
  end
  net.last_backend = state.backend
  net.sysctls = state.sysctls or {}
  for name, kind in pairs { services = "service", bridges = "bridge" } do
    local map = net.store and net.store:all(kind) or {}
    for _, row in ipairs(state[name] or {}) do
      local key = row.key
      row.key = nil
      if not net.store then
        map[key] = row
      elseif map[key] and map[key].index == row.index then
        map[key].targets, map[key].weights = row.targets, row.weights
      end
    end
    for _, row in pairs(map) do
      if kind == "service" then row.targets = row.targets or {} end
    end
    net[name] = map
  end
end

return M
