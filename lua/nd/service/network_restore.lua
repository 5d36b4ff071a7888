-- network_restore.lua - the rules without the daemon: brought back at boot, or taken away for good.
--
--   restore(options)   `nextdeployd --restore-network`; parks. nextdeploy-net.service runs it
--                      before Docker and the proxy start. Docker adds its own rules behind ours
--                      when it comes, and the daemon looks again when it starts.
--   remove(options)    `nextdeployd --remove-network`; parks. Removes chains, route and Docker
--                      networks of the instance, for `quickstart --down`; containers go first.
--
-- Both need the state directory's net/net.json and no database; `restore` needs no Docker either.
-- Without that file there is nothing to do, which is no error.

local docker = require "docker"
local fs = require "fs"
local json = require "json"
local log = require "log"
local network = require "nd.service.network"

local M = {}

local function open(options, engine)
  local path = options.state_dir .. "/net/net.json"
  if not fs.exists(path) then
    log.info("no network to look after: there is no " .. path)
    return
  end
  local state = json.decode(fs.read(path))
  return network.new { instance = state.instance, cidr = state.cidr, docker = engine,
    state_dir = options.state_dir }, state
end

function M.restore(options)
  local net, state = open(options)
  if not net then return end
  net:restore()
  net:flush()
  log.info(("restored %d service addresses and %d bridges"):format(#state.services, #state.bridges))
end

function M.remove(options)
  local engine = docker.connect { socket = options.docker_host:gsub("^unix://", "") }
  local net = open(options, engine)
  if not net then return end
  net:down()
  log.info("removed the chains, the route and the networks of instance " .. net.layout.instance)
end

return M
