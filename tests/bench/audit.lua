-- The API as the daemon serves it, over TCP with tokens, with and without its audit log: GET /tokens, taken for
-- one that has to be audited. Answers until $DIR/stop is there; then prints what was written.
--
--   nd-test-host tests/bench/audit.lua       DIR (with a file `port`, once it listens) and AUDITED in the environment

local clock = require "clock"
local crypto = require "crypto"
local fs = require "fs"
local server = require "server"
local task = require "task"
local Store = require "nd.store"
local api = require "nd.api"

local WINDOW = 10 -- seconds

local dir, audited = os.getenv "DIR", os.getenv "AUDITED" == "true"

it("answers", function()
  local d = { options = { state_dir = dir .. "/state" }, version = "0",
    metrics = { requests = { add = function() end } } }
  fs.mkdir(d.options.state_dir, 448)
  d.store = Store.open(d.options.state_dir, "bench")
  d.apps = require("nd.service.app").new(d)
  d.store:commit { { "INSERT OR IGNORE INTO token (name, hash, role, created_at) VALUES ('bench', ?, 'admin', 1)",
    crypto.sha256 "nd_bench" } }
  for _, route in ipairs(api.routes) do
    if route.id == "listTokens" then route.audit = audited end
  end
  if audited then
    d.audit = require("nd.service.audit").new(d)
    d.audit:open()
  end
  local door = server.listen({ address = "127.0.0.1", port = 0 }, api.handler(d))
  local _, port = door:address()
  local commits = d.store.counts.commits
  fs.write(dir .. "/port", tostring(port), 420)
  local began = clock.monotonic()
  local seconds, last = {}, d.audit and d.audit.log.seq or 0
  while not fs.exists(dir .. "/stop") do
    task.sleep(1000 - (clock.monotonic() - began) % 1000)
    if d.audit then
      seconds[#seconds + 1] = (d.audit.log.seq - last) // 2
      last = d.audit.log.seq
    end
  end
  door:close(1000)
  -- The first and the last second are not whole ones.
  table.remove(seconds, 1)
  for _ = 1, 2 do seconds[#seconds] = nil end
  local width, least = math.min(WINDOW, #seconds), math.huge
  for i = width, #seconds do
    local sum = 0
    for k = i - width + 1, i do sum = sum + seconds[k] end
    least = math.min(least, sum // math.max(1, width))
  end
  print(("\ncommits %d least %d"):format(d.store.counts.commits - commits, least < math.huge and least or 0))
  if d.audit then
    print("whole " .. tostring(d.audit.log:verify().ok))
    d.audit:close()
  end
  d.store:close()
end)
