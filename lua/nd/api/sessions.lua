-- Sessions: signing in by an invitation or a password, and what one is then.

local clock = require "clock"
local json = require "json"
local err = require "nd.error"
local s = require "nd.api.schema"
local password = require "nd.service.password"

local function login(c) return c.d.people:sign_in(c.body.email, c.body.password, c.request), "Signed in" end

local function accept(c) return c.d.people:accept(c.body.invitation, c.body.password, c.request), "Signed in" end

local function refresh(c) return c.d.people:refresh(c.body.refresh_token, c.request), "Refreshed" end

local function signed_in(c)
  if c.user.kind ~= "session" then
    err.raise("forbidden", "only who is signed in may do this: what you show is no session",
      "`ndctl login` begins one; `ndctl token rm` takes tokens back")
  end
end

local function logout(c)
  c.d.people:sign_out(c.user, c.query.all)
  return { email = c.user.name }, "Signed out"
end

local function may_guess(c)
  signed_in(c)
  password.check(c.body.new)
  c.paid = c.d.guesses:pay(c.request, c.user.name, true)
end

local function set_password(c)
  c.d.people:set_password(c.user, c.body.old, c.body.new, c.paid)
  return { email = c.user.name }, "Password changed; all other sessions are ended"
end

local function whoami(c)
  local rights = json.array {}
  for i, layer in ipairs(c.user.rights) do rights[i] = json.array(layer) end
  return { name = c.user.name, role = c.user.role, kind = c.user.kind, rights = rights,
    expires_at = c.user.expires_at and clock.format(c.user.expires_at) }
end

local email = s.object({ email = s.text }, { "email" })

return {
  { method = "POST", path = "/login", id = "login", permission = "none",
    summary = "Signs in by email and password.",
    doc = "The answer to an unknown email is that to a wrong password, and takes as long. Wrong guesses are limited "
      .. "by address: 429.",
    body = s.ref "LoginRequest", payload = s.ref "Session", fails = { 401, 429, 507 }, handler = login },
  { method = "POST", path = "/login/invitation", id = "acceptInvitation", permission = "none",
    summary = "Takes an invitation: sets the password and signs in.",
    doc = "What was open of this person before is ended.",
    body = s.ref "AcceptRequest", payload = s.ref "Session", fails = { 401, 429, 507 }, handler = accept },
  { method = "POST", path = "/login/refresh", id = "refreshSession", permission = "none", audit = false,
    summary = "The next pair of tokens; the refresh token is spent by it.",
    doc = "A spent one that is shown again ends the session: two have it.",
    body = s.ref "RefreshRequest", payload = s.ref "Session", fails = { 401, 429, 507 }, handler = refresh },
  { method = "POST", path = "/logout", id = "logout", permission = "self",
    query = { all = s.doc(s.boolean, "Every session of this person.") },
    summary = "Ends this session, at once.", payload = email, fails = { 507 }, before = signed_in, handler = logout },
  { method = "POST", path = "/password", id = "setPassword", permission = "self",
    summary = "Changes one's password; all other sessions end.",
    body = s.ref "PasswordRequest", payload = email, fails = { 409, 429, 507 }, before = may_guess,
    handler = set_password },
  { method = "GET", path = "/whoami", id = "whoami", permission = "self",
    summary = "Who asks, and what he may.", payload = s.ref "Whoami", handler = whoami },
}
