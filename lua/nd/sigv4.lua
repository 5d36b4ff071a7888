-- AWS Signature Version 4, as S3 and what speaks like it want it: signs a request, in a header.
--
--   sign{method, host, path, query = {name = value} or "a=b&c", headers = {}, body | body_sha256,
--     region, service, access_key, secret_key, session_token?, time = "20130524T000000Z"}
--   -> {authorization, signature, canonical_request, string_to_sign, headers = what to send}
--
-- A path is the one that goes over the wire. For S3 it is signed as it names the object, encoded
-- once; for all other services it is encoded again, as their rule is. S3 also wants the body's hash
-- in a header of its own.

local crypto = require "crypto"

local M = {}

M.UNSIGNED = "UNSIGNED-PAYLOAD" -- for body_sha256: the body isn't covered (over TLS only)

-- RFC 3986: everything but the unreserved characters.
local function encode(s, keep_slash)
  return (s:gsub(keep_slash and "[^%w%-._~/]" or "[^%w%-._~]", function(c)
    return ("%%%02X"):format(c:byte())
  end))
end

local function decode(s)
  return (s:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

local function canonical_path(path, service)
  if path == "" then path = "/" end
  if service == "s3" then return encode(decode(path), true) end
  local parts = {}
  for part in path:gmatch "[^/]+" do
    if part == ".." then
      parts[#parts] = nil
    elseif part ~= "." then
      parts[#parts + 1] = part
    end
  end
  local trailing = #parts > 0 and path:find "/%.?$" and "/" or ""
  return encode("/" .. table.concat(parts, "/") .. trailing, true)
end

local function canonical_query(query)
  local pairs_ = {}
  if type(query) == "string" then
    for pair in query:gmatch "[^&]+" do
      local name, value = pair:match "^([^=]*)=?(.*)$"
      pairs_[#pairs_ + 1] = { encode(decode(name)), encode(decode(value)) }
    end
  else
    for name, value in pairs(query or {}) do pairs_[#pairs_ + 1] = { encode(name), encode(tostring(value)) } end
  end
  table.sort(pairs_, function(a, b)
    if a[1] ~= b[1] then return a[1] < b[1] end
    return a[2] < b[2]
  end)
  for i, pair in ipairs(pairs_) do pairs_[i] = pair[1] .. "=" .. pair[2] end
  return table.concat(pairs_, "&")
end

-- Header lines in the order of their names, and those names.
local function canonical_headers(headers)
  local names, lines = {}, {}
  for name in pairs(headers) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    local value = tostring(headers[name]):match("^%s*(.-)%s*$"):gsub("%s+", " ")
    lines[i] = name .. ":" .. value .. "\n"
  end
  return table.concat(lines), table.concat(names, ";")
end

local function mac(key, s) return crypto.unhex(crypto.hmac(key, s)) end

-- The key is good for one day, region and service.
local function signing_key(request, day)
  local key = mac("AWS4" .. request.secret_key, day)
  return mac(mac(mac(key, request.region), request.service), "aws4_request")
end

function M.sign(request)
  local day = request.time:match "^(%d%d%d%d%d%d%d%d)T%d%d%d%d%d%dZ$"
  assert(day, "time must be as 20130524T000000Z")
  local body_hash = request.body_sha256 or crypto.sha256(request.body or "")
  local headers = { host = request.host, ["x-amz-date"] = request.time,
    ["x-amz-security-token"] = request.session_token }
  for name, value in pairs(request.headers or {}) do headers[name:lower()] = value end
  if request.service == "s3" then headers["x-amz-content-sha256"] = body_hash end
  local lines, signed = canonical_headers(headers)
  local canonical = table.concat({ request.method, canonical_path(request.path or "/", request.service),
    canonical_query(request.query), lines, signed, body_hash }, "\n")
  local scope = ("%s/%s/%s/aws4_request"):format(day, request.region, request.service)
  local to_sign = table.concat({ "AWS4-HMAC-SHA256", request.time, scope, crypto.sha256(canonical) }, "\n")
  local signature = crypto.hmac(signing_key(request, day), to_sign)
  headers.authorization = ("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s"):format(
    request.access_key, scope, signed, signature)
  return { authorization = headers.authorization, signature = signature, canonical_request = canonical,
    string_to_sign = to_sign, headers = headers }
end

return M
