-- The disk budget: what goes when images, build cache, logs and the database take more than they may,
-- and why everything else stays.
--
-- First what no build uses of Docker's build cache, then images, the one longest unused first, until
-- the rest fits. Only images that are ours (images.lua), and of those none that
--   - a release needs that is there: live, draining, kept, or of an app that a person stopped
--   - a release needs that can be gone back to: the last `keep_releases` good ones of each app
--   - an app might need that a run is changing
--   - has a name that nobody gave us, or that a container uses, whoever's it is
-- That is asked once more right before each goes, and Docker is never forced. A disk nearly full
-- counts as a budget. It happens once an hour, after deploys, and by `ndctl gc`.
--
--   gc:look(o) -> report        what would go; o.all: whatever the budget; parks
--   gc:run(o) -> report         removes it
--   gc:nudge()                  a run has ended
--   gc:start()

local clock = require "clock"
local json = require "json"
local log = require "log"
local task = require "task"
local disk = require "nd.service.disk"
local Images = require "nd.service.images"
local tasks = require "nd.tasks"

local EVERY_MS = 60 * 60 * 1000
local AFTER_MS = 10 * 1000        -- a deploy: what it replaced has drained, mostly
local APART_MS = 10 * 60 * 1000   -- after deploys, at most so often
local SPARE = 0.1                 -- of the disk stays free
local ROWS = 100                  -- releases of an app that are remembered, however little they take
local AT_ONCE = 100               -- of which so many are forgotten at once
local LOG_SHARE = 4               -- logs take at most a fourth of the budget
local LOG_LEAST = 1 << 20         -- but an app's may always take this

local Gc = {}
Gc.__index = Gc

function Gc.new(d)
  local self = setmetatable({ d = d, woken = task.signal(), turn = tasks.lock() }, Gc)
  d.metrics:gauge("nextdeploy_disk_bytes", "What NextDeploy takes of the disk, by kind, as it was measured last.",
    function() return self:gauge() end)
  return self
end

-- ---- why an image stays ----

local LIVE_RUN = "state IN ('running', 'sleeping', 'rolling_back')"
local CHANGING = ([[SELECT id FROM run WHERE app = ?1 AND %s UNION ALL SELECT id FROM waiting WHERE app = ?1]])
  :format(LIVE_RUN)
local ASKED_FOR = ([[SELECT id FROM run WHERE %s AND json_extract(params, '$.image') = ?1
  UNION ALL SELECT id FROM waiting WHERE json_extract(params, '$.image') = ?1]]):format(LIVE_RUN)

local function release_needs(self, id)
  local row = self.d.store:get([[SELECT number, state, name, stopped FROM release JOIN app ON app.id = release.app
    WHERE image_id = ? AND state <> 'gone' ORDER BY state = 'live' DESC, release.id DESC LIMIT 1]], id)
  if not row then return nil end
  if row.state == "live" and row.stopped == 1 then
    return ("%s was stopped and starts again from its release %d"):format(row.name, row.number)
  end
  return ("release %d of %s is %s"):format(row.number, row.name, row.state)
end

-- Is it one of the last good ones of its app, or what a rollback goes to?
local function gone_back_to(self, app, id)
  local d, keep = self.d, self.d.options.keep_releases
  local last = d.store:get([[SELECT number, live_at FROM release WHERE app = ? AND image_id = ? AND was_healthy = 1
    AND live_at IS NOT NULL ORDER BY live_at DESC LIMIT 1]], app.id, id)
  if not last or keep == 0 then return nil end
  local newer = d.store:get([[SELECT count(*) AS n FROM release WHERE app = ? AND was_healthy = 1 AND live_at > ?
    AND id IS NOT ?]], app.id, last.live_at, app.live).n
  local previous = d.releases:previous(app)
  if newer < keep then return last.number end
  return previous and previous.image_id == id and previous.number
end

local function full_name(name)
  if name:find("@", 1, true) then return name end
  return Images.repository(name) .. ":" .. (name:match ":([^:/]*)$" or "latest")
end

-- A name of the image that nobody gave us: a tag, or a digest of another repository.
local function foreign_name(image)
  local asked, repositories = {}, {}
  for name in pairs(image.asked) do
    asked[full_name(name)] = true
    repositories[Images.repository(name)] = true
  end
  for _, name in ipairs(image.names) do
    local digest = name:find("@", 1, true)
    if not (digest and repositories[Images.repository(name)] or not digest and asked[full_name(name)]) then
      return name
    end
  end
end

