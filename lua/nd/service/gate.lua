-- Whether the next release may have more of the traffic: by what it answers to its share of it.
--
-- Counted is what the proxies log of the app's host names: answers, errors (5xx) and how long they took,
-- of both releases. It may end at any moment, as soon as too much is wrong; and it says no in the end
-- where too large a part was wrong of however few. Its probes and its containers are watched in any case,
-- and nothing else where no proxy splits the traffic.
--
--   gate:watch(ctx, release, ms, {errors=percent, latency=ms|nil, least=, health=}) -> {release, answers,
--       errors, p95, before = {the same of the live one}}   parks for so long; raises canary_failed,
--       unhealthy. `least`: errors that are needed to end it early, or answers for the latency
--   Gate.tally() -> t, t:add(status, ms, now), t:verdict(limits, now, done) -> why | nil

local clock = require "clock"
local json = require "json"
local task = require "task"
local duration = require "nd.duration"
local err = require "nd.error"
local tasks = require "nd.tasks"

local LOOK_MS = 200
local TELL_MS = 5000
local RECENT_MS, SLOTS = 5000, 6   -- what is recent: six slots of five seconds
local STEP = 1.1                   -- from one class of the latencies to the next
local ERRORS, LEAST = 2, 20

local Gate = {}
Gate.__index = Gate

function Gate.new(d) return setmetatable({ d = d }, Gate) end

-- ---- counting ----

local Tally = {}
Tally.__index = Tally

function Gate.tally()
  return setmetatable({ answers = 0, errors = 0, timed = 0, classes = {}, slots = {} }, Tally)
end

function Tally:add(status, ms, now)
  local bad = status >= 500 and 1 or 0
  local n = now // RECENT_MS
  local slot = self.slots[n % SLOTS]
  if not slot or slot.n ~= n then
    slot = { n = n, answers = 0, errors = 0 }
    self.slots[n % SLOTS] = slot
  end
  self.answers, self.errors = self.answers + 1, self.errors + bad
  slot.answers, slot.errors = slot.answers + 1, slot.errors + bad
  if status == 101 then return end -- how long a WebSocket was open
  local class = math.max(0, math.ceil(math.log(math.max(ms, 1), STEP)))
  self.timed, self.classes[class] = self.timed + 1, (self.classes[class] or 0) + 1
end

-- ms that 95 of 100 answers took at most, to ten percent; nil without any
function Tally:p95()
  local left, classes = self.timed * 0.95, {}
  for class in pairs(self.classes) do classes[#classes + 1] = class end
  table.sort(classes)
  for _, class in ipairs(classes) do
    left = left - self.classes[class]
    if left <= 0 then return STEP ^ class end
  end
end

function Tally:recent(now)
  local answers, errors = 0, 0
  for _, slot in pairs(self.slots) do
    if slot.n > now // RECENT_MS - SLOTS then answers, errors = answers + slot.answers, errors + slot.errors end
  end
  return answers, errors
end

local function too_many(answers, errors, least, percent)
  if errors < least or errors == 0 or errors * 100 <= percent * answers then return nil end
  return ("%d of %d answers were errors (%.3g %%, and at most %g %% may be)"):format(errors, answers,
    errors * 100 / answers, percent)
end

function Tally:verdict(limits, now, done)
  local errors, least = limits.errors or ERRORS, limits.least or LEAST
  local recent, recent_errors = self:recent(now)
  local why = too_many(self.answers, self.errors, done and 1 or least, errors)
    or too_many(recent, recent_errors, least, errors)
  if why then return why end
  local p95 = limits.latency and self.timed >= (done and 1 or least) and self:p95()
  if p95 and p95 > limits.latency * STEP then
    return ("a twentieth of its %d answers took longer than %s, and %s is allowed"):format(self.timed,
      duration.text(math.floor(p95 / STEP)), duration.text(limits.latency))
  end
end

function Tally:figures(release)
  local p95 = self:p95()
  return { release = release, answers = self.answers, errors = self.errors,
    p95 = p95 and math.floor(p95 + 0.5) or json.null }
end

local function text_of(f)
  if f.answers == 0 then return ("release %d: no answers"):format(f.release) end
  return ("release %d: %d answers, %d errors, 95 %% within %s"):format(f.release, f.answers, f.errors,
    f.p95 == json.null and "-" or duration.text(f.p95))
end

-- ---- watching ----

-- Reads the proxies' logs until it is time; `count[n]`: the tally of release n.
local function follow(self, ctx, release, limits, count, until_ms)
  if not self.d.shift:canary(ctx.app) then return end
  local hosts, kinds = {}, {}
  for _, r in ipairs(self.d.shift:hosts(ctx.app)) do hosts[r.domain], kinds[r.proxy_type] = true, true end
  local log = self.d.proxy:answers(kinds)
  local _ <close> = setmetatable({}, { __close = function() log:close() end })
  local tell = clock.now() + TELL_MS
  while true do
    task.sleep(math.max(0, math.min(LOOK_MS, until_ms - clock.now())))
    local now = clock.now()
    log:read(function(host, number, status, ms)
      if hosts[host] and count[number] then count[number]:add(status, ms, now) end
    end)
    local why = count[release.number]:verdict(limits, now, now >= until_ms)
    if why then
      err.raise("canary_failed", ("release %d is not to have more traffic: %s"):format(release.number, why),
        ("see what it printed: `ndctl logs %s`; all traffic goes back to the old version"):format(ctx.app.name))
    end
    if now >= until_ms then return end
    if now >= tell then
      tell = now + TELL_MS
      ctx.progress(text_of(count[release.number]:figures(release.number)))
    end
  end
end

function Gate:watch(ctx, release, ms, limits)
  local live = self.d.releases:live(ctx.app)
  local count = { [release.number] = Gate.tally() }
  if live and not count[live.number] then count[live.number] = Gate.tally() end
  local until_ms = math.max(clock.now(), ctx.asked_at + ms)
  tasks.all("watch", {
    function() self.d.health:hold(ctx, release, limits.health, math.max(0, until_ms - clock.now())) end,
    function() follow(self, ctx, release, limits, count, until_ms) end,
  })
  local figures = count[release.number]:figures(release.number)
  figures.before = live and live.number ~= release.number and count[live.number]:figures(live.number) or nil
  if figures.before then ctx.progress(text_of(figures) .. "; " .. text_of(figures.before)) end
  return figures
end

return Gate
