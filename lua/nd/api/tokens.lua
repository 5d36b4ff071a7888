-- Tokens: what a caller over TCP shows. Only their hashes are stored.
--
-- Who is signed in makes tokens of his own, which may no more than he may, and go with him. What a token makes
-- is the same person's, and lasts no longer than itself. (One that is limited to some apps makes none.)

local clock = require "clock"
local crypto = require "crypto"
local db = require "db"
local json = require "json"
local duration = require "nd.duration"
local err = require "nd.error"
local permission = require "nd.permission"
local who = require "nd.service.who"
local s = require "nd.api.schema"

local function shown(row)
  return { name = row.name, role = row.role, created_at = clock.format(row.created_at), person = row.person,
    limits = row.limits and json.decode(row.limits), expires_at = row.expires_at and clock.format(row.expires_at) }
end

-- Whose tokens one may see and remove: nil for all.
local function whose(c)
  return not permission.allows(c.user.rights, "people") and c.user.name or nil
end

local function list(c)
  local out, mine = json.array {}, whose(c)
  for _, row in ipairs(c.d.store:all "SELECT * FROM token ORDER BY name") do
    if not mine or row.person == mine then out[#out + 1] = shown(row) end
  end
  return out
end

-- {project?, environment?, app?} -> the grants that have to allow a thing as well, or nil
local function limits_of(c)
  local b, names = c.body, {}
  for i, field in ipairs { "project", "environment", "app" } do
    names[i] = b[field] and c.d.apps.check_name("one " .. field, b[field]) or "*"
  end
  local scope = table.concat(names, "/")
  return scope ~= "*/*/*" and json.array { "admin@" .. scope } or nil
end

-- The time at which it ends: what was asked for, but not after the token that makes it.
local function end_of(c, now)
  local asked = c.body.expires and now + math.max(1, duration.ms("expires", c.body.expires))
  local own = c.user.kind == "token" and c.user.expires_at
  return asked and own and math.min(asked, own) or asked or own or nil
end

local function create(c)
  local d, body, now = c.d, c.body, clock.now()
  local name = d.apps.check_name("a token", body.name)
  if who.reserved[name] then err.raise("exists", ("'%s' is the daemon's own"):format(name), "choose another name") end
  local role = body.role or c.user.role
  d.people:role(role, c.user)
  local row = { name = name, role = role, created_at = now, limits = limits_of(c),
    person = c.user.person, expires_at = end_of(c, now) }
  row.limits = row.limits and json.encode(row.limits)
  local token = "nd_" .. crypto.base64url(crypto.random(32))
  local ok, e = pcall(d.people.change, d.people, { {
    "INSERT INTO token (name, hash, role, created_at, limits, person, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)", name,
    crypto.sha256(token), role, now, row.limits or db.null, row.person or db.null, row.expires_at or db.null } })
  if not ok and e.code == "constraint" then
    err.raise("exists", ("there is a token '%s' already"):format(name),
      "choose another name, or `ndctl token rm " .. name .. "`")
  elseif not ok then
    error(e, 0)
  end
  row = shown(row)
  row.token = token
  return row, "Token created; it is shown this once"
end

local function remove(c)
  local mine, d = whose(c), c.d
  local row = d.store:get("SELECT * FROM token WHERE name = ?", c.path.name)
  if not row or mine and row.person ~= mine then
    err.raise("token_not_found", ("there is no token '%s'"):format(c.path.name), "`ndctl token list`")
  end
  d.people:change { { "DELETE FROM token WHERE name = ?", row.name } }
  return { name = row.name }, "Token removed"
end

return {
  { method = "GET", path = "/tokens", id = "listTokens", permission = "people", about = "host", own = true,
    summary = "Names and roles of all tokens; without the permission, of one's own.", payload = s.list(s.ref "Token"),
    handler = list },
  { method = "POST", path = "/tokens", id = "createToken", permission = "people", about = "host", own = true,
    summary = "Makes a token; the answer is the only time it is shown.",
    doc = "A viewer reads; a deployer also deploys, stops and runs recipes; an admin also destroys apps and "
      .. "makes tokens. The unix socket is an admin's. Who is signed in makes tokens of his own: they may no more "
      .. "than he may, as it is when they are used, and are gone when he is. What a token makes is the same "
      .. "person's, and lasts no longer than itself.",
    body = s.ref "TokenRequest", payload = s.ref "Token", fails = { 409, 507 }, handler = create },
  { method = "DELETE", path = "/tokens/{name}", id = "removeToken", permission = "people", about = "host", own = true,
    summary = "Takes a token back.", doc = "From the next request on it is unknown; what it has open is closed.",
    payload = s.ref "Token", fails = { 507 }, handler = remove },
}
