-- health.wait: a release is healthy once every instance passed its probes, and stays so for
-- `settle`. What a probe is, is in service/health.lua and recipes/healthcheck/README.md.

local duration = require "nd.duration"

local function wait(ctx, handle, health, settle)
  local release = ctx.d.releases:get(ctx.app, handle.release)
  return ctx.d.health:wait(ctx, release, health, settle or 0, handle.grown and ctx.d.scale:grown(release))
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

return {
  ["health.wait"] = row,

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
