-- What a bare call costs, beside which tests/bench/effects puts the journaled effect: the request that
-- http.request makes, in a loop of the same runtime. Prints the mean in ms.
--
--   nd-test-host tests/bench/effects.lua       with URL and CALLS in the environment

local clock = require "clock"
local http = require "http"

local url, calls = os.getenv "URL", tonumber(os.getenv "CALLS")

it("is called", function()
  local function call()
    assert(http.request { url = url, timeout_ms = 10000, max_bytes = 48 * 1024 }.status == 200)
  end
  for _ = 1, 10 do call() end
  local began = clock.monotonic()
  for _ = 1, calls do call() end
  print(("\nbare %.3f"):format((clock.monotonic() - began) / calls))
end)
