-- What a configuration may say of its processes, checked: {NAME = {kind, ...}} -> the same, whole.
--
-- The kind follows from the name (web, worker, cron, job), from a `schedule` (cron), else it is a
-- worker; `kind` says otherwise.

local clock = require "clock"
local cron = require "cron"
local json = require "json"
local duration = require "nd.duration"
local err = require "nd.error"

local kinds = { web = true, worker = true, cron = true, job = true }
local called = { cron = true, job = true }
local LEAST_TIMEOUT_MS = 1000

local function bad(where, message, hint) err.raise("bad_request", where .. ": " .. message, hint) end

local function choice(name, allowed)
  return function(v, where)
    for _, one in ipairs(allowed) do
      if v == one then return v end
    end
    bad(where, ("%s must be one of %s"):format(name, table.concat(allowed, ", ")))
  end
end

-- Fields that only processes have; what every app may say comes from app_config.
local own = {
  kind = choice("kind", { "web", "worker", "cron", "job" }),
  replicas = function(v, where)
    if math.type(v) ~= "integer" or v < 0 or v > 20 then bad(where, "replicas must be 0 to 20") end
    return v
  end,
  overlap = choice("overlap", { "skip", "allow" }),
  missed = choice("missed", { "skip", "run" }),
  timeout = function(v, where)
    local ms = duration.ms(where .. ".timeout", v)
    if ms < LEAST_TIMEOUT_MS then bad(where, "timeout must be at least 1s") end
    return ms
  end,
  schedule = function(v) return v end, -- with the zone, below
  zone = function(v) return v end,
}

-- Which kinds a field means something for.
local only = {
  replicas = { web = true, worker = true }, port = { web = true, worker = true },
  health = { web = true, worker = true }, publish = { web = true, worker = true },
  schedule = { cron = true }, zone = { cron = true },
  overlap = { cron = true }, missed = { cron = true }, timeout = called,
}

local function check_name(name)
  if type(name) ~= "string" or #name > 20 or not name:match "^[a-z][a-z0-9-]*$" or name:match "%-$" then
    bad("processes", ("%s is not a name for a process"):format(json.encode(name)),
      "use 1 to 20 of a-z, 0-9 and -, beginning with a letter")
  end
  if name == "release" then
    bad("processes", "the name 'release' is taken by the release command", "choose another")
  end
end

local function unknown(where, field, common)
  local names = {}
  for name in pairs(own) do names[#names + 1] = name end
  for name in pairs(common) do names[#names + 1] = name end
  table.sort(names)
  local near = err.nearest(tostring(field), names)
  bad(where, ("there is no field '%s'"):format(tostring(field)), near and ("did you mean '%s'?"):format(near)
    or "the fields are " .. table.concat(names, ", "))
end

local function check_schedule(p, where)
  if type(p.schedule) ~= "string" then
    bad(where, "a cron process needs a schedule", 'as in schedule = "*/5 * * * *"')
  end
  if p.zone ~= nil and type(p.zone) ~= "string" then bad(where, "zone must be a name such as Europe/Berlin") end
  local ok, e = pcall(cron.next, p.schedule, clock.now(), p.zone)
  if not ok then err.raise(e.code, where .. ": " .. e.message, e.hint) end
end

local function process(name, given, common)
  local where = "processes." .. name
  if type(given) ~= "table" then bad(where, "must be a table of settings") end
  local out = {}
  for field, value in pairs(given) do
    if own[field] then
      out[field] = own[field](value, where)
    elseif common[field] then
      local ok, checked = pcall(common[field], value)
      if not ok then bad(where, checked.message, checked.hint) end
      out[field] = checked
    else
      unknown(where, field, common)
    end
  end
  out.kind = out.kind or kinds[name] and name or out.schedule and "cron" or "worker"
  if name == "web" and out.kind ~= "web" then bad(where, "the process named web is of kind web") end
  for field in pairs(out) do
    if only[field] and not only[field][out.kind] then
      bad(where, ("a %s has no %s"):format(out.kind, field))
    end
  end
  if out.kind == "cron" then check_schedule(out, where) end
  if called[out.kind] and not (out.command and #out.command > 0) then
    bad(where, ("a %s needs a command"):format(out.kind), 'as in command = { "./report" }')
  end
  if out.kind == "web" and name ~= "web" and not out.port then
    bad(where, "a web process other than web needs a port of its own")
  end
  if name == "web" and out.replicas == 0 then
    bad(where, "web has at least 1 replica", "`ndctl stop` takes an app down")
  end
  return out
end

-- nil where there are none: the app is one process, web.
return function(value, common)
  if type(value) ~= "table" or #value > 0 then
    bad("processes", "must be an object: { web = {...}, worker = {...} }")
  end
  local out, any, long = {}, false, false
  for name, given in pairs(value) do
    check_name(name)
    out[name] = process(name, given, common)
    any, long = true, long or not called[out[name].kind]
  end
  if not any then return nil end
  if not long then
    bad("processes", "none of them runs all the time", "add web = {} or a worker; one-off commands run beside it")
  end
  return out
end
