-- lib/stream.lua - the frames of a WebSocket, through breaks of the connection.
--
-- A stream that breaks is opened again where it was, for up to a minute (restarts of the daemon).

local clientlib = require "ndctl.lib.client"
local clock = require "clock"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local task = require "task"

local stream = {}

local AWAY_MOST = 60000 -- ms
local AGAIN_AFTER = 500 -- ms

local function open_again(client, path, query)
  local from = clock.monotonic()
  repeat
    task.sleep(AGAIN_AFTER)
    local ok, ws = pcall(client.websocket, client, path, query)
    if ok then return ws end
    if type(ws) ~= "table" or ws.code ~= "unreachable" then error(ws, 0) end
  until clock.monotonic() - from > AWAY_MOST
  fail.raise("lost", ("the daemon at %s hasn't answered for a minute"):format(client.host))
end

-- Calls visit(frame, again) for every frame, `again` being true after the first break; returns at
-- the stream's end, which with `follow` never comes, or when `visit` returns false. `visit` notes in
-- `query` from where to go on.
function stream.each(client, path, query, follow, visit)
  if follow then out.end_with_reader() end
  local ws, again = client:websocket(path, query), false
  while true do
    local frames, code = clientlib.receive(ws)
    if frames then
      for _, frame in ipairs(frames) do
        if visit(frame, again) == false then return ws:close() end
      end
    elseif follow then
      ws, again = open_again(client, path, query), true
    elseif code == 1000 then
      return
    else
      fail.raise("lost", ("the daemon at %s broke off in the middle"):format(client.host))
    end
  end
end

return stream
