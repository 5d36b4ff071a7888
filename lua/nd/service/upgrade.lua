-- Upgrade: the program on disk takes over, in this process and with its listening sockets.
--
-- The new program is asked first whether it would come up (--check): one that wouldn't, changes nothing.
-- Then this one ends as on SIGTERM, but its sockets stay open, where connections wait, and it is replaced
-- by execve. Runs go on from the journal; whoever follows something asks again after the last number he saw.

local log = require "log"
local process = require "process"
local err = require "nd.error"

local CHECK_MS = 60000

local Upgrade = {}
Upgrade.__index = Upgrade

function Upgrade.new(d) return setmetatable({ d = d }, Upgrade) end

-- The version of the program on disk; raises "upgrade_refused" where it wouldn't come up.
local function check(d)
  local argv = { d.program, table.unpack(d.argv) }
  argv[#argv + 1] = "--check"
  local ok, r = pcall(process.run, { argv = argv, timeout_ms = CHECK_MS })
  local version = ok and r.status == 0 and r.stdout:match "nextdeployd (%S+)"
  if version then return version end
  local why = ok and (r.stderr:match "([^\n]*)\n*$" or "") or r.message
  if why == "" then why = ok and ("its check ended with status %d"):format(r.status) end
  err.raise("upgrade_refused", ("%s would not start: %s"):format(d.program, why),
    "this daemon goes on; mend that, and try again")
end

-- Returns {from, to} (versions) when all is set; the daemon ends right after.
function Upgrade:begin(who)
  local d = self.d
  if d.stopping then err.raise("shutting_down", "the daemon is stopping", "try again in a moment") end
  local versions = { from = d.version, to = check(d) }
  if d.stopping then err.raise("shutting_down", "the daemon is stopping", "try again in a moment") end
  log.info(("nextdeployd %s makes way for %s, asked by %s"):format(versions.from, versions.to, who))
  d.store:commit { d.store:event("daemon.upgraded", nil, nil, versions) }
  d.stop()
  d.replaced = true
  return versions
end

return Upgrade
