-- events.lua - `ndctl events`: what happens on the host, as it happens.

local out = require "ndctl.lib.out"
local stream = require "ndctl.lib.stream"
local text = require "ndctl.lib.text"

local function told(frame)
  local data = frame.data or {}
  local label = data.label or data.text or data.status or data.message
  if not label and frame.kind == "run.started" then
    label = ("%s, by %s"):format(data.recipe, data.owner)
  elseif not label and frame.kind == "run.ended" then
    label = ("%s, %s"):format(data.recipe, data.state)
  end
  if not label and next(data) then label = require("json").encode(data) end
  local why = type(data.error) == "table" and data.error.message or data.error
  if data.ok == false or why then
    label = ("%s (failed%s)"):format(label or "", why and ": " .. tostring(why) or "")
  end
  return ("%s  %-16s  %-12s  %s"):format(tostring(frame.time), frame.kind,
    frame.app or "-", text.clean(label or ""))
end

return {
  name = "events",
  summary = "Print events: runs, their steps, apps, instances. Follows until interrupted.",
  args = { { "app", optional = true } },
  options = {
    { "app", short = "a", value = "NAME", key = "of", doc = "those of one app, as the argument says too" },
    { "run", value = "ID", complete = "runs", doc = "those of one run" },
    { "since", type = "int", value = "SEQ", doc = "begin after this sequence number" },
    { "follow", short = "f", type = "flag", negatable = true, default = true,
      doc = "go on with new events (the default), or end after those there are" },
  },
  permission = "read", json = "Event lines",
  examples = {
    { "ndctl events", follows = true },
    { "ndctl events web --since 0 --no-follow --json" },
  },
  run = function(ctx)
    local c, o = ctx.client(), ctx.options
    local query = c:scoped { app = ctx.args.app or o.of, run = o.run, since = o.since,
      follow = tostring(o.follow) }
    if o.follow and not o.since then -- a number to go on from, should it break before the first event
      local last = c:call("GET", "/ws/events")
      query.since = #last > 0 and last[#last].seq or 0
    end
    stream.each(c, "/ws/events", query, o.follow, function(frame)
      out.print(o.json and require("json").encode(frame) or told(frame))
      query.since = frame.seq or query.since
    end)
  end,
}
