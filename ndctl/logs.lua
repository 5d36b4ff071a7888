-- logs.lua - `ndctl logs`: what an app writes, and wrote, also in containers that are gone.
--
-- One line of the app is one line on stdout; with several instances each begins with its instance.

local clock = require "clock"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local stream = require "ndctl.lib.stream"
local term = require "term"
local text = require "ndctl.lib.text"

-- UTC milliseconds from a duration or a time.
local function time_of(option, value)
  local ms = text.parse_duration(value)
  if ms then return clock.now() - ms end
  if text.parse_time(value) then return text.parse_time(value) end
  fail.usage(("--%s takes a duration or a time, not '%s'"):format(option, value),
    "write it as 10m, or as 2026-01-31T12:00:00Z")
end

-- What the daemon takes: the seq of a line as it is, else a time.
local function since_of(value)
  if not value or value:match "^%d+$" then return value end
  return time_of("since", value)
end

-- "web-2-1" of "nd-08f9-default-production-shop-web-2-1": process, release, index.
local function short(frame)
  local name, mark = frame.instance or "", "-" .. (frame.app or "") .. "-"
  local last
  local at = name:find(mark, 1, true)
  while at do
    last, at = at, name:find(mark, at + 1, true)
  end
  return last and name:sub(last + #mark) or name
end

-- Whether lines of more than one instance can come: there are several, or were, in a release before.
local function many(app, options)
  if options.instance then return false end
  local count = 0
  for _, i in ipairs(type(app.instances) == "table" and app.instances or {}) do
    if not options.release or i.release == options.release then count = count + 1 end
  end
  return count > 1 or not options.release and (tonumber(app.release) or 1) > 1
end

-- A function that prints a frame; instances are named where there are several.
local function printer(ctx, named)
  local tty, first = term.isatty(1), nil
  return function(frame)
    if ctx.options.json then
      return out.print(require("json").encode(frame))
    end
    if frame.dropped then
      return out.note(("%d lines are missing here: they came faster than they could be %s"):format(
        frame.dropped, frame.seq and "stored" or "read"))
    end
    first = first or frame.instance
    named = named or (frame.instance or first) ~= first
    local line = frame.line or ""
    if tty then line = text.clean_keeping_colour(line) end
    local head = ctx.options.timestamps and tostring(frame.time) .. "  " or ""
    if named and frame.instance then head = ("%s%s | "):format(head, short(frame)) end
    out.print(head .. line)
  end
end

return {
  name = "logs",
  summary = "Print an app's log, of gone containers too; search it, follow it with -f.",
  args = { { "app" } },
  options = {
    { "follow", short = "f", type = "flag", doc = "go on with new lines until interrupted" },
    { "tail", short = "n", type = "int", value = "N",
      doc = "begin with the last N lines (100, or with --since all)" },
    { "since", value = "TIME",
      doc = "lines since then: 10m, 2026-01-31T12:00:00Z, or after the line with that seq: 1234" },
    { "until", value = "TIME", doc = "lines before then; not with --follow" },
    { "grep", short = "g", value = "TEXT", doc = "lines that contain this text, as it is" },
    { "release", value = "N", type = "int", doc = "lines of that release" },
    { "instance", value = "NAME", doc = "lines of that instance: web-2-1, or its whole name" },
    { "timestamps", short = "t", type = "flag", doc = "begin each line with its time" },
  },
  permission = "read", json = "LogLine lines",
  examples = {
    { "ndctl logs web" },
    { "ndctl logs -f --tail 20 web", follows = true },
    { "ndctl logs --since 10m -t web" },
    { "ndctl logs --release 1 --grep listens web" },
  },
  run = function(ctx)
    local c, o = ctx.client(), ctx.options
    if o.follow and o["until"] then
      fail.usage("--follow has no end, and --until names one", "leave one of them out")
    end
    local query = c:scoped {
      app = ctx.args.app, follow = tostring(o.follow or false), since = since_of(o.since),
      ["until"] = o["until"] and time_of("until", o["until"]), grep = o.grep,
      release = o.release, instance = o.instance, tail = o.tail,
    }
    local app = c:call("GET", "/status", { query = c:scoped { app = ctx.args.app } })
    local show = printer(ctx, many(app, o))
    if o.follow and o.tail == 0 then -- a number to go on from, should it break before the first line
      local last = c:call("GET", "/ws/logs", { query = c:scoped { app = ctx.args.app, tail = 1 } })
      query.since, query.tail = last[1] and last[1].seq or 0, nil
    end
    -- A stream that breaks goes on after the last line it brought.
    stream.each(c, "/ws/logs", query, o.follow, function(frame)
      show(frame)
      if frame.seq then query.since, query.tail = frame.seq, nil end
    end)
  end,
}
