-- Effects of time: the clock and waiting are the world's, so a replay sees the same.

local clock = require "clock"
local crypto = require "crypto"
local duration = require "nd.duration"
local task = require "task"

return {
  ["time.now"] = {
    version = 1, class = "read", capability = "time", args = {},
    label = function() return "read the clock" end,
    act = function() return clock.now() end,
    plan = function(ctx) return clock.now() + ctx.slept end,
  },

  ["uuid"] = {
    version = 1, class = "read", capability = "time", args = {},
    label = function() return "make an id" end,
    act = function() return crypto.uuid() end,
    plan = function() return "00000000-0000-0000-0000-000000000000" end,
  },

  ["time.sleep"] = {
    version = 1, class = "read", planned = true, capability = "time", args = { { "ms", "ms" } },
    label = function(ms) return "sleep " .. duration.text(ms) end,
    deadline = false,
    wake = function(_, ms) return ms end,
    act = function(ctx, ms) task.sleep(math.max(0, ctx.asked_at + ms - clock.now())) end,
    plan = function() end,
  },
}
