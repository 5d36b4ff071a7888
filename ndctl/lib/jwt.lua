-- lib/jwt.lua - JSON Web Tokens (RFC 7519) in their compact form: taken apart, and held against a key.
--
-- HS256 alone is verified, by a shared secret; `none` never is. A token is {header, claims, signed (the
-- bytes its signature covers), signature}. Errors: bad_jwt for what is none, jwt_refused for what the key
-- or the clock refuses.

local crypto = require "crypto"
local fail = require "ndctl.lib.fail"
local json = require "json"

local jwt = {}

local LEEWAY_S = 60 -- between two clocks

local function object(part, what)
  local bytes = crypto.unbase64url(part)
  if not bytes then fail.raise("bad_jwt", ("the %s isn't base64url"):format(what)) end
  local ok, value = pcall(json.decode, bytes)
  if not ok then fail.raise("bad_jwt", ("the %s isn't JSON: %s"):format(what, value.message)) end
  if type(value) ~= "table" or json.is_array(value) then
    fail.raise("bad_jwt", ("the %s isn't an object"):format(what))
  end
  return value
end

function jwt.decode(text)
  local head, body, signature = text:match("^([%w_-]+)%.([%w_-]+)%.([%w_-]*)$")
  if not head then
    fail.raise("bad_jwt", "a token is three parts of base64url, separated by dots")
  end
  return { header = object(head, "header"), claims = object(body, "payload"),
    signed = head .. "." .. body, signature = crypto.unbase64url(signature)
      or fail.raise("bad_jwt", "the signature isn't base64url") }
end

-- Raises jwt_refused unless `key` signed it and `now` (seconds) is within its times.
function jwt.verify(token, key, now)
  if token.header.alg ~= "HS256" then
    fail.raise("jwt_refused", ("it is signed by %s; only HS256 is verified here")
      :format(tostring(token.header.alg)))
  end
  local right = crypto.unhex(crypto.hmac(key, token.signed))
  if not crypto.equal(right, token.signature) then
    fail.raise("jwt_refused", "the signature isn't this key's")
  end
  if token.header.crit then fail.raise("jwt_refused", "it has critical headers, and none is understood") end
  local from, to = token.claims.nbf, token.claims.exp
  if to ~= nil and (type(to) ~= "number" or now >= to + LEEWAY_S) then fail.raise("jwt_refused", "it has expired") end
  if from ~= nil and (type(from) ~= "number" or now < from - LEEWAY_S) then
    fail.raise("jwt_refused", "it isn't valid yet")
  end
end

return jwt
