-- version.lua - `ndctl version`: this program's version, and the daemon's if asked.

local out = require "ndctl.lib.out"
local term = require "term"

return {
  name = "version",
  summary = "Print the version of ndctl, and of the daemon with --daemon.",
  options = {
    { "daemon", type = "flag", doc = "ask the daemon for its version too" },
  },
  permission = "local", json = { type = "object", required = { "ndctl" },
    properties = { ndctl = { type = "string" }, daemon = { ["$ref"] = "#/components/schemas/Health" } } },
  examples = {
    { "ndctl version" },
    { "ndctl version --daemon --json" },
  },
  run = function(ctx)
    local daemon
    if ctx.options.daemon then daemon = ctx.client():call("GET", "/healthz") end
    if ctx.options.json then
      out.json { ndctl = term.version, daemon = daemon }
      return
    end
    out.print("ndctl " .. term.version)
    if daemon then
      out.print(("nextdeployd %s (instance %s)"):format(daemon.version, daemon.instance))
    end
  end,
}