-- -> why, in a person's words; nil: it may go
function Gc:needed(image)
  local store, id = self.d.store, image.id
  local why = release_needs(self, id)
  if why then return why end
  for _, app in ipairs(store:rows([[SELECT * FROM app WHERE id IN
    (SELECT app FROM release WHERE image_id = ?1 UNION SELECT app FROM image WHERE id = ?1)]], id)) do
    local number, run = gone_back_to(self, app, id), store:get(CHANGING, app.id)
    if number then return ("release %d of %s can be gone back to"):format(number, app.name) end
    if run then return ("the run %s is changing %s"):format(run.id, app.name) end
  end
  for name in pairs(image.asked) do
    local run = store:get(ASKED_FOR, name)
    if run then return ("the run %s asks for it"):format(run.id) end
  end
  local name = foreign_name(image)
  if name then return ("it has the name %s, which others gave it"):format(name) end
end

-- ---- what goes ----

local function row_of(image, more)
  local row = { kind = "image", name = next(image.asked), id = image.id, used_at = clock.format(image.used_at) }
  for name in pairs(image.asked) do -- a tag says more than an id
    if not name:find "^sha256:" then row.name = name end
  end
  for field, value in pairs(more) do row[field] = value end
  return row
end

-- The images, those that may not go with `why`. One whose layers other images have as well takes nothing,
-- and would only lose its name.
function Gc:loose(measured)
  for _, image in ipairs(measured.images) do
    local container = measured.containers[image.id]
    image.why = self:needed(image) or container and ("the container %s uses it"):format(container) or nil
    for _, key in ipairs(not image.why and image.layers or {}) do
      local layer = measured.layers[key]
      layer.loose = (layer.loose or 0) + 1
    end
    task.yield()
  end
  for _, image in ipairs(measured.images) do
    local takes = 0
    for _, key in ipairs(image.layers) do
      local layer = measured.layers[key]
      if layer.loose == layer.held then takes = takes + layer.bytes end
    end
    image.why = image.why or takes == 0 and "it takes nothing: other images have its layers" or nil
  end
  return measured.images
end

