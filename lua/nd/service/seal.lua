-- What is stored and mustn't be read by who gets hold of the database: sealed under the agent's own
-- key, STATE_DIR/agent.key (32 random bytes, root's alone, made when it is first needed).
--
-- A seal is bound to its purpose, a text such as "registry ghcr.io". In the database it is base64.

local crypto = require "crypto"
local fs = require "fs"
local err = require "nd.error"

local KEY_BYTES = 32

local Seal = {}
Seal.__index = Seal

function Seal.new(d) return setmetatable({ path = d.options.state_dir .. "/agent.key" }, Seal) end

function Seal:key()
  if self.bytes then return self.bytes end
  if not fs.exists(self.path) then fs.write(self.path, crypto.random(KEY_BYTES), 384) end -- 0600
  local bytes = fs.read(self.path, KEY_BYTES + 1)
  if #bytes ~= KEY_BYTES then
    err.raise("seal_broken", ("%s isn't an agent's key: it has %d bytes"):format(self.path, #bytes),
      "restore it from a backup of the state directory; without it stored credentials are lost")
  end
  self.bytes = bytes
  return bytes
end

function Seal:close(purpose, plain)
  return crypto.base64(crypto.seal(self:key(), purpose, plain))
end

function Seal:open(purpose, sealed)
  local bytes = crypto.unbase64(sealed)
  local plain = bytes and crypto.unseal(self:key(), purpose, bytes)
  if plain then return plain end
  err.raise("seal_broken", ("what is stored as '%s' can't be opened with %s"):format(purpose, self.path),
    "the key was exchanged, or the database was changed by hand: store it again")
end

return Seal
