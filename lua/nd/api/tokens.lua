-- Tokens: what a caller over TCP shows. Only their hashes are stored.

local clock = require "clock"
local crypto = require "crypto"
local json = require "json"
local err = require "nd.error"
local s = require "nd.api.schema"

local function list(c)
  local out = json.array {}
  for i, row in ipairs(c.d.store:all("SELECT name, role, created_at FROM token ORDER BY name")) do
    out[i] = { name = row.name, role = row.role, created_at = clock.format(row.created_at) }
  end
  return out
end

local function create(c)
  local name = c.d.apps.check_name("a token", c.body.name)
  local token = "nd_" .. crypto.base64url(crypto.random(32))
  local ok, e = pcall(c.d.store.try, c.d.store, { {
    "INSERT INTO token (name, hash, role, created_at) VALUES (?, ?, ?, ?)", name,
    crypto.sha256(token), c.body.role or "admin", clock.now() } })
  if not ok and e.code == "constraint" then
    err.raise("exists", ("there is a token '%s' already"):format(name),
      "choose another name, or `ndctl token rm " .. name .. "`")
  elseif not ok then
    error(e, 0)
  end
  return { name = name, role = c.body.role or "admin", token = token }, "Token created; it is shown this once"
end

local function remove(c)
  local done = c.d.store:commit { { "DELETE FROM token WHERE name = ?", c.path.name } }
  if done[1].changes == 0 then
    err.raise("token_not_found", ("there is no token '%s'"):format(c.path.name), "`ndctl token list`")
  end
  return { name = c.path.name }, "Token removed"
end

return {
  { method = "GET", path = "/tokens", id = "listTokens", permission = "admin",
    summary = "Names and roles of all tokens.", payload = s.list(s.ref "Token"), handler = list },
  { method = "POST", path = "/tokens", id = "createToken", permission = "admin",
    summary = "Makes a token; the answer is the only time it is shown.",
    doc = "A viewer reads; a deployer also deploys, stops and runs recipes; an admin also destroys apps and "
      .. "makes tokens. The unix socket is an admin's.",
    body = s.ref "TokenRequest", payload = s.ref "Token", fails = { 409, 507 }, handler = create },
  { method = "DELETE", path = "/tokens/{name}", id = "removeToken", permission = "admin",
    summary = "Takes a token back.", doc = "From the next request on it is unknown.", payload = s.ref "Token",
    fails = { 507 }, handler = remove },
}
