-- lib/world.lua - a host that isn't there, for `ndctl recipe test`: an app, its releases, who gets the
-- traffic, and a clock of its own. Each effect does to them what the daemon's does.
--
--   world.new{ random = fn(n) -> 1..n, live = whether a release is live at first, well = whether all
--              new ones become healthy and stay }
--   w.gap                     set it where the recipe says that nothing may serve for a while
--   w:act(e) -> value         raises what the daemon would; e: {name, args, key}; acts once for a key
--   w:clean(e)                nothing is left of an effect that failed or was interrupted
--   w:undo(undo)              undo: {effect, args}
--   w:lasts(e) -> ms          how long the effect takes
--   w:pass(until_ms)          the clock goes on: drains end, kept releases go
--   w:tidy()                  what the daemon does at the end of a run
--   w:broken() -> why | nil   what has to hold at every moment, and doesn't
--   w:left() -> why | nil     what has to hold in the end
--   w.story                   lines: what happened, when
-- Times are ms since the run began. Nothing here waits.

local effects = require "nd.effect"
local json = require "json"
local err = require "nd.error"

local DRAIN, KEEP = 30000, 300000 -- as the daemon's
local HEALTH_DEADLINE = 60000
local REPLICAS = 3

local World = {}
World.__index = World

local world = {}

local function found_well(r) r.healthy, r.seen = true, r.count end

function world.new(o)
  local self = setmetatable({ random = o.random, now = 0, story = {}, releases = {}, done = {},
    well = o.well }, World)
  if o.live then
    local one, two = self:add(1, "shop:v1"), self:add(2, "shop:v2")
    one.state, two.state, two.running = "kept", "live", true
    found_well(one)
    found_well(two)
    self.live, self.serving, self.had = 2, 2, true
  end
  return self
end

