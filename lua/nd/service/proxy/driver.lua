-- driver.lua - what the drivers of proxies share: how their state is kept and told.
--
--   driver.set_state(self, state, problem) -> state   tells of a change by self.on_event
--   driver.down(self, why, hint)       the program doesn't run, or can't be asked
--   driver.refused(self, why, hint)    it runs, but doesn't serve as configured
--   driver.get(self, path) -> answer | nil, why   parks; through the front door, in a new connection

local http = require "http"
local task = require "task"

local driver = {}

function driver.set_state(self, state, problem)
  if self.state ~= state then
    self.on_event("proxy." .. state, { proxy = self.name, error = problem })
  end
  self.state, self.problem = state, problem
  return state
end

function driver.down(self, why, hint)
  return driver.set_state(self, "down", task.error { code = "proxy_down", message = why, hint = hint })
end

function driver.refused(self, why, hint)
  return driver.set_state(self, "refused",
    task.error { code = "proxy_refused", message = why, hint = hint })
end

function driver.get(self, path)
  local host = self.address ~= "" and self.address or "127.0.0.1"
  local ok, r = pcall(http.request, {
    url = ("http://%s:%d%s"):format(host, self.http_port, path),
    headers = { Connection = "close" }, timeout_ms = 3000, connect_timeout_ms = 1000 })
  if ok then return r end
  if r.code == "cancelled" then error(r, 0) end
  return nil, r.message
end

return driver
