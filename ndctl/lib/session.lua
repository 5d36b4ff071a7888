-- lib/session.lua - who is signed in: the tokens of a session, kept with its context.
--
-- {email, access_token, refresh_token, expires_at (UTC ms)} in contexts.json. An access token is exchanged
-- shortly before it ends. A refresh token is good once, so one ndctl at a time exchanges it, under a lock; the
-- others take what it brought.

local clock = require "clock"
local contexts = require "ndctl.lib.contexts"
local fail = require "ndctl.lib.fail"

local session = {}

local EARLY_MS = 30000
local LOCK_MS = 10000

local function lock()
  local fs, task = require "fs", require "task"
  local deadline = clock.monotonic() + LOCK_MS
  while true do
    local ok, handle = pcall(fs.lock, contexts.dir() .. "/contexts.lock")
    if ok then return handle end
    if handle.code ~= "locked" or clock.monotonic() > deadline then error(handle, 0) end
    task.sleep(20)
  end
end

-- Keeps the tokens that the daemon's answer `payload` brought, with what it was trusted by; in a new context
-- where `name` is none yet.
function session.keep(name, host, trust, payload)
  require("fs").mkdir(contexts.dir(), 448)
  local held <close> = lock() -- luacheck: ignore
  local stored = contexts.load()
  local context = stored.contexts[name] or { host = host }
  context.token = nil
  for field, value in pairs(trust) do context[field] = context[field] or value end
  context.session = { email = payload.email, access_token = payload.access_token,
    refresh_token = payload.refresh_token, expires_at = clock.now() + payload.expires_in * 1000 }
  stored.contexts[name] = context
  stored.current = stored.current or name
  contexts.save(stored)
end

function session.forget(name)
  local held <close> = lock() -- luacheck: ignore
  local stored = contexts.load()
  if not stored.contexts[name] then return end
  stored.contexts[name].session = nil
  contexts.save(stored)
end

local function exchange(host, trust, refresh_token)
  local client = require("ndctl.lib.client").to(host, trust)
  local ok, payload = pcall(client.call, client, "POST", "/login/refresh", { body = { refresh_token = refresh_token } })
  if ok then return payload end
  if payload.http == 401 then
    fail.raise("unauthorized", "you are signed out: " .. payload.message, ("sign in again: ndctl login --host %s")
      :format(host))
  end
  error(payload, 0)
end

-- The access token of the context `name`; `refused`: one that the daemon didn't take.
function session.token(name, trust, refused)
  local s = contexts.load().contexts[name].session
  local function good() return s and s.access_token ~= refused and s.expires_at - EARLY_MS > clock.now() end
  if good() then return s.access_token end
  local host
  do
    local held <close> = lock() -- luacheck: ignore
    local stored = contexts.load()
    s, host = (stored.contexts[name] or {}).session, (stored.contexts[name] or {}).host
    if not s then fail.raise("unauthorized", "you are signed out", "ndctl login") end
    if good() then return s.access_token end
    local payload = exchange(host, trust, s.refresh_token)
    s.access_token, s.refresh_token = payload.access_token, payload.refresh_token
    s.expires_at = clock.now() + payload.expires_in * 1000
    contexts.save(stored)
  end
  return s.access_token
end

return session
