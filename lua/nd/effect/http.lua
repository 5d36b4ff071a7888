-- http.request: one request to the outside. What it did there can't be read back: after a crash it
-- is made again, unless it says retry = "never" and isn't a GET or HEAD.

local http = require "http"
local err = require "nd.error"

local MAX_BODY = 48 * 1024
local DEFAULT_MS = 10000
local SLACK_MS = 60000

local function only_reads(r) return (r.method or "GET") == "GET" or r.method == "HEAD" end

local function title(r) return ("%s %s"):format(r.method or "GET", tostring(r.url):match "^[^?]*") end

return {
  ["http.request"] = {
    version = 1, class = "act", capability = "http", args = { { "request", "table" } },
    label = title,
    deadline = function(_, r) return (r.timeout or DEFAULT_MS) + SLACK_MS end,
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
      if r.retry == "never" and not only_reads(r) then
        err.raise("unknown_outcome",
          "the request was under way when the daemon ended; nobody can tell whether it arrived",
          "look at the other side; the recipe says retry = \"never\"")
      end
    end,
    plan = function(ctx, r)
      if not only_reads(r) then table.insert(ctx.outside, title(r)) end
      return { status = 200, headers = {}, body = "" }
    end,
  },
}
