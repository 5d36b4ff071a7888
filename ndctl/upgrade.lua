-- upgrade.lua - `ndctl upgrade`: the nextdeployd that is on disk takes over from the one that runs.

local clock = require "clock"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local task = require "task"

local AWAY_MOST = 60000 -- ms
local AGAIN_AFTER = 50  -- ms

-- Asks until a daemon answers that began after `since`. -> its health, ms until then.
local function await(client, since)
  while true do
    local ok, health = pcall(client.call, client, "GET", "/healthz", { timeout_ms = AWAY_MOST })
    local passed = clock.monotonic() - since
    if ok and health.uptime_ms < passed then return health, passed end
    local code = not ok and type(health) == "table" and health.code
    if not ok and code ~= "unreachable" and code ~= "lost" then error(health, 0) end
    if passed > AWAY_MOST then
      fail.raise("lost", ("the daemon at %s has not come back for a minute"):format(client.host),
        "journalctl -u nextdeployd tells why")
    end
    task.sleep(AGAIN_AFTER)
  end
end

return {
  name = "upgrade",
  summary = "Have the nextdeployd on disk take over from the one that runs, without a gap.",
  options = {},
  notes = {
    "For when new files are installed, or the configuration has changed. The new program is asked first "
      .. "whether it would start; if not, the old one goes on, and you are told why.",
    "What serves isn't touched. Requests to the daemon wait for about a second, none is refused; runs go on "
      .. "where they were, and so do `ndctl logs -f`, `ndctl events` and who waits for a deploy.",
  },
  permission = "admin", json = "Upgrade",
  examples = { { "ndctl upgrade" }, { "ndctl upgrade --json" } },
  run = function(ctx)
    local client = ctx.client()
    local versions = client:call("POST", "/upgrade", { timeout_ms = 90000 })
    local health, ms = await(client, clock.monotonic())
    versions.to = health.version
    if ctx.options.json then return out.json(versions) end
    out.print(("nextdeployd %s took over from %s in %d ms"):format(versions.to, versions.from, ms))
  end,
}
