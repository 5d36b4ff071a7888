-- People: who there is, the roles that there are, invitations, sessions, tokens.
--
-- A person comes in by an invitation, which is good once and for a day, and sets a password with it. Signing in
-- begins a session: a row, and two JSON Web Tokens that name it, signed by a key that nobody else has. The
-- access token goes with requests for ten minutes; the refresh token is exchanged for the next pair and is good
-- once: who comes with a spent one has stolen it, or was robbed of it, and the session ends. What a token names
-- is looked up with each request, so what is taken back is gone at once.
--
-- Nobody gives what he hasn't got: a role, an invitation, a token of more than one's own rights is refused, and
-- so is changing somebody who may more.
--
--   people.changed     notified when somebody's rights may have changed

local clock = require "clock"
local crypto = require "crypto"
local fs = require "fs"
local json = require "json"
local secret = require "secret"
local task = require "task"
local err = require "nd.error"
local jwt = require "nd.jwt"
local permission = require "nd.permission"
local password = require "nd.service.password"
local who = require "nd.service.who"

local KEY_BYTES = 32
local ACCESS_S = 600
local SESSION_MS = 30 * 24 * 3600 * 1000  -- after its last use
local INVITATION_MS = 24 * 3600 * 1000
local SESSIONS = 50                       -- of a person; the one longest unused makes way

local People = {}
People.__index = People

function People.new(d) return setmetatable({ d = d, changed = task.signal() }, People) end

-- Commits, and has whoever holds a connection open looked at again.
function People:change(statements)
  local results = self.d.store:try(statements)
  self.changed:notify()
  return results
end

local function forbid(message)
  err.raise("forbidden", message, "ask somebody who may as much")
end

-- ---- roles ----

