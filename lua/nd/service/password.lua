-- Passwords, as they are stored: $scrypt$ln=15,r=8,p=3$SALT$HASH, both in base64. RFC 7914; the cost is
-- OWASP's for 32 MiB. At least 12 characters of UTF-8, taken byte for byte as they come, nothing normalised.
--
--   password.check(text)               raises bad_request
--   password.make(text) -> stored      parks
--   password.right(text, stored) -> boolean     parks, as long where `stored` is nil: nobody's password
--
-- A hash takes 0.2 s of a thread and 32 MiB: two at a time, some may wait, and more are refused (busy).

local crypto = require "crypto"
local task = require "task"
local err = require "nd.error"

local SALT = 16
local LEAST, MOST = 12, 1024 -- characters, bytes
local AT_ONCE, WAITING = 2, 16

local M = { hashes = 0, -- so many were made, for metrics
  cost = { ln = 15, r = 8, p = 3 } } -- of those that are made

local busy, waiting, free = 0, 0, task.signal()

local function scrypt(text, salt, ln, r, p)
  if waiting >= WAITING then
    err.raise("busy", "too many people are signing in at the moment", "try again in a moment", { retry_after = 2 })
  end
  waiting = waiting + 1
  local ok, e = pcall(function()
    while busy >= AT_ONCE do free:wait() end
  end)
  waiting = waiting - 1
  if not ok then error(e, 0) end
  busy, M.hashes = busy + 1, M.hashes + 1
  local done, hash = pcall(crypto.scrypt, text, salt, ln, r, p)
  busy = busy - 1
  free:notify()
  if not done then error(hash, 0) end
  return hash
end

local function stored(salt, hash)
  local c = M.cost
  return ("$scrypt$ln=%d,r=%d,p=%d$%s$%s"):format(c.ln, c.r, c.p, crypto.base64(salt), crypto.base64(hash))
end

function M.check(text)
  local length = utf8.len(text)
  if not length then err.raise("bad_request", "$.password: isn't UTF-8") end
  if length < LEAST then
    err.raise("bad_request", ("$.password: has %d characters, and needs %d"):format(length, LEAST),
      "a few words that don't belong together are easy to remember")
  end
  if #text > MOST then err.raise("bad_request", ("$.password: is longer than %d bytes"):format(MOST)) end
end

function M.make(text)
  M.check(text)
  local salt = crypto.random(SALT)
  return stored(salt, scrypt(text, salt, M.cost.ln, M.cost.r, M.cost.p))
end

function M.right(text, known)
  local other = known or stored(crypto.random(SALT), crypto.random(32))
  local ln, r, p, salt, hash = other:match "^%$scrypt%$ln=(%d+),r=(%d+),p=(%d+)%$([^$]+)%$([^$]+)$"
  local made = scrypt(text, crypto.unbase64(salt), tonumber(ln), tonumber(r), tonumber(p))
  return crypto.equal(made, crypto.unbase64(hash)) and known ~= nil
end

return M
