-- registry.lua - `ndctl registry`: credentials for private images.
--
-- A password comes from stdin or from the terminal, never from an argument, which others can see.

local clientlib = require "ndctl.lib.client"
local clock = require "clock"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local tables = require "ndctl.lib.table"
local text = require "ndctl.lib.text"

local function read_password(ctx)
  local term = require "term"
  if not ctx.options.password_stdin then
    if not term.isatty(0) then
      fail.usage("there is no terminal to ask for the password on",
        "pipe it in, and add --password-stdin")
    end
    local line = term.ask("Password: ", true)
    if not line or line == "" then fail.raise("declined", "no password was given; nothing was changed") end
    return line
  end
  local password = (io.stdin:read("a") or ""):gsub("\r?\n$", "")
  if password == "" then fail.usage("--password-stdin: there is no password on stdin") end
  return password
end

local function login(ctx)
  local payload = ctx.client():call("POST", "/registries", { body = { host = ctx.args.host,
    username = ctx.options.username, password = read_password(ctx) } })
  if ctx.options.json then return out.json(payload) end
  out.print(("%s: images are pulled as %s from now on"):format(payload.host, payload.username))
end

local function list(ctx)
  local payload = ctx.client():call("GET", "/registries")
  if ctx.options.json then return out.json(payload) end
  if #payload == 0 then
    return out.progress("No credentials are stored: ndctl registry login HOST -u USER")
  end
  local now = clock.now()
  out.print(tables.render({
    { "REGISTRY", "host" },
    { "USER", "username" },
    { "STORED", function(row) return text.ago(row.created_at, now) end },
  }, payload))
end

local function logout(ctx)
  local payload = ctx.client():call("DELETE", "/registries/" .. clientlib.escape(ctx.args.host))
  if ctx.options.json then return out.json(payload) end
  out.print(("%s: the credentials are forgotten"):format(payload.host))
end

return {
  name = "registry",
  summary = "Store credentials for the registries of private images.",
  notes = {
    "The daemon checks credentials with the registry, seals them with its own key and uses them when "
      .. "it pulls from there. Nobody can read them back.",
  },
  examples = { { "ndctl registry list" } },
  commands = {
    {
      name = "login",
      summary = "Check and store a user and a password (or access token) for a registry.",
      args = { { "host" } },
      options = {
        { "username", short = "u", value = "USER", required = true, doc = "who pulls" },
        { "password-stdin", type = "flag",
          doc = "read the password from stdin; otherwise it is asked for" },
      },
      permission = "admin", json = "Registry",
      examples = {
        { "ndctl registry login registry.example.com -u robot --password-stdin",
          stdin = "open sesame\n" },
        { "ndctl registry login registry.example.com -u robot", "asks for the password",
          answer = "open sesame" },
      },
      run = login,
    },
    {
      name = "list", also = { "ls" },
      summary = "List the registries that credentials are stored for.",
      options = {}, permission = "admin", json = "Registry[]",
      examples = { { "ndctl registry list" } },
      run = list,
    },
    {
      name = "logout", also = { "rm" },
      summary = "Forget the credentials of a registry.",
      args = { { "host", complete = "registries" } },
      options = {}, permission = "admin", json = "Registry",
      examples = { { "ndctl registry logout registry.example.com" } },
      run = logout,
    },
  },
}
