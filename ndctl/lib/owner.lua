-- lib/owner.lua - the user's own keys: what he sets is also encrypted to them, so that he, and nobody
-- else, can read it back.
--
-- ~/.config/ndctl/recipients has a public key (age1...) a line; identity.txt beside it the key that
-- `ndctl secrets owner` made, as age-keygen writes them.

local contexts = require "ndctl.lib.contexts"
local fail = require "ndctl.lib.fail"
local fs = require "fs"

local owner = {}

local function path(name)
  local dir = contexts.dir()
  if not dir then
    fail.raise("not_found", "there is no place for keys: neither HOME nor XDG_CONFIG_HOME is set")
  end
  return dir .. "/" .. name, dir
end

local function lines(file)
  local list = {}
  if fs.exists(file) then
    for line in fs.read(file, 1024 * 1024):gmatch("[^\r\n]+") do
      line = line:match("^%s*(.-)%s*$")
      if line ~= "" and line:sub(1, 1) ~= "#" then list[#list + 1] = line end
    end
  end
  return list
end

-- Public keys, those of `more` too.
function owner.recipients(more)
  local list, seen = {}, {}
  local known = contexts.dir() and lines((path "recipients")) or {}
  for _, keys in ipairs { known, more or {} } do
    for _, key in ipairs(keys) do
      if not seen[key] then list[#list + 1] = key end
      seen[key] = true
    end
  end
  return list
end

function owner.add(recipient)
  require("age").check(recipient)
  local list = owner.recipients { recipient }
  local file, dir = path "recipients"
  fs.mkdir(dir, 448) -- rwx------
  fs.write(file, table.concat(list, "\n") .. "\n", 384)
end

-- The public key of this user's own pair, which is made the first time; and its file.
function owner.own()
  local age = require "age"
  local file, dir = path "identity.txt"
  local identity = lines(file)[1]
  local recipient
  if identity then
    recipient = age.recipient(identity)
  else
    identity, recipient = age.keygen()
    fs.mkdir(dir, 448)
    fs.write(file, ("# public key: %s\n%s\n"):format(recipient, identity), 384)
  end
  owner.add(recipient)
  return recipient, file
end

-- Decrypts what was encrypted to this user.
function owner.decrypt(copy, file)
  file = file or (path "identity.txt")
  local identities = lines(file)
  if #identities == 0 then
    fail.raise("not_found", ("there is no key in %s"):format(file), "--identity FILE names where yours is")
  end
  return require("age").decrypt(identities, copy)
end

return owner
