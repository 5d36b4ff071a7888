-- scale.lua - `ndctl scale`: another number of instances, of the release that is live.

local act = require "ndctl.lib.act"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"

-- "worker=3" or "3" (of web) -> process, number
local function read(word)
  local process, count = word:match "^([%w-]+)=(%d+)$"
  process, count = process or "web", count or word:match "^%d+$"
  if not count then
    fail.usage(("'%s' is neither a number nor PROCESS=NUMBER"):format(word), "as in ndctl scale shop worker=3")
  end
  return process, math.tointeger(tonumber(count))
end

return {
  name = "scale",
  summary = "Change how many instances of a process an app has; nothing is dropped.",
  usage = { "scale APP [PROCESS=]NUMBER ... [options]" },
  args = { { "app" }, { "number", many = true } },
  options = {
    { "drain", type = "duration", value = "TIME",
      doc = "how long connections of those that go may take to end" },
    table.unpack(act.run_options),
  },
  notes = {
    "New instances get traffic once they are healthy; of too many, the last ones drain and are "
      .. "removed. The release stays the same, and later deploys begin with this number.",
  },
  permission = "deploy", json = "AppStatus", conflict = true,
  examples = {
    { "ndctl scale web 2" },
    { "ndctl scale web web=3 worker=5", "two of its processes", skip = "it has one process here" },
    { "ndctl scale web 1 --drain 1s" },
    { "ndctl scale web 5 --plan", "exit status 1: something would change", status = 1 },
  },
  run = function(ctx)
    local app, wanted = ctx.args.app, {}
    for i, word in ipairs(ctx.args.number) do
      local process, count = read(word)
      wanted[i] = { app_name = app, process = process, replicas = count, drain = ctx.options.drain }
    end
    local status = 0
    for _, body in ipairs(wanted) do
      if ctx.options.plan then
        status = math.max(status, act.plan(ctx, "/scale", body))
      else
        out.progress(("Scaling %s of %s to %d ..."):format(body.process, app, body.replicas))
        act.post(ctx, { path = "/scale", body = body })
      end
    end
    return status
  end,
}
