-- logs.lua - `ndctl logs`: what an app writes.
--
-- One line of the app is one line on stdout; with several instances each begins with its instance.

local clock = require "clock"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local stream = require "ndctl.lib.stream"
local term = require "term"
local text = require "ndctl.lib.text"

local ALL = 1000000  -- lines
local SORTED = 50000 -- lines

-- UTC milliseconds from a duration or a time.
local function since_of(value)
  if not value then return nil end
  local ms = text.parse_duration(value)
  if ms then return clock.now() - ms end
  if text.parse_time(value) then return text.parse_time(value) end
  fail.usage(("--since takes a duration or a time, not '%s'"):format(value),
    "write it as 10m, or as 2026-01-31T12:00:00Z")
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

-- A function that prints a frame; instances are named once there are two of them.
local function printer(ctx, many)
  local tty, first = term.isatty(1), nil
  return function(frame)
    if ctx.options.json then
      return out.print(require("json").encode(frame))
    end
    first = first or frame.instance
    many = many or (frame.instance or first) ~= first
    local line = frame.line or ""
    if tty then line = text.clean_keeping_colour(line) end
    local head = ctx.options.timestamps and tostring(frame.time) .. "  " or ""
    if many and frame.instance then head = ("%s%s | "):format(head, short(frame)) end
    out.print(head .. line)
  end
end

-- Without --follow the lines of all instances come in the order of their times, and --tail counts
-- all of them; a log longer than SORTED lines goes out as it comes.
local function print_sorted(c, query, many, ctx)
  local frames, show = {}, nil
  local function flush()
    table.sort(frames, function(a, b)
      if a.time ~= b.time then return tostring(a.time) < tostring(b.time) end
      return a.at < b.at
    end)
    for _, frame in ipairs(frames) do
      many = many or (frame.instance or frames[1].instance) ~= frames[1].instance
    end
    show = printer(ctx, many)
    for i = math.max(1, #frames - query.tail + 1), #frames do
      frames[i].at = nil
      show(frames[i])
    end
  end
  stream.each(c, "/ws/logs", query, false, function(frame)
    if show then return show(frame) end
    frame.at = #frames + 1
    frames[frame.at] = frame
    if #frames >= SORTED then flush() end
  end)
  if not show then flush() end
end

-- Goes on with new lines, through restarts of the daemon.
local function print_following(c, query, many, ctx)
  local show, last = printer(ctx, many), {}
  stream.each(c, "/ws/logs", query, true, function(frame, again)
    local from, ms = frame.instance or "", text.parse_time(frame.time)
    local seen = last[from]
    -- Opened again, the stream begins a little earlier than it broke off.
    if again and seen and ms and (ms < seen.ms or ms == seen.ms and frame.line == seen.line) then
      return
    end
    show(frame)
    if ms then
      last[from] = { ms = ms, line = frame.line }
      query.since, query.tail = ms, ALL
    end
  end)
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
  permission = "read", json = "LogLine lines",
  examples = {
    { "ndctl logs web" },
    { "ndctl logs -f --tail 20 web", follows = true },
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
    local many = type(app.instances) == "table" and #app.instances > 1
    if o.follow then return print_following(c, query, many, ctx) end
    return print_sorted(c, query, many, ctx)
  end,
}