function World:tell(...)
  self.story[#self.story + 1] = ("%9.3f s  %s"):format(self.now / 1000, string.format(...))
end

-- `count` of its instances run, `seen` of them were seen healthy; `out`, of the live one, have been
-- stopped for their successors.
function World:add(n, image, key)
  self.releases[n] = { number = n, state = "created", image = image, key = key, replicas = REPLICAS, count = REPLICAS,
    out = 0, seen = 0, ready = 0 }
  return self.releases[n]
end

-- What becomes of a new release: most are well after a while, some never, some end soon after, some
-- look well and answer with errors.
function World:decide(r)
  local fate = self.random(10)
  r.ready = (self.well or fate > 1) and self.random(5000) or nil
  r.ends = not self.well and fate == 2 and r.ready + self.random(2000) or nil
  r.bad = not self.well and fate == 3 or nil
end

function World:get(n)
  return self.releases[n] or err.raise("release_not_found", ("there is no release %s"):format(tostring(n)))
end

local function handle(r)
  if not r then return json.null end
  local instances = json.array {}
  for i = 1, r.count do
    instances[i] = { name = ("shop-%d-%d"):format(r.number, i), address = ("10.0.%d.%d"):format(r.number, i),
      process = "web", index = i }
  end
  return { app = "shop", release = r.number, state = r.state, image = r.image, id = "sha256:" .. r.image,
    instances = instances, replicas = r.replicas }
end

-- An instance that Docker wouldn't start again: only what is live is revived.
function World:ended(r) return r.ends and r.started and self.now >= r.started + r.ends and r.number ~= self.live end

function World:start(r)
  r.running, r.started = true, self.now
end

-- ---- what effects do ----

local acts = {}

acts["app.live"] = function(self) return handle(self.releases[self.live or 0]) end

local function previous(self)
  local found
  for n, r in pairs(self.releases) do
    if n < (self.live or 0) and r.healthy and n > (found or 0) then found = n end
  end
  return self.releases[found or 0]
end

acts["app.previous"] = function(self) return handle(previous(self)) end

acts["app.release"] = function(self, _, _, n)
  if n then return handle(self:get(n)) end
  local r = previous(self)
  if not r then err.raise("nothing_to_roll_back", "'shop' has no earlier healthy release") end
  return handle(r)
end

acts["app.prepare"] = function() return json.null end

acts["app.start"] = function(self, e, _, image, options)
  local r = self:add(#self.releases + 1, image.image or image.id, e.key)
  r.replicas = options and options.replicas or r.replicas
  r.count = math.min(r.replicas, options and options.instances or r.replicas)
  self:decide(r)
  self:start(r)
  return handle(r)
end

acts["app.activate"] = function(self, _, named)
  local r = self:get(named.release)
  if r.state == "gone" then r.state = "created" end
  r.keep_until, r.drain_until = nil, nil
  self:start(r)
  return handle(r)
end

local function put_to_rest(self, _, named)
  local r = self:get(named.release)
  if r.state == "live" or r.state == "gone" then return end
  r.running, r.state, r.keep_until = false, "kept", self.now + KEEP
end

acts["app.deactivate"] = put_to_rest

local function switch(self, r)
  local before = self.releases[self.live or 0]
  if before and before ~= r then
    before.state, before.out = before.running and "draining" or "kept", 0
  end
  self.live, self.serving, self.share, r.state = r.number, r.number, nil, "live"
  r.keep_until, r.drain_until = nil, nil
  return before
end

acts["app.switch"] = function(self, e, _, named)
  local r = self:get(named.release)
  if not r.running or self:ended(r) then
    err.raise("unhealthy", ("release %d is not healthy: its instance 1 has ended"):format(r.number))
  elseif r.count < r.replicas then
    err.raise("unhealthy", ("release %d doesn't have all its instances"):format(r.number))
  end
  e.shared = self.share
  local before = switch(self, r)
  e.before = before and before.number
  return { release = r.number, before = e.before }
end

acts["app.offline"] = function(self)
  local r = self.releases[self.live or 0]
  self.live, self.serving = nil, nil
  if r then r.state = "draining" end
end

local function not_live(self, r)
  if r.number == self.live then err.raise("release_live", ("release %d of shop is live and stays"):format(r.number)) end
end

acts["app.retire"] = function(self, _, named, options)
  if not named then return json.null end
  local r = self:get(named.release)
  if r.state == "gone" then return json.null end
  not_live(self, r)
  options = options or {}
  local drain, keep = options.drain or DRAIN, options.keep or KEEP
  if r.state == "kept" then
    r.keep_until = self.now + keep
  else
    r.state, r.drain_until, r.keep = "draining", self.now + drain, keep
  end
  return { release = r.number, drain = drain, keep = keep }
end

acts["app.stop"] = function(self, _, named)
  if not named then return json.null end
  local r = self:get(named.release)
  local was_live = r.number == self.live
  if was_live then self.serving = nil end
  r.running, r.state, r.keep_until, r.drain_until = false, "kept", nil, nil
  local result = handle(r)
  result.was_live = was_live
  return result
end

acts["app.resume"] = function(self, _, named)
  local r = self:get(named.release)
  self:start(r)
  found_well(r) -- or the best there is
  switch(self, r)
end

acts["app.remove"] = function(self, _, named)
  local r = self.releases[named.release]
  if not r then return end
  not_live(self, r)
  r.running, r.state = false, "gone"
end

-- By instances, or by weight: both get traffic.
acts["app.shift"] = function(self, _, _, named, options)
  local r, live = self:get(named.release), self.releases[self.live or 0]
  not_live(self, r)
  if not live then err.raise("app_not_live", "nothing of 'shop' is live that could share its traffic") end
  if not r.running or self:ended(r) then
    err.raise("unhealthy", ("release %d is not healthy: its instance 1 has ended"):format(r.number))
  end
  if r.count < math.min(options.instances or 1, r.replicas) then
    err.raise("unhealthy", ("release %d has %d instances as yet"):format(r.number, r.count))
  end
  self.share = { release = r.number, instances = options.instances, weight = options.weight }
  live.out = math.min(options.instances or 0, live.count)
  return { release = r.number, before = live.number, instances = options.instances, weight = options.weight }
end

acts["app.unshift"] = function(self)
  local live = self.releases[self.live or 0]
  self.share = nil
  if live then live.out = 0 end
end

acts["app.grow"] = function(self, e, named, process, count)
  local r = self:get(named.release)
  if not process then count = math.min(count, r.replicas) end
  e.before = r.count
  r.count = math.max(r.count, count)
  local result = handle(r)
  result.process, result.before, result.grown = process, r.replicas, true
  return result
end

acts["app.scale"] = function(self, _, named, process, count)
  local r = self:get(named.release)
  local before = r.replicas
  r.replicas = count
  return { release = r.number, process = process, before = before, replicas = count }
end

acts["app.trim"] = function(self, _, named)
  local r = self:get(named.release)
  local removed = math.max(r.count - r.replicas, 0)
  r.count = math.min(r.count, r.replicas)
  return { removed = removed }
end

acts["health.wait"] = function(self, _, named)
  local r = self:get(named.release)
  if not r.running or self:ended(r) then
    err.raise("unhealthy", ("release %d is not healthy: its instance 1 has ended"):format(r.number))
  elseif not r.healthy and not r.ready then
    err.raise("unhealthy", ("release %d is not healthy: it answers 503"):format(r.number))
  end
  found_well(r)
  return { release = r.number, healthy = true }
end

acts["health.watch"] = function(self, e, named)
  local value = acts["health.wait"](self, e, named)
  local gets = self.share and self.share.release == named.release or self.live == named.release
  if gets and self:get(named.release).bad then
    err.raise("canary_failed", ("release %d is not to have more traffic: 20 of 20 answers were errors"):format(
      named.release))
  end
  value.answers, value.errors = gets and 100 or 0, 0
  return value
end

acts["health.check"] = function(self, _, named)
  local r = self:get(named.release)
  local well = r.running and not self:ended(r) and (r.healthy or r.ready and self.now >= r.started + r.ready)
  if well then found_well(r) end
  return { healthy = well or false, reason = not well and "it answers 503" or nil }
end

acts["docker.pull"] = function(_, _, image)
  if type(image) == "table" then image = image.image end
  return { image = image, id = "sha256:" .. image }
end
acts["docker.inspect"] = acts["docker.pull"]
acts["approval.wait"] = function() return { by = "somebody" } end
acts["time.now"] = function(self) return 1700000000000 + self.now end
acts["time.sleep"] = function() end
acts["http.request"] = function() return { status = 200, headers = {}, body = "" } end
acts["uuid"] = function(self) return ("00000000-0000-7000-8000-%012d"):format(self.random(1 << 30)) end

-- Reads and waits; the others are done once for each key.
local function repeats(name) return effects.find(name).class == "read" end

function World:act(e)
  local done = self.done[e.key]
  if done and not repeats(e.name) then return done.value end
  local act = acts[e.name]
  if not act then err.raise("not_simulated", ("%s is not simulated"):format(e.name), "test it with --plan") end
  local value = act(self, e, effects.unpack(e))
  if not repeats(e.name) then self.done[e.key] = { value = value } end
  return value
end

local cleans = {
  ["app.start"] = function(self, e)
    for _, r in pairs(self.releases) do
      if r.key == e.key then r.running, r.state = false, "gone" end
    end
  end,
  ["app.activate"] = function(self, e) put_to_rest(self, e, e.args[1]) end,
  ["app.switch"] = function(self, e)
    if not self.done[e.key] then return end
    local r, before = self:get(e.args[2].release), self.releases[e.before or 0]
    r.state, self.live, self.serving = "healthy", e.before, before and before.running and e.before or nil
    self.share = e.shared
    if before then before.out = e.shared and e.shared.instances or 0 end
    if before and before.running then before.state, before.drain_until = "live", nil end
  end,
  ["app.stop"] = function(self, e)
    local named = e.args[1]
    if type(named) == "table" and named.release == self.live then acts["app.resume"](self, e, named) end
  end,
  ["app.shift"] = function(self) acts["app.unshift"](self) end,
  ["app.grow"] = function(self, e)
    local r = self:get(e.args[1].release)
    r.count = e.before or r.count
  end,
}

function World:clean(e)
  if cleans[e.name] then cleans[e.name](self, e) end
  self.done[e.key] = nil
end

function World:undo(undo)
  acts[undo.effect](self, { name = undo.effect, args = undo.args }, table.unpack(undo.args))
end

function World:lasts(e)
  if e.name == "time.sleep" then return tonumber(e.args[1]) or 0 end
  if e.name == "approval.wait" then return self.random(3600 * 1000) end
  if e.name == "health.watch" then return tonumber(e.args[2]) or 0 end
  if e.name ~= "health.wait" then return self.random(effects.find(e.name).class == "read" and 5 or 300) end
  local r = self.releases[e.args[1].release]
  local settle = tonumber(e.args[3]) or 0
  if not r or r.healthy or not r.started then return settle + 1 end
  return math.max(0, r.started + (r.ready or HEALTH_DEADLINE) - self.now) + settle + 1
end

-- ---- time ----

local function due(self, limit)
  local first
  for n = 1, #self.releases do
    local r = self.releases[n]
    local at = r.state == "draining" and r.drain_until or r.state == "kept" and r.keep_until
    if at and at <= limit and (not first or at < first.at) then first = { at = at, release = r } end
  end
  return first
end

function World:pass(limit)
  local next = due(self, limit)
  while next do
    local r = next.release
    self.now = math.max(self.now, next.at)
    if r.state == "draining" then
      r.running, r.state, r.drain_until, r.keep_until = false, "kept", nil, self.now + (r.keep or KEEP)
      self:tell("release %d has drained; it is kept", r.number)
    else
      r.running, r.state, r.keep_until = false, "gone", nil
      self:tell("release %d is removed", r.number)
    end
    next = due(self, limit)
  end
  self.now = math.max(self.now, limit)
end

function World:tidy()
  if self.share then acts["app.unshift"](self) end
  for _, r in ipairs(self.releases) do
    local ends = r.drain_until or r.keep_until
    if r.number ~= self.live and not ends then
      if r.state == "draining" then
        r.drain_until, r.keep = self.now + DRAIN, KEEP
      elseif r.state == "kept" then
        r.keep_until = self.now + KEEP
      elseif r.state ~= "gone" then
        r.running, r.state = false, "gone"
      end
    end
  end
end

-- ---- what has to hold ----

local function check(r, instances)
  if not r.running then return ("traffic goes to release %d, which doesn't run"):format(r.number) end
  if not r.healthy or r.seen < instances then
    return ("traffic goes to release %d, which nobody has seen healthy"):format(r.number)
  end
end

function World:broken()
  local r = self.releases[self.serving or 0]
  if not r then
    return self.had and not self.gap and "nothing serves, and the recipe doesn't say that it may (gap = \"why\")" or nil
  end
  local share = self.share
  return check(r, math.min(r.count, r.replicas))
    or share and check(self:get(share.release), share.instances or self:get(share.release).count)
end

-- `alike`: the run did not get past its pivot, so what was live at first has to be.
function World:left(alike)
  if self.had and not self.serving then return "nothing serves in the end" end
  if self.had and alike and self.live ~= 2 then
    return ("the run went back, and release %d is live instead of 2"):format(self.live)
  end
  if self.serving ~= self.live then return ("release %s is live, and traffic goes elsewhere"):format(self.live) end
  if self.share then return ("release %d still gets a share of the traffic"):format(self.share.release) end
  for _, r in ipairs(self.releases) do
    if r.running and r.number ~= self.live then
      return ("release %d still runs, and nothing needs it"):format(r.number)
    end
    if r.state ~= "gone" and (r.count ~= r.replicas or r.out > 0) then
      return ("release %d has %d instances and should have %d"):format(r.number, r.count - r.out, r.replicas)
    end
  end
end

return world
