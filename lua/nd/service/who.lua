-- Who asks, and what he may.
--
--   who.of(d, request) -> user | nil, why     user: {name, role, kind = "unix" | "token" | "session", id, rights,
--       full, expires_at?, person?}; `full`: an admin of the whole host, who may anything; `person`: the email of
--       whose it is; why: the error for a token that is refused, nil where there is none. Told from what the
--       database holds at that moment.
--   who.still(d, user) -> user | nil     the same one, as he is now
--   who.rights(d, owner) -> rights       of who began a run, by the name that the run has of him, as they are
--       now: none for a token that was taken back. That one has expired ends no run: only taking it back does.
--   who.grants(store, role) -> list | nil     of a role, built in or not

local clock = require "clock"
local crypto = require "crypto"
local json = require "json"
local err = require "nd.error"
local permission = require "nd.permission"

local M = {}

local NONE = {}

-- The daemon's own runs; no token may be called so.
M.reserved = { guard = true, schedule = true }

function M.grants(store, role)
  if permission.roles[role] then return permission.roles[role] end
  local row = store:get("SELECT * FROM role WHERE name = ?", role)
  return row and json.decode(row.grants)
end

local function grants_of_person(store, email)
  local row = store:get("SELECT * FROM person WHERE email = ?", email)
  return row and M.grants(store, row.role) or NONE, row
end

local function rights_of_token(store, row)
  local rights = { M.grants(store, row.role) or NONE }
  if row.limits then rights[#rights + 1] = json.decode(row.limits) end
  if row.person then rights[#rights + 1] = grants_of_person(store, row.person) end
  return rights
end

local function described(user)
  user.full = permission.allows(user.rights, "admin")
  return user
end

-- ---- requests ----

-- What is known of them by the database, as a text that can be kept; nil where there is none.
local known = {}

function known.token(d, hash)
  local row = d.store:get("SELECT * FROM token WHERE hash = ?", hash)
  return row and json.encode(described { name = row.name, role = row.role, kind = "token", id = row.name, key = hash,
    rights = rights_of_token(d.store, row), expires_at = row.expires_at, person = row.person })
end

function known.session(d, id)
  local row = d.store:get("SELECT * FROM session WHERE id = ?", id)
  if not row then return nil end
  local grants, person = grants_of_person(d.store, row.person)
  return person and json.encode(described { name = person.email, role = person.role, kind = "session", id = id,
    key = id, rights = { grants }, expires_at = row.expires_at, person = person.email })
end

-- Of texts, what they say: the same few come again and again.
local read, count = {}, 0
local READ_MOST = 256

local function decoded(text)
  local user = read[text]
  if user then return user end
  if count == READ_MOST then read, count = {}, 0 end
  user = json.decode(text)
  read[text], count = user, count + 1
  return user
end

local function find(d, kind, key)
  local text = d.store:memo(kind .. " " .. key, 0, known[kind], d, key)
  local user = text and decoded(text)
  if not user then return nil end
  if user.expires_at and user.expires_at <= clock.now() then
    return nil, err.new("unauthorized", ("the %s of %s expired %s"):format(kind, user.name,
      clock.format(user.expires_at)), kind == "session" and "`ndctl login`" or "have a new one made")
  end
  return user
end

-- A token that isn't ours, or isn't any more.
local function read_token(d, request, token)
  if token:find(".", 1, true) then
    local user, why = find(d, "session", d.people:read(token, request).sid)
    return user, why or err.new("unauthorized", "the session has ended", "`ndctl login`")
  end
  local user, why = find(d, "token", crypto.sha256(token))
  if not user and not why then d.guesses:missed(request) end
  return user, why or err.new("unauthorized", "this daemon doesn't know the token", "`ndctl token create --name NAME` "
    .. "makes one")
end

function M.of(d, request)
  if request.peer.kind == "unix" then
    local name = "uid " .. request.peer.uid
    return { name = name, role = "admin", kind = "unix", id = name, rights = permission.ALL, full = true }
  end
  local token = (request.headers.authorization or ""):match "^[Bb]earer +(%S+)$"
  if not token then return nil end
  local ok, user, why = pcall(read_token, d, request, token)
  if ok then return user, not user and why or nil end
  return nil, user
end

function M.still(d, user)
  if user.kind == "unix" then return user end
  return (find(d, user.kind, user.key))
end

-- ---- runs ----

local function rights_of(d, owner)
  if owner:find("@", 1, true) then return json.encode { (grants_of_person(d.store, owner)) } end
  local row = d.store:get("SELECT * FROM token WHERE name = ?", owner)
  return json.encode(row and rights_of_token(d.store, row) or json.array {})
end

function M.rights(d, owner)
  if M.reserved[owner] or owner:find(" ", 1, true) then -- "uid 0", or the daemon itself: nobody is called so
    return permission.ALL
  end
  return decoded(d.store:memo("owner " .. owner, 0, rights_of, d, owner))
end

return M
