-- What NextDeploy takes of the disk, measured: images of ours, Docker's build cache, logs, the database.
--
--   disk.measure(d, fresh) -> {
--     images = {{id, names, size, used_at, layers}, ...}   ours, by when they were used, oldest first
--     layers = {{bytes, held, ours}, ...}      held: by so many images of this host, ours of them
--     used = {images, build_cache, logs, database}         bytes
--     reclaimable                      of the build cache: what no build uses
--     containers = {[image id] = name} one that uses it, running or not
--     full = {total, free}             of the file system that Docker is on; nil where that isn't seen
--   }
--   disk.frees(measured, image) -> bytes   what would be free without it; from then on it is without
--
-- Images share layers: what one takes for itself is what no other holds. Our images take what no image
-- holds that isn't ours. It waits some ms for each image of the host.

local json = require "json"
local log = require "log"
local fs = require "fs"
local proc = require "proc"
local tasks = require "nd.tasks"

local AT_ONCE = 4
local CACHE_MS = 20000

local M = {}

-- ---- images ----

-- Steps of a history that make no layer.
local SETS = {}
for word in ("ARG CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL MAINTAINER ONBUILD SHELL STOPSIGNAL USER VOLUME")
  :gmatch "%S+" do
  SETS[word] = true
end

local function only_sets(step)
  local command = step.CreatedBy:match "#%(nop%)%s+(%u+)" or step.CreatedBy:match "^(%u+)"
  return step.Size == 0 and SETS[command]
end

-- The bytes of an image's `count` layers, the lowest first. Docker doesn't say which steps of its
-- history made them; a doubtful one is of no size, and stands for another of none.
local function sizes_of(history, count, whole)
  local sizes, excess = {}, #history - count
  for i = #history, 1, -1 do
    local step = history[i]
    if excess > 0 and only_sets(step) then excess = excess - 1 else sizes[#sizes + 1] = step.Size end
  end
  for i = #sizes, 1, -1 do
    if excess > 0 and sizes[i] == 0 then
      table.remove(sizes, i)
      excess = excess - 1
    end
  end
  if #sizes == count then return sizes end
  sizes = {}
  for i = 1, count do sizes[i] = i == count and whole or 0 end
  return sizes
end

-- The layers of an image; one is the same as another's only on top of the same ones.
local function add_layers(known, layers, found, history)
  local ids = found.RootFS and found.RootFS.Layers or {}
  local sizes = history and sizes_of(history, #ids, found.Size)
  local keys, below = {}, 0
  for i, id in ipairs(ids) do
    local name = below .. id
    if not known[name] then
      layers[#layers + 1] = { bytes = 0, held = 0, ours = 0 }
      known[name] = #layers
    end
    below = known[name]
    keys[i] = below
    local layer = layers[below]
    layer.held = layer.held + 1
    if sizes then layer.bytes, layer.ours = sizes[i], layer.ours + 1 end
  end
  return keys
end

-- What our table says of images: {[id] = {id, used_at, asked = {name = true}}}
local function known_images(d)
  local ours = {}
  for _, row in ipairs(d.store:all "SELECT id, name, used_at FROM image WHERE id <> '' ORDER BY used_at") do
    local image = ours[row.id] or { id = row.id, asked = {} }
    ours[row.id], image.used_at, image.asked[row.name] = image, row.used_at, true
  end
  return ours
end

-- Its tags, then its digests.
function M.names_of(found)
  local names = json.array {}
  for _, list in ipairs { found.RepoTags or {}, found.RepoDigests or {} } do
    for _, name in ipairs(list) do names[#names + 1] = name end
  end
  return names
end

local function measure_images(d)
  local ours, images, layers, known = known_images(d), {}, {}, {}
  tasks.each("images", d.docker:images {}, function(listed)
    local found, image = d.docker:image(listed.Id), ours[listed.Id]
    if not found then return end -- removed meanwhile
    local history
    if image then
      local _, answer = d.docker:call("GET", "/images/" .. listed.Id .. "/history", nil, { ok = { [404] = true } })
      if answer.message then return end
      history = answer
      images[#images + 1] = image
      image.names, image.size = M.names_of(found), found.Size
    end
    local keys = add_layers(known, layers, found, history)
    if image then image.layers = keys end
  end, AT_ONCE)
  table.sort(images, function(a, b)
    if a.used_at ~= b.used_at then return a.used_at < b.used_at end
    return a.id < b.id
  end)
  return images, layers
end

function M.frees(measured, image)
  local bytes = 0
  for _, key in ipairs(image.layers) do
    local layer = measured.layers[key]
    layer.held = layer.held - 1
    if layer.held == 0 then bytes = bytes + layer.bytes end
  end
  return bytes
end

-- ---- the rest ----

-- -> bytes, bytes that no build uses. Docker 29 says it in other words than its predecessors.
local function build_cache(d)
  local ok, _, df = pcall(d.docker.call, d.docker, "GET", "/system/df?type=build-cache", nil, { timeout_ms = CACHE_MS })
  if not ok then
    log.warn("the size of Docker's build cache is not known: " .. tostring(_))
    return 0, 0
  end
  local usage = df.BuildCacheUsage
  if usage then return usage.TotalSize or 0, usage.Reclaimable or 0 end
  local bytes, free = 0, 0
  for _, record in ipairs(df.BuildCache ~= json.null and df.BuildCache or {}) do
    if not record.Shared then
      bytes = bytes + record.Size
      if not record.InUse then free = free + record.Size end
    end
  end
  return bytes, free
end

local function bytes_below(path)
  local bytes, ok, names = 0, pcall(fs.list, path)
  if not ok and names.code ~= "fs_not_found" then error(names, 0) end -- else removed meanwhile
  for _, name in ipairs(ok and names or {}) do
    local stat = fs.stat(path .. "/" .. name)
    if stat and stat.type == "directory" then
      bytes = bytes + bytes_below(path .. "/" .. name)
    elseif stat then
      bytes = bytes + stat.size
    end
  end
  return bytes
end

local function containers(d)
  local used = {}
  for _, c in ipairs(d.docker:list { all = true }) do used[c.ImageID] = c.Names[1]:sub(2) end
  return used
end

local function file_system(d)
  local root = d.docker:info().DockerRootDir
  if not root or not fs.exists(root) then return nil end
  local host = proc.host { proc_root = d.options.proc_root, sys_root = d.options.sys_root, disk_path = root }
  return { total = host.disk_total, free = host.disk_free }
end

-- `fresh`: ask for the build cache again, which some versions of Docker take long to know.
function M.measure(d, fresh)
  local m = { used = { logs = bytes_below(d.options.state_dir .. "/logs"), database = d.store:size() } }
  m.images, m.layers = measure_images(d)
  m.containers, m.full = containers(d), file_system(d)
  if fresh or not d.build_cache then d.build_cache = { build_cache(d) } end
  m.used.build_cache, m.reclaimable = table.unpack(d.build_cache)
  m.used.images = 0
  for _, layer in ipairs(m.layers) do
    if layer.held == layer.ours then m.used.images = m.used.images + layer.bytes end
  end
  return m
end

return M
