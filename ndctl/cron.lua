-- cron.lua - `ndctl cron`: when a schedule is due; the daemon's own reckoning, without a daemon.

local clock = require "clock"
local fail = require "ndctl.lib.fail"
local json = require "json"
local out = require "ndctl.lib.out"
local text = require "ndctl.lib.text"

local function next_times(ctx)
  local cron = require "cron"
  local o, expression = ctx.options, ctx.args.expression
  local from = o.from and text.parse_time(o.from)
  if o.from and not from then
    fail.usage(("--from takes a time, not '%s'"):format(o.from), "write it as 2026-01-31T12:00:00Z")
  end
  local at, times = from or clock.now(), json.array {}
  for i = 1, o.n do
    at = cron.next(expression, at, o.tz)
    if not at then break end
    times[i] = clock.format(at)
  end
  if o.json then
    return out.json { expression = expression, zone = o.tz, times = times }
  end
  out.print(times)
end

return {
  name = "cron",
  summary = "Say when a schedule is due.",
  examples = { { 'ndctl cron next "0 3 * * *" --tz Europe/Berlin' } },
  commands = {
    {
      name = "next",
      summary = "Print the next times at which an expression is due, in UTC, one a line.",
      args = { { "expression" } },
      options = {
        { "from", value = "TIME", doc = "after that time, and not from now on" },
        { "tz", value = "ZONE", default = "UTC", doc = "the zone whose clocks it goes by" },
        { "n", short = "n", type = "int", least = 1, most = 10000, default = 1, value = "N",
          doc = "so many times" },
      },
      notes = {
        "Five fields: minute, hour, day of month, month, day of week; or @daily and its kind. Where "
          .. "clocks change, a fixed time that is left out is due once right after, and one that "
          .. "comes twice is due the first time.",
      },
      permission = "local",
      json = { type = "object", required = { "expression", "zone", "times" },
        properties = { expression = { type = "string" }, zone = { type = "string" },
          times = { type = "array", items = { type = "string" } } } },
      examples = {
        { 'ndctl cron next "0 3 * * *" --tz Europe/Berlin' },
        { 'ndctl cron next "*/15 9-17 * * mon-fri" --from 2026-01-31T12:00:00Z -n 5 --json' },
      },
      run = next_times,
    },
  },
}
