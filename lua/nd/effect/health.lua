-- health.wait: a release is healthy once every instance passed its probes, and stays so for
-- `settle`. What a probe is, is in service/health.lua and recipes/healthcheck/README.md.

local duration = require "nd.duration"

local SLACK_MS = 10 * 60 * 1000

local function wait(ctx, handle, health, settle)
  local release = ctx.d.releases:get(ctx.app, handle.release)
  return ctx.d.health:wait(ctx, release, health, settle or 0,
    handle.grown and ctx.d.scale:grown(release, handle))
end

local row = {
  version = 1, class = "read", planned = true, capability = "app",
  args = { { "release", "release" }, { "health", "table", "optional" }, { "settle", "ms", "optional" } },
  label = function(release, health, settle)
    local text = ("wait until release %d is healthy"):format(release.release)
    if health and health.path then text = text .. " at " .. health.path end
    if settle and settle > 0 then text = text .. ", for " .. duration.text(settle) end
    return text
  end,
  deadline = false, -- its probe has one
  act = wait,
  plan = function(_, handle) return { release = handle.release, healthy = true } end,
}

local function limits_of(limits)
  local text = limits.errors and (", at most %g %% errors"):format(limits.errors) or ""
  return text .. (limits.latency and (", 95 %% within %s"):format(duration.text(limits.latency)) or "")
end

return {
  ["health.wait"] = row,

  -- A release that has traffic stays healthy, and what it answers is good.
  ["health.watch"] = {
    version = 1, class = "read", planned = true, capability = "app",
    args = { { "release", "release" }, { "time", "ms" }, { "limits", "table", "optional" } },
    label = function(release, ms, limits)
      return ("watch release %d for %s%s"):format(release.release, duration.text(ms), limits_of(limits or {}))
    end,
    deadline = function(_, _, ms) return ms + SLACK_MS end,
    act = function(ctx, handle, ms, limits)
      return ctx.d.gate:watch(ctx, ctx.d.releases:get(ctx.app, handle.release), ms, limits or {})
    end,
    plan = function(_, handle) return { release = handle.release, answers = 0, errors = 0 } end,
  },

  -- One look: true, or false and why.
  ["health.check"] = {
    version = 1, class = "read", capability = "app",
    args = { { "release", "release" }, { "health", "table", "optional" } },
    label = function(release) return ("probe release %d"):format(release.release) end,
    act = function(ctx, handle, health)
      local release = ctx.d.releases:get(ctx.app, handle.release)
      local ok, why = ctx.d.health:check(release, health)
      return { healthy = ok, reason = why }
    end,
    plan = function() return { healthy = true } end,
  },
}
