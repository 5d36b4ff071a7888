-- http.request: one request to the outside. What it did there can't be read back: after a crash it
-- is made again, unless it says retry = "never" and isn't a GET or HEAD.

local http = require "http"
local err = require "nd.error"

local MAX_BODY = 48 * 1024
local DEFAULT_MS = 10000

return {
  ["http.request"] = {
    version = 1, class = "act", capability = "http", args = { { "request", "table" } },
    label = function(r) return ("%s %s"):format(r.method or "GET", tostring(r.url):match "^[^?]*") end,
    act = function(_, r)
      if type(r.url) ~= "string" or not r.url:match "^https?://" then
        err.raise("bad_argument", "http.request: url must begin with http:// or https://")
      end
      local answer = http.request {
        url = r.url, method = r.method, headers = r.headers, body = r.body,
        timeout_ms = r.timeout or DEFAULT_MS, max_bytes = MAX_BODY,
      }
      return { status = answer.status, headers = answer.headers, body = answer.body }
    end,
    observe = function(_, r)
      local method = r.method or "GET"
      if r.retry == "never" and method ~= "GET" and method ~= "HEAD" then
        err.raise("unknown_outcome",
          "the request was under way when the daemon ended; nobody can tell whether it arrived",
          "look at the other side; the recipe says retry = \"never\"")
      end
    end,
    plan = function() return { status = 200, headers = {}, body = "" } end,
  },
}
