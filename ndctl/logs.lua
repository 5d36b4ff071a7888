-- logs.lua - `ndctl logs`: what an app writes.
--
-- One line of the app is one line on stdout; with several instances each begins with its instance.

local clock = require "clock"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local stream = require "ndctl.lib.stream"
local term = require "term"
local text = require "ndctl.lib.text"

local ALL = 1000000 -- lines

-- UTC milliseconds from a duration or a time.
local function since_of(value)
  if not value then return nil end
  local ms = text.parse_duration(value)
  if ms then return clock.now() - ms end
  if text.parse_time(value) then return text.parse_time(value) end
  fail.usage(("--since takes a duration or a time, not '%s'"):format(value),
    "write it as 10m, or as 2026-01-31T12:00:00Z")
end

local function printer(ctx, many)
  local tty = term.isatty(1)
  return function(frame)
    if ctx.options.json then
      return out.print(require("json").encode(frame))
    end
    local line = frame.line or ""
    if tty then line = text.clean_keeping_colour(line) end
    local head = ctx.options.timestamps and tostring(frame.time) .. "  " or ""
    if many and frame.instance then head = ("%s%s | "):format(head, frame.instance) end
    out.print(head .. line)
  end
end

return {
  name = "logs",
  summary = "Print an app's log, and follow it with -f.",
  args = { { "app" } },
  options = {
    { "follow", short = "f", type = "flag", doc = "go on with new lines until interrupted" },
    { "tail", short = "n", type = "int", value = "N",
      doc = "begin with the last N lines (100, or with --since all)" },
    { "since", value = "TIME", doc = "lines since then: 10m, or 2026-01-31T12:00:00Z" },
    { "timestamps", short = "t", type = "flag", doc = "begin each line with its time" },
  },
  examples = {
    { "ndctl logs web" },
    { "ndctl logs -f --tail 20 web" },
    { "ndctl logs --since 10m -t web" },
  },
  run = function(ctx)
    local c, o = ctx.client(), ctx.options
    local since = since_of(o.since)
    local app = c:call("GET", "/status", { query = c:scoped { app = ctx.args.app } })
    local query = c:scoped {
      app = ctx.args.app, follow = tostring(o.follow or false), since = since,
      tail = o.tail or (since and ALL or 100),
    }
    local show = printer(ctx, type(app.instances) == "table" and #app.instances > 1)
    local last = {} -- per instance
    stream.each(c, "/ws/logs", query, o.follow, function(frame, again)
      local from, ms = frame.instance or "", text.parse_time(frame.time)
      -- Opened again, the stream begins a little earlier than it broke off.
      local seen = last[from]
      if again and seen and ms and (ms < seen.ms or ms == seen.ms and frame.line == seen.line)
        then return end
      show(frame)
      if ms then
        last[from] = { ms = ms, line = frame.line }
        query.since, query.tail = ms, ALL
      end
    end)
  end,
}
