-- lib/secret_source.lua - where the value of a secret comes from, on the user's machine: the command
-- line, a terminal, stdin, a file, or a program that knows it.

local fail = require "ndctl.lib.fail"
local fs = require "fs"

local source = {}

local MOST = 1024 * 1024      -- bytes of a value
local COMMAND_MS = 120 * 1000 -- somebody may have to unlock something

-- How a reference becomes a command. `op://vault/item/field` is 1Password's own; the others are
-- bw:ITEM or bw:FIELD:ITEM (Bitwarden: password, username, notes, totp) and vault:PATH#FIELD.
source.managers = {
  { "op://VAULT/ITEM/FIELD", function(ref) return ref:find("^op://") and { "op", "read", "--no-newline", ref } end },
  { "bw:[FIELD:]ITEM", function(ref)
    local item = ref:match("^bw:(.+)$")
    if not item then return nil end
    local field, name = item:match("^(%l+):(.+)$")
    return { "bw", "get", field or "password", name or item }
  end },
  { "vault:PATH#FIELD", function(ref)
    local path, field = ref:match("^vault:([^#]+)#(.+)$")
    return path and { "vault", "kv", "get", "-field=" .. field, path }
  end },
}

-- The environment of this process, which those programs have their sessions in.
local function environment()
  local env = {}
  for pair in fs.read("/proc/self/environ", 4 * MOST):gmatch("([^%z]+)") do
    local name, value = pair:match("^([^=]+)=(.*)$")
    if name then env[name] = value end
  end
  return env
end

local function without_newline(text) return (text:gsub("\r?\n$", "")) end

-- Its output is never repeated in an error: it may hold the value.
local function run(argv)
  local ok, r = pcall(require("process").run, { argv = argv, env = environment(), timeout_ms = COMMAND_MS,
    max_output = MOST + 1 })
  if not ok then
    fail.raise(r.code or "process_start", ("%s: %s"):format(argv[1], r.message or tostring(r)),
      "is it installed, and in PATH?")
  end
  if r.status ~= 0 or r.signal then
    fail.raise("command_failed", ("`%s` ended with %s"):format(table.concat(argv, " "),
      r.signal and "a signal" or "exit status " .. r.status), r.stderr:match("([^\n]+)\n*$"))
  end
  if r.truncated then fail.usage("the value is longer than 1 MiB", "keep what is that large in a volume") end
  return without_newline(r.stdout)
end

function source.of_command(command) return run { "sh", "-c", command } end

function source.of_manager(ref)
  local known = {}
  for i, manager in ipairs(source.managers) do
    local argv = manager[2](ref)
    if argv then return run(argv) end
    known[i] = manager[1]
  end
  fail.usage(("--from: '%s' is no reference that ndctl knows"):format(ref),
    "it is one of " .. table.concat(known, ", ") .. "; --from-command takes any other")
end

function source.of_file(path)
  local ok, value = pcall(fs.read, path, MOST + 1)
  if not ok then fail.usage(("can't read %s: %s"):format(path, value.message or tostring(value))) end
  return value
end

function source.of_stdin() return without_newline(io.stdin:read("a") or "") end

local function ask(name)
  local term = require "term"
  if not term.isatty(0) then
    fail.usage(("there is no value for %s, and no terminal to ask for it on"):format(name),
      "pipe it in with --from-stdin, or see `ndctl secrets set --help` for the other ways")
  end
  local value = term.ask(("Value of %s (not shown): "):format(name), true)
  if not value or value == "" then fail.raise("declined", "no value was given; nothing was changed") end
  return value
end

local ways = { from_file = source.of_file, from_command = source.of_command, from = source.of_manager,
  from_stdin = source.of_stdin }

-- The value that `set` was given in one of these ways.
function source.read(name, given, options)
  local chosen
  for option in pairs(ways) do
    if options[option] then
      if chosen or given then fail.usage("the value comes from one place only", "leave all but one of them out") end
      chosen = option
    end
  end
  if given then return given end
  if not chosen then return ask(name) end
  local value = ways[chosen](options[chosen])
  if #value > MOST then fail.usage(("%s is longer than 1 MiB"):format(name), "keep what is that large in a volume") end
  if value == "" and not options.empty then
    fail.usage(("the value of %s is empty"):format(name), "--empty stores it all the same")
  end
  return value
end

return source
