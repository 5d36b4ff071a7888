-- Logs: one stream for each container, opened before it starts, kept by app, told to any number.
--
-- The lines go from the stream to disk and to followers in C (runtime/engine/log_store.h). Here is
-- only when a stream is opened: when a container was created or is about to be started, when one
-- that ran was restarted by Docker, and when the daemon or Docker came back; in the last two cases
-- what was missed is taken from Docker's own log.

local fs = require "fs"
local json = require "json"
local log = require "log"
local logs = require "logs"
local task = require "task"
local err = require "nd.error"
local tasks = require "nd.tasks"

local AT_ONCE = 4        -- containers whose gaps are being filled
local RETRY_MS = 200     -- while Docker restarts a container
local LAST_LINES_MS = 300 -- what a dying container printed may still be on its way

local Logs = {}
Logs.__index = Logs

function Logs.new(d)
  fs.mkdir(d.options.state_dir .. "/logs", 448) -- 0700
  return setmetatable({
    d = d, streams = {}, -- by container: the task that looks after its stream
    store = logs.open { dir = d.options.state_dir .. "/logs", keep = d.options.log_bytes },
  }, Logs)
end

-- An app's log (bind/logs.c says what it can); waits the first time.
function Logs:of(app_id, name)
  return self.store:app(app_id, name)
end

-- Values that must not be stored or shown, from now on, beside those added before.
function Logs:add_secrets(app_id, values)
  local app = self.d.apps:by_id(app_id)
  if app then self:of(app.id, app.name):secrets(values) end
end

-- ---- streams ----

-- What is told of a container: {name, app, app_name, number of the release}; a job's comes with it.
local function details(self, row)
  if row.app_name then return row end
  return self.d.store:get([[SELECT instance.id, instance.name, instance.container, release.number,
    app.id AS app, app.name AS app_name FROM instance JOIN release ON release.id = instance.release
    JOIN app ON app.id = release.app WHERE instance.id = ?]], row.id)
end

-- Opens the stream of a container that runs or is about to (`starts`), and fills what was missed of
-- one that has run before. -> tap, whether there is a stream; or nil without such a container
local function open(self, row, id, starts)
  local found = self.d.docker:inspect(id)
  if not found then return nil end
  local state = found.State
  local stream = starts or state.Running or state.Restarting
  return self:of(row.app, row.app_name):attach(self.d.docker, {
    container = id, instance = row.name, release = row.number, tty = found.Config.Tty or false,
    attach = stream, fill = state.Status ~= "created",
  }), stream
end

-- Reads one stream after the other, for as long as Docker restarts the container.
local function look_after(self, row, id, tap)
  while tap do
    local failed = tap:wait()
    if failed and failed.code == "docker_unreachable" then return end -- `resume` comes
    local found = self.d.docker:inspect(id)
    while found and found.State.Restarting do
      task.sleep(RETRY_MS)
      found = self.d.docker:inspect(id)
    end
    if not (found and found.State.Running) then return end
    tap = open(self, row, id)
  end
end

-- Runs `fn`; a log that can't be had is no reason for anything else to fail.
local function quietly(self, name, id, mine, fn)
  local ok, e = pcall(fn)
  if self.streams[id] == mine then self.streams[id] = nil end
  if ok then return end
  if e.code == "cancelled" then error(e, 0) end
  log.warn(("the log of %s is not followed: %s"):format(name, tostring(e)))
end

-- Opens a container's stream and goes on looking after it; returns when it is open, or when what was
-- missed of one that doesn't run is filled.
local function take_up(self, instance, id, starts)
  if self.streams[id] then return end
  local mine = {}
  self.streams[id] = mine
  local watching
  quietly(self, instance.name, id, nil, function()
    local row = details(self, instance)
    local tap, stream = nil, nil
    if row then tap, stream = open(self, row, id, starts) end
    if tap and not stream then tap:wait() end
    if not stream then return end
    watching = true
    task.spawn("log of " .. row.name, function()
      quietly(self, row.name, id, mine, function() look_after(self, row, id, tap) end)
    end)
  end)
  if not watching then self.streams[id] = nil end
end

-- Before a container is started: all it prints from now on is kept.
function Logs:attach(instance, id) take_up(self, instance, id or instance.container, true) end

-- Docker started a container by itself, or somebody else did.
function Logs:started(instance)
  if self.streams[instance.container] then return end
  task.spawn("log of " .. instance.name, function() take_up(self, instance, instance.container) end)
end

-- Takes up every container there is, and what it printed while nobody listened.
function Logs:resume()
  local rows = self.d.store:all [[SELECT instance.name, container, release.number, app.id AS app,
    app.name AS app_name FROM instance JOIN release ON release.id = instance.release
    JOIN app ON app.id = release.app WHERE gone_at IS NULL AND container IS NOT NULL
    UNION ALL SELECT job.name, container, job.number, app.id, app.name FROM job
    JOIN app ON app.id = job.app WHERE gone_at IS NULL AND container IS NOT NULL]]
  tasks.each("logs", rows, function(row) take_up(self, row, row.container) end, AT_ONCE)
end

-- ---- reading ----

-- {after=, since=, until=, release=, instance=, grep=, tail=} -> JSON text of an array, how many
function Logs:read(app, query) return self:of(app.id, app.name):read(query) end


-- The last lines of an instance, as a list of texts, for whoever asks why it failed.
function Logs:last_lines(instance, count)
  local row = details(self, instance)
  if not row then return json.array {} end
  task.sleep(LAST_LINES_MS)
  local lines = json.array {}
  for _, entry in ipairs(json.decode((self:of(row.app, row.app_name):read {
    instance = row.name, release = row.number, tail = count }))) do
    lines[#lines + 1] = entry.line
  end
  return lines
end

-- With the app goes its log.
function Logs:forget(app)
  local ok, e = pcall(function() self:of(app.id, app.name):remove() end)
  if not ok and e.code == "cancelled" then error(e, 0) end
  if not ok then log.warn(("the log of %s can't be removed: %s"):format(app.name, tostring(e))) end
end

-- UTC milliseconds, RFC 3339 in UTC, or a seq: what is smaller than 10^12 (as milliseconds that
-- would be in 2001) counts lines. -> {after=} or {since=}
function Logs.since(text)
  if not text then return {} end
  local number = text:match "^%d+$" and math.tointeger(tonumber(text))
  if number and number < 10 ^ 12 then return { after = number } end
  return { since = number or Logs.time(text, "since") }
end

function Logs.time(text, name)
  if not text then return nil end
  local number = text:match "^%d+$" and math.tointeger(tonumber(text))
  if number then return number end
  local y, mo, d, h, mi, sec, rest = text:match "^(%d%d%d%d)%-(%d%d)%-(%d%d)T(%d%d):(%d%d):(%d%d)(%.?%d*)Z$"
  if not y then
    err.raise("bad_request", ("query.%s: %q is not a time"):format(name, text),
      "write UTC milliseconds, or 2026-01-31T12:00:00Z")
  end
  y, mo = math.tointeger(y), math.tointeger(mo)
  if mo <= 2 then y, mo = y - 1, mo + 12 end -- a year that begins in March ends with its leap day
  local days = 365 * y + y // 4 - y // 100 + y // 400 + (153 * (mo - 3) + 2) // 5 + d - 719469
  local seconds = ((days * 24 + h) * 60 + mi) * 60 + sec
  return math.floor(seconds * 1000 + (tonumber("0" .. rest) or 0) * 1000)
end

function Logs:stop()
  self.store:close()
end

return Logs
