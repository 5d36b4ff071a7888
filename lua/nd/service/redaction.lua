-- Takes the values of an app's secrets out of whatever tells of the app: its log, what its jobs and
-- commands print, events, and what runs journal.
--
-- Known are the values that its releases have delivered (secrets.lua); they stay known until the daemon
-- ends, in memory for secrets. Values below 4 bytes hide nothing and are left; of one of several lines
-- each line counts; one above 64 KiB is a file, and no line of a log.
--
-- Of structured data only free text is looked at (`free` below): where a password is "shop", or "1", the
-- name of the app and the numbers of its releases have to stay what they are.

local json = require "json"
local log = require "log"
local redact = require "redact"
local release_config = require "nd.service.release_config"

local MOST_BYTES = 64 * 1024

local Redaction = {}
Redaction.__index = Redaction

function Redaction.new(d)
  return setmetatable({ d = d, known = {} --[[ app.id -> {ids = {secret.id = true}, redact} ]] }, Redaction)
end

-- The rows of secrets (with their values sealed) that an app is about to be given. What raises here is
-- learnt at the next try.
function Redaction:learn(app, rows)
  local known = self.known[app.id] or { ids = {}, redact = redact.new() }
  self.known[app.id] = known
  local ids, values = {}, {}
  local _ <close> = setmetatable({}, { __close = function()
    for _, value in ipairs(values) do value:close() end
  end })
  for _, row in ipairs(rows) do
    if not known.ids[row.id] and row.bytes <= MOST_BYTES then
      ids[#ids + 1], values[#values + 1] = row.id, self.d.secrets:open(row)
    end
  end
  if #ids == 0 then return end
  known.redact:add(values)
  self.d.logs:add_secrets(app.id, values)
  for _, id in ipairs(ids) do known.ids[id] = true end
end

function Redaction:forget(app) self.known[app.id] = nil end

-- Each by itself: one that was removed has none of the others printed.
local function learn_config(self, app_id, config)
  local app = self.d.apps:by_id(app_id)
  for name, pin in pairs(config.secrets or {}) do
    for _, had in ipairs { pin, table.unpack(pin.before or {}) } do
      local ok, e = pcall(function() self:learn(app, self.d.secrets:rows(app, { [name] = had })) end)
      if not ok and e.code ~= "secret_gone" then
        log.error(("the secret %s of %s can't be taken out of its log: %s"):format(name, app.name, tostring(e)))
      end
    end
  end
end

-- At the daemon's start, before anything is read: what the containers there are have, and those of runs.
function Redaction:start()
  for _, row in ipairs(self.d.store:all [[SELECT * FROM release WHERE state <> 'gone' OR EXISTS
    (SELECT 1 FROM job WHERE job.release = release.id AND job.gone_at IS NULL)]]) do
    learn_config(self, row.app, release_config.problem(row) and {} or release_config.of(row))
  end
  for _, row in ipairs(self.d.store:all "SELECT app, spec FROM run WHERE ended_at IS NULL AND spec IS NOT NULL") do
    local ok, config = pcall(json.decode, row.spec)
    if ok then learn_config(self, row.app, config) end
  end
end

-- ---- texts ----

local none = { text = function(_, s) return s end, part = function(_, s) return s, "" end }

-- What takes them out of texts: :text(s), :part(s, more) (bind/redact.c).
function Redaction:of(app_id)
  local known = self.known[app_id]
  return known and known.redact or none
end

function Redaction:text(app_id, text) return self:of(app_id):text(text) end

-- Fields that hold what somebody wrote: below them every text counts.
local free = { text = true, message = true, hint = true, error = true, logs = true, output = true, body = true,
  stdout = true, stderr = true, line = true, reason = true, why = true, headers = true, url = true }

local function walk(r, value, is_free)
  if type(value) == "string" then return is_free and r:text(value) or value end
  if type(value) ~= "table" then return value end
  local out
  for name, inner in pairs(value) do
    local clean = walk(r, inner, is_free and name ~= "code" or free[name])
    if clean ~= inner then
      if not out then
        out = setmetatable({}, getmetatable(value))
        for k, v in pairs(value) do out[k] = v end
      end
      out[name] = clean
    end
  end
  return out or value
end

-- A JSON value with its free texts redacted; `value` itself where there is nothing to take out.
function Redaction:value(app_id, value, is_free)
  local known = self.known[app_id]
  return known and walk(known.redact, value, is_free) or value
end

return Redaction
