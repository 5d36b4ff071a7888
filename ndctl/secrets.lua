-- secrets.lua - `ndctl secrets`: values that apps get and nobody reads.
--
-- A value is encrypted here, to the agent's public key, and only so leaves this machine.

local clientlib = require "ndctl.lib.client"
local clock = require "clock"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local owner = require "ndctl.lib.owner"
local plan = require "ndctl.lib.plan"
local tables = require "ndctl.lib.table"
local text = require "ndctl.lib.text"

local app_option = { "app", short = "a", value = "NAME",
  doc = "of this app alone; otherwise of the environment, for all its apps" }
local recipient_option = { "recipient", type = "list", value = "age1...",
  doc = "encrypt it to this key of yours too, for `get --reveal`; may be repeated" }

local function query_of(ctx) return ctx.client():scoped { app = ctx.options.app } end

-- Encrypts and sends {NAME = value}.
local function send(ctx, values)
  local age = require "age"
  local c, owners = ctx.client(), owner.recipients(ctx.options.recipient)
  for _, recipient in ipairs(owners) do age.check(recipient) end
  local agent = c:call("GET", "/secrets/agent-key").recipient
  local body = { app = ctx.options.app, secrets = {}, copies = #owners > 0 and {} or nil }
  for name, value in pairs(values) do
    body.secrets[name] = age.encrypt({ agent }, value, { armor = true })
    if body.copies then body.copies[name] = age.encrypt(owners, value, { armor = true }) end
  end
  return c:call("POST", "/secrets/sync", { body = c:scoped(body) })
end

local function tell(ctx, stored)
  if ctx.options.json then return out.json(stored) end
  local newer
  for _, row in ipairs(stored) do
    out.print(("%s: version %d%s"):format(row.name, row.version, row.changed and "" or ", as it was"))
    newer = newer or row.changed and row.version > 1
  end
  if not newer then return end
  local app = ctx.options.app or "APP"
  out.progress(("What runs keeps the version it has: `ndctl restart %s`, or for files `ndctl secrets push %s`."):format(
    app, app))
end

local function set(ctx)
  local name, given = ctx.args.name, ctx.args.value
  local value = require("ndctl.lib.secret_source").read(name, given, ctx.options)
  if given and require("term").isatty(2) then
    out.progress("Note: a value on the command line is seen in `ps` and in the shell's history; without one "
      .. "`ndctl secrets set` asks for it.")
  end
  return tell(ctx, send(ctx, { [name] = value }))
end

local function import(ctx)
  local path = ctx.args.file
  local source = path == "-" and (io.stdin:read("a") or "") or require("ndctl.lib.secret_source").of_file(path)
  local values, names = require("ndctl.lib.dotenv").parse(source, path == "-" and "stdin" or path)
  if #names == 0 then fail.usage(("there are no variables in %s"):format(path)) end
  return tell(ctx, send(ctx, values))
end

local function scope_of(row) return row.app or "all apps" end

local function list(ctx)
  local payload = ctx.client():call("GET", "/secrets", { query = query_of(ctx) })
  if ctx.options.json then return out.json(payload) end
  if #payload == 0 then return out.progress("No secrets yet: ndctl secrets set NAME") end
  local now = clock.now()
  out.print(tables.render({
    { "NAME", "name" },
    { "FOR", scope_of },
    { "VERSION", function(row) return tostring(row.version) end },
    { "SET", function(row) return text.ago(row.created_at, now) end },
    { "BY", "created_by" },
  }, payload))
end

local function path_of(ctx, rest) return "/secrets/" .. clientlib.escape(ctx.args.name) .. (rest or "") end

-- On a terminal with a newline after it; else as it is, for whoever reads it.
local function write_value(value)
  io.stdout:write(value)
  if require("term").isatty(1) and value:sub(-1) ~= "\n" then io.stdout:write("\n") end
  io.stdout:flush()
end

local function get(ctx)
  local query = query_of(ctx)
  query.reveal = ctx.options.reveal and "true" or nil
  local row = ctx.client():call("GET", path_of(ctx), { query = query })
  local value = ctx.options.reveal and owner.decrypt(row.copy, ctx.options.identity)
  if ctx.options.json then
    row.value, row.copy = value or nil, nil
    return out.json(row)
  end
  if value then return write_value(value) end
  out.print(("%s, for %s in %s/%s"):format(row.name, scope_of(row), row.project, row.environment),
    ("  version %d, %d bytes%s"):format(row.version, row.bytes, row.binary and ", binary: it can only be a file" or ""),
    ("  set %s by %s"):format(text.ago(row.created_at, clock.now()), row.created_by),
    row.revealable and "  its owner can read it: --reveal" or "  nobody can read it back")
end

local function history(ctx)
  local payload = ctx.client():call("GET", path_of(ctx, "/history"), { query = query_of(ctx) })
  if ctx.options.json then return out.json(payload) end
  local now = clock.now()
  out.print(tables.render({
    { "VERSION", function(row) return tostring(row.version) end },
    { "SET", function(row) return text.ago(row.created_at, now) end },
    { "BY", "created_by" },
    { "BYTES", function(row) return tostring(row.bytes) end },
    { "", function(row) return row.removed_at and "removed by " .. row.removed_by or "" end },
  }, payload))
end

local function remove(ctx)
  local name = ctx.args.name
  plan.confirm(ctx, ("Erase all versions of %s?"):format(name), ("ndctl secrets rm %s --yes"):format(name))
  local payload = ctx.client():call("DELETE", path_of(ctx), { query = query_of(ctx) })
  if ctx.options.json then return out.json(payload) end
  out.print(("%s is erased"):format(name))
end

local function push(ctx)
  local c = ctx.client()
  local payload = c:call("POST", "/secrets/push", { body = c:scoped { app_name = ctx.args.app } })
  if ctx.options.json then return out.json(payload) end
  if #payload == 0 then return out.progress("Nothing to exchange: its files are the newest versions.") end
  for _, row in ipairs(payload) do
    if row.as == "env" then
      out.print(("%s: version %d after `ndctl restart %s`; as a variable it stays %d until then"):format(row.name,
        row.version, ctx.args.app, row.from))
    else
      out.print(("/run/secrets/%s: version %d, before %d%s"):format(row.name, row.version, row.from,
        row.as == "both" and "; the variable follows at the next start" or ""))
    end
  end
end

local function rotate(ctx)
  plan.confirm(ctx, "Give the agent a new key, and seal everything again?", "ndctl secrets rotate --yes")
  local payload = ctx.client():call("POST", "/secrets/rotate", { timeout_ms = 600000 })
  if ctx.options.json then return out.json(payload) end
  out.print(("the agent's key is %s; sealed again: %d"):format(payload.recipient, payload.sealed))
end

local function own(ctx)
  local recipient, file = ctx.args.recipient, nil
  if recipient then owner.add(recipient) else recipient, file = owner.own() end
  local recipients = require("json").array(owner.recipients())
  if ctx.options.json then return out.json { recipient = recipient, recipients = recipients } end
  if file then out.progress(("Your key is in %s; keep a copy of it."):format(file)) end
  out.progress("What you set from now on, you can read with `ndctl secrets get NAME --reveal`.")
  out.print(recipient)
end

return {
  name = "secrets",
  summary = "Set, list and exchange secrets: values that apps get and nobody reads.",
  notes = {
    "A value is encrypted on this machine, in the age format, to the agent's key. The daemon keeps it sealed, "
      .. "and gives it to the containers of releases that ask for it (`ndctl deploy --secret NAME`), in memory "
      .. "only. What runs keeps the version it has until the next deploy or restart.",
  },
  examples = { { "ndctl secrets list" } },
  commands = {
    {
      name = "set",
      summary = "Set a secret; each new value is its next version.",
      args = { { "name" }, { "value", optional = true, empty = true } },
      options = {
        app_option,
        { "from-stdin", type = "flag", doc = "read the value from stdin; one newline at its end is dropped" },
        { "from-file", value = "FILE", complete = "files", doc = "the bytes of a file, as they are" },
        { "from-command", value = "COMMAND", doc = "what this shell command prints, without its last newline" },
        { "from", value = "REFERENCE", doc = "ask a password manager on this machine: op://VAULT/ITEM/FIELD, "
          .. "bw:[FIELD:]ITEM, vault:PATH#FIELD" },
        { "empty", type = "flag", doc = "store the value even though it is empty" },
        recipient_option,
      },
      notes = {
        "Without a value, it is asked for and not shown. One on the command line is visible to everybody on this "
          .. "machine while ndctl runs, in `ps`, and stays in the shell's history.",
        "At most 1 MiB, of any bytes; with a zero byte, or more than 128 KiB, it can only be delivered as a file.",
      },
      permission = "secrets:write", json = "SecretVersion[]",
      examples = {
        { 'ndctl secrets set DB_PASSWORD "s3cr3t" --env production' },
        { "ndctl secrets set DB_PASSWORD --app shop", "asks for the value", answer = "open sesame" },
        { "ndctl secrets set API_KEY --from-command ./print-key", skip = "there is no such program here" },
        { "ndctl secrets set API_KEY --from op://prod/api/key", skip = "it needs 1Password's op" },
        { "ndctl secrets set TLS_KEY --from-file key.pem", skip = "there is no such file here" },
        { "ndctl secrets set API_KEY --from-stdin", stdin = "open sesame\n" },
      },
      run = set,
    },
    {
      name = "import",
      summary = "Set all variables of a .env file: all of them, or none.",
      args = { { "file", complete = "files" } },
      options = { app_option, recipient_option },
      notes = { "A line is NAME=VALUE; quotes, comments and `export` are understood, nothing is expanded. - is "
        .. "stdin." },
      permission = "secrets:write", json = "SecretVersion[]",
      examples = {
        { "ndctl secrets import .env --app shop" },
        { "ndctl secrets import - --env staging", stdin = "API_KEY='open sesame'\n" },
      },
      run = import,
    },
    {
      name = "list", also = { "ls" },
      summary = "List names, versions and dates; with --app those that this app gets.",
      options = { app_option },
      permission = "secrets:read", json = "Secret[]",
      examples = { { "ndctl secrets list" }, { "ndctl secrets list --app shop --env production" } },
      run = list,
    },
    {
      name = "get", also = { "show" },
      summary = "Tell what is known of a secret; its value only to its owner.",
      args = { { "name", complete = "secrets" } },
      options = {
        app_option,
        { "reveal", type = "flag", doc = "decrypt the value here, where it was also encrypted to a key of yours" },
        { "identity", value = "FILE", complete = "files",
          doc = "where that key is; otherwise as `secrets owner` made it" },
      },
      permission = "secrets:read", json = "Secret",
      examples = {
        { "ndctl secrets get DB_PASSWORD" },
        { "ndctl secrets get DB_PASSWORD --reveal", "after `ndctl secrets owner`" },
      },
      run = get,
    },
    {
      name = "history",
      summary = "List all versions of a secret.",
      args = { { "name", complete = "secrets" } }, options = { app_option },
      permission = "secrets:read", json = "Secret[]",
      examples = { { "ndctl secrets history DB_PASSWORD" } },
      run = history,
    },
    {
      name = "rm", also = { "remove" },
      summary = "Erase all versions of a secret that no live release has.",
      args = { { "name", complete = "secrets" } }, options = { app_option },
      permission = "secrets:write", json = "Secret",
      examples = { { "ndctl secrets rm OLD_KEY", answer = "y" } },
      run = remove,
    },
    {
      name = "push",
      summary = "Give a running app the newest versions of its secrets that are files, without a restart.",
      args = { { "app" } }, options = {},
      notes = { "Each file in /run/secrets is exchanged by a rename, which a program that watches or reopens it sees. "
        .. "Variables of a running program can't be changed: `ndctl restart APP`." },
      permission = "secrets:write", json = "SecretPushed[]", conflict = true,
      examples = { { "ndctl secrets push shop" } },
      run = push,
    },
    {
      name = "rotate",
      summary = "Give the agent a new key, and seal everything stored again under it.",
      options = {},
      notes = { "It may be interrupted at any point, by a crash too: the daemon goes on with it. Copies of the state "
        .. "directory from before need the key that is in them." },
      permission = "admin", json = "SecretsRotated",
      examples = { { "ndctl secrets rotate", answer = "y" } },
      run = rotate,
    },
    {
      name = "owner",
      summary = "Make, or add, a key of your own, to which what you set is encrypted too.",
      args = { { "recipient", optional = true } }, options = {},
      permission = "local",
      json = { type = "object", required = { "recipient", "recipients" } },
      examples = {
        { "ndctl secrets owner", "makes ~/.config/ndctl/identity.txt, once, and prints its public key" },
        { "ndctl secrets owner age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg",
          "adds a public key whose identity is kept elsewhere" },
      },
      run = own,
    },
  },
}
