-- crypt.lua - `ndctl crypt`: the age format for people and scripts, without a daemon: stdin to stdout,
-- and an exit status.
--
-- Keys are read here, the streams run in C (crypt.h): no byte of a file becomes a Lua string.

local age = require "age"
local clock = require "clock"
local fail = require "ndctl.lib.fail"
local fs = require "fs"
local out = require "ndctl.lib.out"

local KEYS_MOST = 1024 * 1024 -- bytes of a file with keys

-- Adds the keys in a file to `list`: one a line; empty lines and those that begin with # are passed
-- over. `check` raises for what isn't a key.
local function read_keys(path, check, list)
  local content = fs.read(path, KEYS_MOST)
  if content:find("^age%-encryption%.org/") or content:find("^%-%-%-%-%-BEGIN AGE") then
    fail.raise("age_unsupported", path .. " is encrypted itself", "decrypt it first: age -d " .. path)
  end
  local number, before = 0, #list
  for line in content:gmatch("([^\n]*)\n?") do
    number = number + 1
    line = line:gsub("%s+$", "")
    if line ~= "" and line:sub(1, 1) ~= "#" then
      local ok, e = pcall(check, line)
      if not ok then
        e.message = ("%s, line %d: %s"):format(path, number, e.message)
        error(e, 0)
      end
      list[#list + 1] = line
    end
  end
  return #list > before
end

local function identities(paths)
  local list = {}
  for _, path in ipairs(paths) do
    if not read_keys(path, age.recipient, list) then
      fail.raise("age_bad_identity", path .. " holds no identity", "make one: ndctl crypt keygen -o " .. path)
    end
  end
  return list
end

local function recipients(o)
  local list = table.move(o.recipient or {}, 1, #(o.recipient or {}), 1, {})
  for _, path in ipairs(o.recipients_file or {}) do
    if not read_keys(path, age.check, list) then
      fail.raise("age_bad_recipient", path .. " holds no recipient", "it has one a line: age1...")
    end
  end
  if #list == 0 then fail.usage("there is nobody to encrypt to", "name a recipient: -r age1..., or -R FILE") end
  return list
end

local function keygen(ctx)
  local path = ctx.options.output
  if path and fs.exists(path) then
    fail.raise("fs_exists", path .. " is there already", "an identity is never replaced: choose another name")
  end
  local identity, recipient = age.keygen()
  local created = clock.format(clock.now())
  if path then
    fs.write(path, ("# created: %s\n# public key: %s\n%s\n"):format(created, recipient, identity), 384) -- 0600
    identity = nil
  end
  if ctx.options.json then
    return out.json { created_at = created, recipient = recipient, identity = identity, file = path }
  end
  if path then return out.print(recipient) end
  out.print("# created: " .. created, "# public key: " .. recipient, identity)
end

local function encrypt(ctx)
  local o = ctx.options
  if not o.armor and not o.output and require("term").isatty(1) then
    fail.usage("what is encrypted is no text for a terminal", "add -a (armor), or -o FILE")
  end
  require("crypt").encrypt(recipients(o), o.armor, o.output)
end

local function decrypt(ctx)
  require("crypt").decrypt(identities(ctx.options.identity), ctx.options.output)
end

local function recipient_of(ctx)
  local list = identities(ctx.options.identity)
  for i, identity in ipairs(list) do list[i] = age.recipient(identity) end
  if ctx.options.json then return out.json(list) end
  out.print(list)
end

local output = { "output", short = "o", value = "FILE", complete = "files",
  doc = "write this file, and only as a whole; otherwise stdout" }
local identity_files = { "identity", short = "i", type = "list", value = "FILE", complete = "files", required = true,
  doc = "a file with identities, as keygen writes it; may be repeated" }
local someone = "age1p8m2syy8t39x752ckzjgf6fnyyaq99uhe3teyx3pfyd7wvvc0qfq3yt7z0"

local function tool(row)
  row.permission = "local"
  row.options = row.options or {}
  return row
end

return {
  name = "crypt",
  summary = "Encrypt and decrypt in the age format, stdin to stdout.",
  notes = {
    "age-encryption.org/v1 with X25519 recipients, armored or not: `age` and every other tool for that "
      .. "format read and write the same. Passphrases, SSH keys and post-quantum recipients aren't for "
      .. "this one.",
  },
  exit_status = "0 done, 1 what was given can't be decrypted, 2 usage or a bad key, 4 no such file.",
  examples = { { "ndctl crypt keygen" } },
  commands = {
    tool {
      name = "keygen",
      summary = "Make a new identity; its recipient is what others encrypt to.",
      options = { { "output", short = "o", value = "FILE", complete = "files",
        doc = "write it to a new file that only you can read, and print the recipient" } },
      json = { type = "object", required = { "created_at", "recipient" }, properties = {
        created_at = { type = "string" }, recipient = { type = "string" }, identity = { type = "string" },
        file = { type = "string" } } },
      examples = { { "ndctl crypt keygen" }, { "ndctl crypt keygen -o key.txt" } },
      run = keygen,
    },
    tool {
      name = "recipient",
      summary = "Print the recipients that belong to the identities in a file.",
      options = { identity_files },
      json = { type = "array", items = { type = "string" } },
      examples = { { "ndctl crypt recipient -i key.txt" } },
      run = recipient_of,
    },
    tool {
      name = "encrypt", json = false,
      summary = "Encrypt stdin to one recipient or several, each of whom can read it.",
      options = {
        { "recipient", short = "r", type = "list", value = "RECIPIENT", doc = "age1...; may be repeated" },
        { "recipients-file", short = "R", type = "list", value = "FILE", complete = "files",
          doc = "a file with recipients, one a line; may be repeated" },
        { "armor", short = "a", type = "flag", doc = "as text, which mail and chat let through" },
        output,
      },
      examples = {
        { "ndctl crypt encrypt -a -r " .. someone, "of stdin", stdin = "attack at dawn\n" },
        { "ndctl crypt encrypt -R team.txt -o backup.age", "of stdin", stdin = "attack at dawn\n" },
      },
      run = encrypt,
    },
    tool {
      name = "decrypt", json = false,
      summary = "Decrypt stdin, armored or not.",
      options = { identity_files, output },
      notes = {
        "Nothing is written that wasn't authenticated. Whether a stream is complete is known at its end: "
          .. "use what came on stdout once the exit status is 0, or -o, which leaves no part of it behind.",
      },
      examples = { { "ndctl crypt decrypt -i key.txt", "of stdin", file = "backup.age" } },
      run = decrypt,
    },
  },
}
