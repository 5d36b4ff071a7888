-- JSON Web Tokens (RFC 7519, 7515) in their compact form: made, taken apart, and held against a key. The
-- daemon's sessions and `ndctl debug jwt` share it.
--
-- HS256 alone, by a key that the caller has; `none` never is, and nothing that a token says of keys (jwk, jku,
-- x5c, kid) is looked at (RFC 8725). A token is {header, claims, signed (the bytes its signature covers),
-- signature}. Errors: bad_jwt for what is none, jwt_refused for what the key, the clock or `wanted` refuses.
--
--   jwt.sign(typ, claims, key) -> text
--   jwt.decode(text) -> token
--   jwt.verify(token, key, now [, wanted])    now: seconds
--       wanted: {typ, iss, aud, life = seconds}: a token of our own, which has these and nothing else in its
--       header, says when it begins and ends, and lives no longer

local crypto = require "crypto"
local json = require "json"
local err = require "nd.error"

local M = {}

local LEEWAY_S = 60      -- between two clocks
local MOST = 8 * 1024    -- bytes of a token

local function bad(message) err.raise("bad_jwt", message) end
local function refuse(message, hint) err.raise("jwt_refused", message, hint) end

local function object(part, what)
  local bytes = crypto.unbase64url(part)
  if not bytes then bad(("the %s isn't base64url"):format(what)) end
  local ok, value = pcall(json.decode, bytes)
  if not ok then bad(("the %s isn't JSON: %s"):format(what, value.message)) end
  if type(value) ~= "table" or json.is_array(value) then bad(("the %s isn't an object"):format(what)) end
  return value
end

function M.decode(text)
  if #text > MOST then bad("it is longer than 8 KiB") end
  local head, body, signature = text:match "^([%w_-]+)%.([%w_-]+)%.([%w_-]*)$"
  if not head then bad "a token is three parts of base64url, separated by dots" end
  return { header = object(head, "header"), claims = object(body, "payload"), signed = head .. "." .. body,
    signature = crypto.unbase64url(signature) or bad "the signature isn't base64url" }
end

local function signature_of(signed, key) return crypto.unhex(crypto.hmac(key, signed)) end

function M.sign(typ, claims, key)
  local signed = crypto.base64url(json.encode { alg = "HS256", typ = typ }) .. "."
    .. crypto.base64url(json.encode(claims))
  return signed .. "." .. crypto.base64url(signature_of(signed, key))
end

local function check_ours(token, now, wanted)
  for name in pairs(token.header) do
    if name ~= "alg" and name ~= "typ" then refuse(("its header says '%s', and ours don't"):format(name)) end
  end
  if token.header.typ ~= wanted.typ then
    refuse(("it is of the type %s, and not %s"):format(tostring(token.header.typ), wanted.typ))
  end
  for _, name in ipairs { "iss", "aud" } do
    if token.claims[name] ~= wanted[name] then refuse(("its %s isn't this daemon"):format(name)) end
  end
  local c = token.claims
  for _, name in ipairs { "iat", "nbf", "exp" } do
    if type(c[name]) ~= "number" then refuse(("it has no %s"):format(name)) end
  end
  if c.iat > now + LEEWAY_S then
    refuse(("it was made %d s in the future: a clock is wrong"):format(math.ceil(c.iat - now)),
      "compare the clocks of both machines with `date -u`")
  end
  if c.exp - c.iat > wanted.life then refuse "it lives longer than ours do" end
end

function M.verify(token, key, now, wanted)
  if token.header.alg ~= "HS256" then
    refuse(("it is signed by %s; only HS256 is verified here"):format(tostring(token.header.alg)))
  end
  if not crypto.equal(signature_of(token.signed, key), token.signature) then
    refuse "the signature isn't this key's"
  end
  if token.header.crit then refuse "it has critical headers, and none is understood" end
  if wanted then check_ours(token, now, wanted) end
  local from, to = token.claims.nbf, token.claims.exp
  if to ~= nil and (type(to) ~= "number" or now >= to + LEEWAY_S) then refuse "it has expired" end
  if from ~= nil and (type(from) ~= "number" or now < from - LEEWAY_S) then refuse "it isn't valid yet" end
end

return M
