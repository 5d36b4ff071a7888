-- network_restore.lua - `nextdeployd --restore-network`: the rules at boot, without the daemon.
--
-- nextdeploy-net.service runs it before Docker and the proxy start. It needs the state directory's
-- net/net.json and nothing else: no database, no Docker. Docker adds its own rules behind ours when
-- it comes, and the daemon looks again when it starts.
--
--   restore(state_dir) -> "4 service addresses, 2 bridges"   parks; raises what net:restore raises
--
-- Without net/net.json there is nothing to restore, which is no error.

local fs = require "fs"
local json = require "json"
local network = require "nd.service.network"

return function(state_dir)
  local path = state_dir .. "/net/net.json"
  if not fs.exists(path) then return "nothing to restore: there is no " .. path end
  local state = json.decode(fs.read(path))
  local net = network.new { instance = state.instance, cidr = state.cidr, state_dir = state_dir }
  net:restore()
  net:flush()
  return ("restored %d service addresses, %d bridges"):format(#state.services, #state.bridges)
end
