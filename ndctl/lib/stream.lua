-- lib/stream.lua - the frames of a WebSocket, through breaks of the connection.
--
-- Every frame has a sequence number; a stream that breaks is opened again after the last one seen,
-- for up to a minute (restarts of the daemon).

local clientlib = require "ndctl.lib.client"
local clock = require "clock"
local fail = require "ndctl.lib.fail"
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

-- Calls visit(frame) for every frame; returns at the stream's end, which with `follow` never comes.
function stream.each(client, path, query, follow, visit)
  local ws = client:websocket(path, query)
  while true do
    local frames, code = clientlib.receive(ws)
    if frames then
      for _, frame in ipairs(frames) do
        visit(frame)
        if frame.seq then query.since, query.tail = frame.seq, nil end
      end
    elseif follow then
      ws = open_again(client, path, query)
    elseif code == 1000 then
      return
    else
      fail.raise("lost", ("the daemon at %s broke off in the middle"):format(client.host))
    end
  end
end

return stream
