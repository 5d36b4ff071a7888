-- events.lua - `ndctl events`: what happens on the host, as it happens.

local clientlib = require "ndctl.lib.client"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local task = require "task"
local text = require "ndctl.lib.text"

local clock = require "clock"

local AWAY_MOST = 60000 -- ms

local function told(frame)
  local data = frame.data or {}
  local label = data.label or data.text or data.status or data.state or data.message
  if data.ok == false then label = (label or "") .. " (failed)" end
  return ("%s  %-16s  %-12s  %s"):format(tostring(frame.time), frame.kind,
    frame.app or "-", text.clean(label or ""))
end

return {
  name = "events",
  summary = "Print events: runs, their steps, apps, instances. Follows until interrupted.",
  args = { { "app", optional = true } },
  options = {
    { "run", value = "ID", doc = "those of one run" },
    { "since", type = "int", value = "SEQ", doc = "begin after this sequence number" },
    { "follow", short = "f", type = "flag", negatable = true, default = true,
      doc = "go on with new events (the default), or end after those there are" },
  },
  examples = {
    { "ndctl events" },
    { "ndctl events web --since 0 --no-follow --json" },
  },
  run = function(ctx)
    local c, o = ctx.client(), ctx.options
    local query = c:scoped { app = ctx.args.app, run = o.run, since = o.since,
      follow = tostring(o.follow) }
    c:call("GET", "/healthz")
    local ws, away_since = c:websocket("/ws/events", query), nil
    while true do
      local frames = ws and clientlib.receive(ws)
      for _, frame in ipairs(frames or {}) do
        if frame.seq then query.since = frame.seq end
        out.print(o.json and require("json").encode(frame) or told(frame))
      end
      if frames then
        away_since = nil
      elseif not o.follow then
        return
      else
        away_since = away_since or clock.monotonic()
        if clock.monotonic() - away_since > AWAY_MOST then
          fail.raise("lost", ("the daemon at %s hasn't answered for a minute"):format(c.host))
        end
        task.sleep(500)
        local ok, again = pcall(c.websocket, c, "/ws/events", query)
        if not ok and type(again) == "table" and again.code == "cancelled" then error(again, 0) end
        ws = ok and again or nil
      end
    end
  end,
}
