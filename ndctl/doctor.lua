-- doctor.lua - `ndctl doctor`: is everything well, and what to do where it isn't.

local out = require "ndctl.lib.out"
local outcome = require "ndctl.lib.outcome"
local text = require "ndctl.lib.text"

local present = outcome.present

-- The daemon's checks, whatever they are grouped by: [{name, ok | state, message, hint}].
local function checks_of(payload)
  return present(payload.checks) or payload
end

local function state_of(check)
  if check.state then return check.state end
  if check.ok == nil then return "info" end
  return check.ok and "ok" or "bad"
end

local colours = { ok = "green", bad = "red", failed = "red", error = "red", warn = "yellow",
  warning = "yellow", info = "dim" }
local bad = { bad = true, failed = true, error = true }

return {
  name = "doctor",
  summary = "Check the host, Docker, the proxy, the rules and the journal.",
  options = {}, permission = "read", json = "Doctor",
  examples = { { "ndctl doctor" }, { "ndctl doctor --json" } },
  run = function(ctx)
    local payload = ctx.client():call("GET", "/doctor", { timeout_ms = 120000 })
    local checks, failures = checks_of(payload), 0
    for _, check in ipairs(checks) do
      if bad[state_of(check)] then failures = failures + 1 end
    end
    if ctx.options.json then
      out.json(payload)
      return failures > 0 and 1 or 0
    end
    local paint, width = out.painter(1), 0
    for _, check in ipairs(checks) do width = math.max(width, text.width(check.name)) end
    for _, check in ipairs(checks) do
      local state = state_of(check)
      out.print(("%s  %s  %s"):format(paint(text.pad(state, 4), colours[state] or "dim"),
        text.pad(check.name, width), text.clean(present(check.message) or "")))
      if state ~= "ok" and present(check.hint) then
        out.print(("      %s  hint: %s"):format((" "):rep(width), text.clean(check.hint)))
      end
    end
    if failures > 0 then
      out.progress(("%s found."):format(text.plural(failures, "problem")))
      return 1
    end
  end,
}