local function role_names(self)
  local names = {}
  for name in pairs(permission.roles) do names[#names + 1] = name end
  for _, row in ipairs(self.d.store:all "SELECT name FROM role") do names[#names + 1] = row.name end
  table.sort(names)
  return names
end

-- The grants of a role that there is, where `by`, a user, has them all himself.
function People:role(name, by)
  local grants = who.grants(self.d.store, name)
  if not grants then
    local names = role_names(self)
    local near = err.nearest(name, names)
    err.raise("bad_request", ("there is no role '%s'"):format(name), near and ("did you mean '%s'?"):format(near)
      or "the roles are " .. table.concat(names, ", "))
  end
  if by and not permission.within(grants, by.rights) then
    forbid(("the role %s may more than you, so it isn't yours to give"):format(name))
  end
  return grants
end

local function shown_role(name, grants, row)
  return { name = name, permissions = json.array(grants), builtin = row == nil,
    created_at = row and clock.format(row.created_at) or nil }
end

function People:roles()
  local list = json.array {}
  for _, name in ipairs { "admin", "deployer", "viewer" } do
    list[#list + 1] = shown_role(name, permission.roles[name])
  end
  for _, row in ipairs(self.d.store:all "SELECT * FROM role ORDER BY name") do
    list[#list + 1] = shown_role(row.name, json.decode(row.grants), row)
  end
  return list
end

-- The grants as they are stored: checked, each once, in order.
local function clean(grants)
  local seen, list = {}, json.array {}
  for _, grant in ipairs(grants) do
    permission.check_grant(grant)
    if not seen[grant] then list[#list + 1] = grant end
    seen[grant] = true
  end
  table.sort(list)
  if #list == 0 then err.raise("bad_request", "$.permissions: is empty", "a role that may nothing is no role") end
  return list
end

-- replace: change one that there is; else it has to be new.
function People:set_role(name, grants, replace, by)
  local store = self.d.store
  if permission.roles[name] then
    err.raise("exists", ("the role %s is built in"):format(name), "choose another name")
  end
  local list, row = clean(grants), store:get("SELECT * FROM role WHERE name = ?", name)
  if replace and not row then
    err.raise("role_not_found", ("there is no role '%s'"):format(name), "`ndctl role list`")
  elseif row and not replace then
    err.raise("exists", ("there is a role '%s' already"):format(name), "`ndctl role set` changes it")
  end
  if not permission.within(list, by.rights) or row and not permission.within(json.decode(row.grants), by.rights) then
    forbid(("the role %s may more than you, so it isn't yours to give"):format(name))
  end
  self:change { { [[INSERT INTO role (name, grants, created_at) VALUES (?, ?, ?)
    ON CONFLICT (name) DO UPDATE SET grants = excluded.grants]], name, json.encode(list), clock.now() } }
  return shown_role(name, list, row or { created_at = clock.now() })
end

function People:remove_role(name, by)
  local store = self.d.store
  local row = store:get("SELECT * FROM role WHERE name = ?", name)
  if not row then
    err.raise("role_not_found", permission.roles[name] and ("the role %s is built in"):format(name)
      or ("there is no role '%s'"):format(name), "`ndctl role list`")
  end
  self:role(name, by)
  local user = store:get("SELECT email AS name FROM person WHERE role = ?1 UNION ALL "
    .. "SELECT name FROM token WHERE role = ?1 LIMIT 1", name)
  if user then
    err.raise("role_in_use", ("the role %s is %s's"):format(name, user.name),
      "give those who have it another: `ndctl team list`, `ndctl token list`")
  end
  self:change { { [[DELETE FROM role WHERE name = ?1 AND NOT EXISTS (SELECT 1 FROM person WHERE role = ?1)
    AND NOT EXISTS (SELECT 1 FROM token WHERE role = ?1)]], name, expect = 1 } }
  return shown_role(name, json.decode(row.grants), row)
end

-- ---- people ----

-- An address as HTML's input takes it; lower case, since nobody has two that differ by that.
local function check_email(text)
  local email = text:lower()
  if #email > 254 or not email:match "^[%w.!#$%%&'*+=?^_`{|}~-]+@[%w][%w.-]*[%w]$" then
    err.raise("bad_request", ("%s isn't an email address"):format(json.encode(text)), "as in ann@example.com")
  end
  return email
end

local function shown(d, row)
  local sessions = d.store:get("SELECT count(*) AS n, max(used_at) AS used FROM session WHERE person = ?", row.email)
  local invitation = d.store:get("SELECT * FROM invitation WHERE person = ?", row.email)
  local now = clock.now()
  return { email = row.email, role = row.role, created_at = clock.format(row.created_at),
    state = invitation and not row.password and (invitation.expires_at > now and "invited" or "expired")
      or row.password and "active" or "expired",
    invited_until = invitation and invitation.expires_at > now and clock.format(invitation.expires_at) or nil,
    sessions = sessions.n, seen_at = sessions.used and clock.format(sessions.used) or nil }
end

function People:list()
  local list = json.array {}
  for i, row in ipairs(self.d.store:all "SELECT * FROM person ORDER BY email") do list[i] = shown(self.d, row) end
  return list
end

-- The person, where `by` may as much.
function People:get(email, by)
  local row = self.d.store:get("SELECT * FROM person WHERE email = ?", email:lower())
  if not row then
    err.raise("person_not_found", ("nobody here is %s"):format(email), "`ndctl team list` shows all")
  end
  local grants = who.grants(self.d.store, row.role)
  if by and grants and not permission.within(grants, by.rights) then
    forbid(("%s may more than you"):format(row.email))
  end
  return row
end

local function invitation(person, by)
  local code, now = "ndi_" .. crypto.base64url(crypto.random(32)), clock.now()
  return code, { [[INSERT INTO invitation (person, hash, by, created_at, expires_at) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (person) DO UPDATE SET hash = excluded.hash, by = excluded.by, created_at = excluded.created_at,
    expires_at = excluded.expires_at]], person, crypto.sha256(code), by.name, now, now + INVITATION_MS }
end

local function with_code(d, email, code)
  local out = shown(d, d.store:get("SELECT * FROM person WHERE email = ?", email))
  out.invitation = code
  return out
end

function People:add(email, role, by)
  email = check_email(email)
  self:role(role, by)
  local code, invite = invitation(email, by)
  local ok, e = pcall(self.change, self, {
    { "INSERT INTO person (email, role, created_at) VALUES (?, ?, ?)", email, role, clock.now() }, invite })
  if not ok and e.code == "constraint" then
    err.raise("exists", ("%s is here already"):format(email),
      ("`ndctl team role %s %s` gives another role, `ndctl team invite %s` another invitation"):format(email, role,
        email))
  elseif not ok then
    error(e, 0)
  end
  return with_code(self.d, email, code)
end

-- Another invitation: the one before is void. Who has a password keeps it until this one is taken.
function People:invite(email, by)
  local row = self:get(email, by)
  local code, invite = invitation(row.email, by)
  self:change { invite }
  return with_code(self.d, row.email, code)
end

function People:set_person_role(email, role, by)
  local row = self:get(email, by)
  self:role(role, by)
  self:change { { "UPDATE person SET role = ? WHERE email = ?", role, row.email } }
  return shown(self.d, self:get(row.email))
end

function People:remove(email, by)
  local row = self:get(email, by)
  local was = shown(self.d, row)
  self:change { { "DELETE FROM person WHERE email = ?", row.email } }
  return was
end

-- ---- sessions ----

-- STATE_DIR/session.key, 32 random bytes, root's alone: without it everybody signs in anew.
function People:key()
  if self.signer then return self.signer end
  local path = self.d.options.state_dir .. "/session.key"
  if not fs.exists(path) then secret.random(KEY_BYTES):save(path) end
  local key = secret.read(path, KEY_BYTES)
  if #key ~= KEY_BYTES then
    err.raise("internal", ("%s isn't a key: it has %d bytes"):format(path, #key), "remove it; everybody signs in anew")
  end
  self.signer = key
  return key
end

function People:wanted(typ, life)
  local name = "nextdeploy:" .. self.d.store.instance
  return { typ = typ, iss = name, aud = name, life = life }
end

-- The next pair of tokens of a session.
local function pair(self, session)
  local now, name = clock.now() // 1000, "nextdeploy:" .. self.d.store.instance
  local function sign(typ, life)
    return jwt.sign(typ, { iss = name, aud = name, sub = session.person, sid = session.id, jti = session.number,
      iat = now, nbf = now, exp = now + life }, self:key())
  end
  return { access_token = sign("at+jwt", ACCESS_S), refresh_token = sign("rt+jwt", SESSION_MS // 1000),
    expires_in = ACCESS_S, email = session.person }
end

local function begin(self, person, request, statements)
  local now = clock.now()
  local session = { id = crypto.base64url(crypto.random(16)), person = person, number = 1 }
  table.insert(statements, { [[INSERT INTO session (id, person, number, address, created_at, used_at, expires_at)
    VALUES (?, ?, 1, ?, ?, ?, ?)]], session.id, person, request.peer.address or "unix", now, now, now + SESSION_MS })
  table.insert(statements, { [[DELETE FROM session WHERE person = ?1 AND (expires_at < ?2 OR id IN
    (SELECT id FROM session WHERE person = ?1 ORDER BY used_at DESC, rowid DESC LIMIT -1 OFFSET ?3))]],
    person, now, SESSIONS })
  self:change(statements)
  return pair(self, session)
end

function People:sign_in(email, text, request)
  email = email:lower()
  local store, guesses = self.d.store, self.d.guesses
  local familiar = request.peer.kind == "tcp" and store:get(
    "SELECT 1 AS one FROM session WHERE person = ? AND address = ? LIMIT 1", email, request.peer.address)
  local paid = guesses:pay(request, email, familiar)
  local row = store:get("SELECT * FROM person WHERE email = ?", email)
  if not password.right(text, row and row.password) then
    err.raise("unauthorized", "the email or the password is wrong",
      "whoever may invite people can send a new invitation: `ndctl team invite EMAIL`")
  end
  guesses:repay(paid)
  local ok, answer = pcall(begin, self, email, request, {
    { "UPDATE person SET role = role WHERE email = ? AND password = ?", email, row.password, expect = 1 } })
  if ok then return answer end
  if answer.code == "stale" then err.raise("unauthorized", "the password has just been changed", "sign in anew") end
  error(answer, 0)
end

-- Takes an invitation and sets the password; whatever was open of this person ends.
function People:accept(code, text, request)
  local store, hash = self.d.store, crypto.sha256(code)
  local row = store:get("SELECT * FROM invitation WHERE hash = ?", hash)
  if not row or row.expires_at < clock.now() then
    if not row then self.d.guesses:missed(request) end
    err.raise("unauthorized", row and ("the invitation expired %s"):format(clock.format(row.expires_at))
      or "there is no such invitation: it was taken, or another one took its place",
      "have a new one sent: `ndctl team invite EMAIL`")
  end
  local stored = password.make(text)
  local ok, answer = pcall(begin, self, row.person, request, {
    { "DELETE FROM invitation WHERE hash = ?", hash, expect = 1 },
    { "DELETE FROM session WHERE person = ?", row.person },
    { "UPDATE person SET password = ?, password_at = ? WHERE email = ?", stored, clock.now(), row.person } })
  if ok then return answer end
  if answer.code == "stale" then err.raise("unauthorized", "the invitation has just been taken") end
  error(answer, 0)
end

-- What one of our tokens names: its claims. Raises unauthorized, having counted a guess where we didn't make it.
local function claims_of(self, text, typ, life, request)
  local ok, token = pcall(jwt.decode, text)
  local refused = not ok and token
  if ok then
    ok, refused = pcall(jwt.verify, token, self:key(), clock.now() / 1000, self:wanted(typ, life))
  end
  if ok then return token.claims end
  if not refused.message:find "expired" then self.d.guesses:missed(request) end
  err.raise("unauthorized", "the token is refused: " .. refused.message, refused.hint or "`ndctl login`")
end

function People:read(text, request) return claims_of(self, text, "at+jwt", ACCESS_S, request) end

function People:refresh(text, request)
  local claims = claims_of(self, text, "rt+jwt", SESSION_MS // 1000, request)
  local store, now = self.d.store, clock.now()
  local row = store:get("SELECT * FROM session WHERE id = ?", claims.sid)
  if not row or row.expires_at < now then
    err.raise("unauthorized", "the session has ended", "`ndctl login`")
  end
  local ok, e = pcall(store.try, store, { { [[UPDATE session SET number = number + 1, used_at = ?, expires_at = ?
    WHERE id = ? AND number = ?]], now, now + SESSION_MS, row.id, claims.jti, expect = 1 } })
  if not ok and e.code ~= "stale" then error(e, 0) end
  if not ok then
    self:change { { "DELETE FROM session WHERE id = ?", row.id } }
    if self.d.audit then
      self.d.audit:note { c = { request = request }, operation = "session.end", object = row.person,
        detail = "a refresh token was shown a second time" }
    end
    err.raise("unauthorized", "this refresh token was used before: somebody else may have it, so the session is ended",
      "`ndctl login`; if you didn't do this yourself, change your password")
  end
  row.number = claims.jti + 1
  return pair(self, row)
end

-- all: every session of the person, not only this one.
function People:sign_out(user, all)
  if all then
    self:change { { "DELETE FROM session WHERE person = ?", user.name } }
  else
    self:change { { "DELETE FROM session WHERE id = ?", user.id } }
  end
end

-- All other sessions end. `paid`: what the guess of the present one cost.
function People:set_password(user, old, new, paid)
  local row = self:get(user.name)
  if not password.right(old, row.password) then err.raise("forbidden", "the present password is another") end
  self.d.guesses:repay(paid)
  local stored = password.make(new)
  self:change {
    { "UPDATE person SET password = ?, password_at = ? WHERE email = ? AND password = ?", stored, clock.now(),
      row.email, row.password, expect = 1 },
    { "DELETE FROM session WHERE person = ? AND id <> ?", row.email, user.id } }
end

return People