-- Decides; measured: of disk.lua. The report, and the images to remove.
function Gc:decide(measured, all)
  local used, total = measured.used, 0
  for _, bytes in pairs(used) do total = total + bytes end
  local budget, limit = self.d.options.disk_budget, self.d.options.disk_budget
  if measured.full then
    limit = math.max(0, math.min(limit, total + measured.full.free - math.floor(measured.full.total * SPARE)))
  end
  local report = { budget = budget, limit = limit, used = used, total = total, freed = 0,
    removed = json.array {}, kept = json.array {} }
  local excess, going = all and math.huge or total - limit, {}
  local function take(row)
    report.removed[#report.removed + 1] = row
    report.freed, excess = report.freed + row.bytes, excess - row.bytes
  end
  if excess > 0 and measured.reclaimable > 0 then
    local bytes = math.floor(math.min(excess, measured.reclaimable))
    take { kind = "build_cache", name = "the oldest of Docker's build cache", bytes = bytes }
  end
  for _, image in ipairs(self:loose(measured)) do
    local why = image.why or excess <= 0 and "nothing needs it, and it fits"
    if why then
      table.insert(report.kept, 1, row_of(image, { bytes = image.size, why = why }))
    else
      going[#going + 1] = image
      take(row_of(image, { bytes = disk.frees(measured, image), why = "nothing needs it" }))
    end
  end
  return report, going
end

-- What a person can do where what is needed takes more than it may.
local function finish(self, report)
  report.over = math.max(0, report.total - report.freed - report.limit)
  if report.over > 0 then
    local holders = {}
    for _, row in ipairs(report.kept) do holders[#holders + 1] = row end
    table.sort(holders, function(a, b) return a.bytes > b.bytes end)
    for i, row in ipairs(holders) do holders[i] = i <= 3 and ("%s (%s)"):format(row.name, row.why) or nil end
    report.hint = (#holders > 0 and "the largest images that stay: " .. table.concat(holders, "; ") .. ". " or "")
      .. (report.limit < report.budget and "The disk is nearly full: free some of it" or "Raise disk_budget")
      .. " or lower keep_releases in nextdeployd.lua; `ndctl gc --plan` tells why each image stays"
  end
  self.last = report.used
  return report
end

-- Rows that say what isn't so: of images that somebody else has removed, and of pulls that a crash ended.
local function correct(self, began)
  local d = self.d
  local here = {}
  for _, image in ipairs(d.docker:images {}) do here[image.Id] = true end
  for _, row in ipairs(d.store:all("SELECT DISTINCT id FROM image WHERE id <> '' AND used_at < ?", began)) do
    if not here[row.id] then
      d.store:post { { "DELETE FROM image WHERE id = ? AND used_at < ?", row.id, began } }
    end
  end
  for _, row in ipairs(d.store:all "SELECT name, app FROM image WHERE id = ''") do
    if not d.store:get(CHANGING, row.app) then d.images:look(row.name, row.name, { id = row.app }) end
  end
  d.store:commit {}
  d.store:post { { "DELETE FROM image WHERE id = '' AND used_at < ? AND NOT EXISTS (SELECT 1 FROM run "
    .. "WHERE run.app = image.app AND " .. LIVE_RUN .. ")", began } }
end

function Gc:look(o)
  local measured = disk.measure(self.d, o.fresh)
  local report, going = self:decide(measured, o.all)
  return finish(self, report), going, measured
end

-- ---- removing ----

-- Takes its names away, and so the image; Docker refuses what is in use. -> why it stays, or nil
local function remove_image(self, image)
  local d = self.d
  for _, ref in ipairs(table.move(image.names, 1, #image.names, 1, {})) do
    local ok, e = pcall(d.docker.image_remove, d.docker, ref)
    if not ok and e.code ~= "image_not_found" then return e.message end
  end
  local ok, e = pcall(d.docker.image_remove, d.docker, image.id)
  if not ok and e.code ~= "image_not_found" then return e.message end
  d.store:post { { "DELETE FROM image WHERE id = ?", image.id } }
end

-- Who looks for it meanwhile waits; who looked for it just before has written that down.
function Gc:remove(image)
  local images = self.d.images
  images.removing[image.id] = true
  local _ <close> = setmetatable({}, { __close = function()
    images.removing[image.id] = nil
    images.removed:notify()
  end })
  self.d.store:commit {}
  local found = self.d.docker:image(image.id)
  if not found then return nil end
  image.names = disk.names_of(found)
  return self:needed(image) or remove_image(self, image)
end

local function prune_cache(self, row, keep)
  local ok, status, answer = pcall(self.d.docker.call, self.d.docker, "POST",
    ("/build/prune?keep-storage=%d&reserved-space=%d"):format(keep, keep), nil, { timeout_ms = 10 * 60 * 1000 })
  self.d.build_cache = nil
  if not ok then return tostring(status) end
  row.bytes = answer.SpaceReclaimed or 0
end

-- Rows of releases of which nothing is left, beyond the newest of each app.
local function forget_releases(self)
  local ids = self.d.store:all([[SELECT id FROM (SELECT id, app, number, state,
      row_number() OVER (PARTITION BY app ORDER BY number DESC) AS place FROM release) AS r
    WHERE state = 'gone' AND place > ? AND number IS NOT
      (SELECT replaced FROM release WHERE id = (SELECT live FROM app WHERE id = r.app)) LIMIT ?]], ROWS, AT_ONCE)
  for _, row in ipairs(ids) do
    self.d.store:post { { "UPDATE job SET release = NULL WHERE release = ?", row.id },
      { "DELETE FROM release WHERE id = ? AND state = 'gone'", row.id } }
  end
  return #ids
end

-- With many apps, each app's log may take less than `log_bytes`.
local function share_logs(self)
  local d = self.d
  local apps = d.store:get("SELECT count(*) AS n FROM app").n
  local share = d.options.disk_budget // LOG_SHARE // math.max(1, apps)
  d.logs.store:keep(math.min(d.options.log_bytes, math.max(LOG_LEAST, share)))
end

function Gc:run(o)
  local _ <close> = self.turn:hold "gc"
  local d = self.d
  correct(self, clock.now())
  share_logs(self)
  local report, going, measured = self:look(o)
  local rows = report.removed
  report.releases = forget_releases(self)
  report.freed, report.removed = 0, json.array {}
  local function attempt(row, why)
    row.why = why or row.why
    if why then return why end
    report.freed = report.freed + row.bytes
    report.removed[#report.removed + 1] = row
  end
  local refused, at = {}, 0
  for _, row in ipairs(rows) do
    if row.kind == "build_cache" then
      attempt(row, prune_cache(self, row, measured.used.build_cache - row.bytes))
    else
      at = at + 1
      if attempt(row, self:remove(going[at])) then refused[#refused + 1] = { row = row, image = going[at] } end
    end
  end
  for _, r in ipairs(refused) do -- it may have been another's base
    if attempt(r.row, self:remove(r.image)) then table.insert(report.kept, r.row) end
  end
  if #report.removed > 0 then
    log.info(("%d things that nothing needed are gone from the disk: %d bytes"):format(#report.removed, report.freed))
    d.store:commit { d.store:event("disk.freed", nil, nil, { bytes = report.freed, removed = report.removed }) }
  end
  return finish(self, report)
end

-- ---- by itself ----

function Gc:nudge()
  self.asked = true
  self.woken:notify()
end

function Gc:gauge()
  local list = {}
  for kind, bytes in pairs(self.last or {}) do list[#list + 1] = { bytes, labels = { { "kind", kind } } } end
  return list
end

function Gc:start()
  task.spawn("gc", function()
    while not self.d.stopping do
      local deployed = self.asked or self.woken:wait(EVERY_MS)
      task.sleep(AFTER_MS)
      self.asked = false
      local ok, e = pcall(self.run, self, { fresh = not deployed })
      if not ok and e.code == "cancelled" then return end
      if not ok then log.warn("the disk can't be looked after: " .. tostring(e)) end
      task.sleep(APART_MS)
    end
  end)
end

return Gc
