-- What is stored and mustn't be read by who gets hold of the database: sealed under the agent's own
-- key, STATE_DIR/agent.key (32 random bytes, root's alone, made when it is first needed).
--
-- A seal is bound to its purpose, a text such as "registry ghcr.io". In the database it is base64.
--
-- The key is exchanged in three steps, each durable: agent.key.next is made; everything is sealed anew
-- under it; it becomes agent.key. In between both keys are there, and each seal says by opening under
-- which one it is: a daemon that was killed at any point goes on with the second step.

local crypto = require "crypto"
local fault = require "fault"
local fs = require "fs"
local secret = require "secret"
local err = require "nd.error"

local KEY_BYTES = 32

local Seal = {}
Seal.__index = Seal

function Seal.new(d)
  local path = d.options.state_dir .. "/agent.key"
  return setmetatable({ path = path, next_path = path .. ".next" }, Seal)
end

local function load_key(path)
  local key = secret.read(path, KEY_BYTES + 1)
  if #key == KEY_BYTES then return key end
  err.raise("seal_broken", ("%s isn't an agent's key: it has %d bytes"):format(path, #key),
    "restore it from a backup of the state directory; without it stored secrets and credentials are lost")
end

local function load(self)
  if self.key then return end
  if not fs.exists(self.path) then secret.random(KEY_BYTES):save(self.path) end
  self.key = load_key(self.path)
  self.next = fs.exists(self.next_path) and load_key(self.next_path) or nil
end

function Seal:newest()
  load(self)
  return self.next or self.key
end

function Seal:close(purpose, plain)
  return crypto.base64(crypto.seal(self:newest(), purpose, plain))
end

local function unseal(self, how, purpose, sealed)
  local bytes, key = crypto.unbase64(sealed), self:newest()
  local plain = bytes and how(key, purpose, bytes)
  if bytes and not plain and self.next then plain, key = how(self.key, purpose, bytes), self.key end
  if plain then return plain, key end
  err.raise("seal_broken", ("what is stored as '%s' can't be opened with %s"):format(purpose, self.path),
    "the key was exchanged, or the database was changed by hand: store it again")
end

-- A text; for what isn't one, `open_secret`.
function Seal:open(purpose, sealed) return (unseal(self, crypto.unseal, purpose, sealed)) end

function Seal:open_secret(purpose, sealed) return (unseal(self, crypto.unseal_secret, purpose, sealed)) end

-- ---- the agent's identity ----

function Seal.identity_of(key) return key:derive "nextdeploy age identity 1" end

-- Of the newest key; then, while it is exchanged, of the one before.
function Seal:identities()
  local newest = Seal.identity_of(self:newest())
  return newest, self.next and Seal.identity_of(self.key) or nil
end

-- ---- exchanging the key ----

-- Is there an exchange that was begun and not ended?
function Seal:exchanging()
  load(self)
  return self.next ~= nil
end

function Seal:begin_exchange()
  load(self)
  if self.next then return end
  local key = secret.random(KEY_BYTES)
  key:save(self.next_path)
  self.next = key
  fault.hit "rotate.key"
end

-- The same under the next key; nil where it is that already.
function Seal:again(purpose, sealed)
  local plain <close>, key = unseal(self, crypto.unseal_secret, purpose, sealed)
  return key ~= self.next and self:close(purpose, plain) or nil
end

-- Once everything is sealed under the next key.
function Seal:end_exchange()
  self.next:save(self.path)
  fault.hit "rotate.saved"
  fs.remove(self.next_path)
  self.key:close()
  self.key, self.next = self.next, nil
end

return Seal
