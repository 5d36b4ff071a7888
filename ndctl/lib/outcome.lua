-- lib/outcome.lua - how a run that was waited for ended, told to a person.
--
-- A success is a short summary on stdout. A failure is told on stderr: why, which step, the probes,
-- the last log lines of the container that failed, what serves now, and the next command; then the
-- run's error is raised, so that the exit status follows from it.

local clientlib = require "ndctl.lib.client"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local tables = require "ndctl.lib.table"
local text = require "ndctl.lib.text"

local outcome = {}

local LOG_LINES = 50

local function present(value)
  if value == nil or type(value) == "userdata" or value == "" then return nil end
  return value
end
outcome.present = present

function outcome.image(status)
  local image = present(status.image)
  local digest = present(status.digest)
  if not image then return digest and text.digest(digest) end
  if digest and not image:find("@", 1, true) then
    return ("%s (%s)"):format(image, text.digest(digest))
  end
  return image
end

-- Where the app is reached: the URLs of its routes.
function outcome.urls(status)
  local urls = {}
  for _, route in ipairs(present(status.routes) or {}) do
    urls[#urls + 1] = (route.tls == "off" and "http://" or "https://") .. route.domain
  end
  if #urls == 0 and present(status.domain) then urls[1] = status.domain end
  return #urls > 0 and table.concat(urls, ", ") or nil
end

local function release_of(app, number)
  for _, release in ipairs(present(app.releases) or {}) do
    if release.number == number then return release end
  end
end

local function drained(release)
  local drain = release and present(release.drain)
  if not drain then return nil end
  local cut = drain.cut or 0
  if cut == 0 then return "no connection was cut" end
  local peers = present(drain.peers)
  local s = text.plural(cut, "connection") .. " cut"
  if type(peers) == "table" and #peers > 0 then
    local few = table.move(peers, 1, math.min(#peers, 5), 1, {})
    for i, peer in ipairs(few) do few[i] = type(peer) == "table" and peer.peer or tostring(peer) end
    s = ("%s: %s%s"):format(s, table.concat(few, ", "), #peers > 5 and ", ..." or "")
  end
  return s
end

local function previous_line(app, previous, now)
  if not previous then return nil end
  local release = release_of(app, previous)
  local s = "release " .. previous
  local keep = release and present(release.keep_until)
  if keep then s = ("%s, kept until %s (%s)"):format(s, keep, text.ago(keep, now)) end
  return ("%s; back with: ndctl rollback %s"):format(s, app.app_name)
end

-- The summary of an app as it serves now, as lines; `app` is GET /apps/APP.
function outcome.summary(app, elapsed, now)
  local verb = { running = "live", degraded = "live, but degraded" }
  local head = ("%s is %s"):format(app.app_name, verb[app.status] or app.status)
  if present(app.release) then head = ("%s: release %d"):format(head, app.release) end
  local image = outcome.image(app)
  if image then head = head .. (present(app.release) and " of " or ": ") .. image end
  if elapsed then head = ("%s, in %s"):format(head, text.duration(elapsed)) end
  local previous = present(app.previous)
  local lines = { head }
  local details = tables.pairs({
    { "url", outcome.urls(app) },
    { "address", present(app.service_address) },
    { "previous", previous_line(app, previous, now) },
    { "drained", previous and drained(release_of(app, previous)) },
    { "note", present(app.message) },
  }, "  ")
  return table.move(details, 1, #details, 2, lines)
end

local function failed_effect(run)
  for i = #(run.effects or {}), 1, -1 do
    local effect = run.effects[i]
    local err = present(effect.error)
    if err and err.code ~= "cancelled" then return effect end
  end
end

local function add_probes(lines, probes)
  if not probes or #probes == 0 then return end
  lines[#lines + 1] = "Probes:"
  local first = math.max(1, #probes - 19)
  if first > 1 then lines[#lines + 1] = ("  (%d earlier ones left out)"):format(first - 1) end
  for i = first, #probes do
    local probe = probes[i]
    if type(probe) == "table" then
      local times = probe.count and (" (%d times)"):format(probe.count) or ""
      lines[#lines + 1] = ("  %s  %s%s"):format(tostring(probe.time),
        text.clean(probe.result or ""), times)
    else
      lines[#lines + 1] = "  " .. text.clean(probe)
    end
  end
end

local function add_logs(lines, logs)
  if not logs then return end
  if #logs == 0 then
    lines[#lines + 1] = "The container wrote no log lines."
    return
  end
  local first = math.max(1, #logs - LOG_LINES + 1)
  lines[#lines + 1] = ("Last %s of the container:"):format(
    text.plural(#logs - first + 1, "log line"))
  for i = first, #logs do
    local line = logs[i]
    if type(line) == "table" then line = line.line or line.text or "" end
    lines[#lines + 1] = "  | " .. text.clean(line)
  end
end

-- Why a run failed, as lines for stderr. `app` may be nil.
function outcome.failure(run, app)
  local err = present(run.error) or { code = "failed", message = "the run ended as " .. run.state }
  local effect = failed_effect(run)
  local data = present(err.data) or effect and present(present(effect.error).data) or {}
  local lines = {
    err.code == "cancelled" and text.clean(err.message):gsub("^%l", string.upper)
      or ("Failed: %s (%s)"):format(text.clean(err.message or ""), err.code or "failed"),
  }
  local step
  if effect then
    step = present(effect.label) or effect.name
    if present(effect.at) then step = ("%s, at %s"):format(step, effect.at) end
  end
  local details = tables.pairs({
    { "step", step },
    { "run", ("%s (recipe %s)"):format(run.id, run.recipe or "?") },
  }, "  ")
  table.move(details, 1, #details, #lines + 1, lines)
  add_probes(lines, present(data.probes))
  add_logs(lines, present(data.logs))
  if app and present(app.release) and (app.status == "running" or app.status == "degraded") then
    lines[#lines + 1] = ("%s still serves release %d (%s)."):format(app.app_name, app.release,
      present(app.image) or "?")
  end
  return lines, err
end

-- The app of a run as it is now; nil where it is gone or can't be asked for.
local function app_of(client, run)
  if not present(run.app) then return nil end
  local ok, app = pcall(client.call, client, "GET", "/apps/" .. clientlib.escape(run.app),
    { query = client:scoped { project = present(run.project),
      environment = present(run.environment) } })
  if ok then return app end
  if type(app) == "table" and app.code == "cancelled" and not app.http then error(app, 0) end
  return nil
end
outcome.app_of = app_of

local function raise_failure(run, err)
  local e = fail.new(run.state == "cancelled" and "run_cancelled" or err.code or "failed",
    err.message, err.hint)
  e.run, e.shown, e.data = run, true, err.data
  error(e, 0)
end

-- Tells how `run` ended. options: json = "run" | "app", what to print instead of the summary;
-- result = true adds what the recipe returned.
function outcome.tell(client, run, options)
  local clock = require "clock"
  local app = app_of(client, run)
  if run.state == "failed" or run.state == "cancelled" then
    local lines, err = outcome.failure(run, app)
    local paint = out.painter(2)
    lines[1] = paint(lines[1], "red")
    out.note(lines)
    local hint = present(err.hint)
    out.note(hint and paint("hint: ", "bold") .. text.clean(hint)
      or paint("next: ", "bold") .. "ndctl runs show " .. run.id)
    raise_failure(run, err)
  end
  if options.json then
    return out.json(options.json == "run" and run or app or run)
  end
  local elapsed
  local from, to = text.parse_time(run.started_at), text.parse_time(run.ended_at)
  if from and to then elapsed = to - from end
  if app then
    out.print(outcome.summary(app, elapsed, clock.now()))
  else
    out.print(("run %s of %s: done%s"):format(run.id, run.recipe or "?",
      elapsed and ", in " .. text.duration(elapsed) or ""))
  end
  local result = options.result and present(run.result)
  if result then
    out.print("  result    " .. (type(result) == "string" and text.clean(result)
      or require("json").encode(result)))
  end
  local later = present(run.error)
  if later then
    out.note(("Note: after the switch something failed: %s"):format(text.clean(later.message)),
      "  ndctl runs show " .. run.id)
  end
end

return outcome
