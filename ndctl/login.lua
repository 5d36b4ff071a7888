-- login.lua - `ndctl login`: signs in to a daemon on TCP, by password or by an invitation.

local contexts = require "ndctl.lib.contexts"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local secret = require "ndctl.lib.secret"
local session = require "ndctl.lib.session"

-- The context that the session is kept with: the one in use, else one of this host.
local function context_of(chosen)
  if chosen.context then return chosen.context end
  return contexts.of_host(chosen.host, true) or (chosen.host:gsub("^%w+://", ""):gsub("[^%w._-]+", "-"))
end

local function email_of(options)
  if options.email then return options.email end
  local term = require "term"
  if options.password_stdin or not term.isatty(0) then
    fail.usage("ndctl login: who are you?", "add --email, or --invitation with the code that you were given")
  end
  local email = term.ask("Email: ")
  if not email or email == "" then fail.raise("declined", "no email was given") end
  return email
end

local function login(ctx)
  local o = ctx.options
  local chosen = contexts.choose(o)
  local client = require("ndctl.lib.client").to(chosen.host, chosen.trust)
  if client.unix then
    fail.usage("at the socket of this machine nobody signs in: who may open it is an admin",
      "name a daemon's address: --host http://127.0.0.1:8371, or a context with one")
  end
  local payload
  if o.invitation then
    payload = client:call("POST", "/login/invitation", { body = { invitation = o.invitation,
      password = secret.new(o, "New password: ") } })
  else
    payload = client:call("POST", "/login", { body = { email = email_of(o), password = secret.read(o, "Password: ") } })
  end
  local name = context_of(chosen)
  session.keep(name, chosen.host, chosen.trust, payload)
  if o.json then return out.json { email = payload.email, host = chosen.host, context = name } end
  out.print(("%s is signed in to %s (context %s)"):format(payload.email, chosen.host, name))
end

return {
  name = "login",
  summary = "Sign in to a daemon on TCP, with a password or an invitation.",
  options = {
    { "email", value = "EMAIL", doc = "who you are; otherwise it is asked for", complete = "none" },
    { "invitation", value = "CODE", doc = "the code that you were given; you choose a password then" },
    { "password-stdin", type = "flag", doc = "read the password from stdin; otherwise it is asked for" },
  },
  notes = {
    "The session is kept in your contexts file, which only you may read, and goes on by itself; it ends 30 days "
      .. "after its last use, by `ndctl logout`, or when somebody takes it back.",
  },
  permission = "local", json = { type = "object", required = { "email", "host", "context" },
    properties = { email = { type = "string" }, host = { type = "string" }, context = { type = "string" } } },
  examples = {
    { "ndctl login --host http://127.0.0.1:8371 --email ann@example.com --password-stdin",
      stdin = "correct horse battery\n" },
    { "ndctl login --host http://127.0.0.1:8371 --invitation ndi_code", "asks for the password that is to be",
      skip = "an invitation is good once" },
  },
  run = login,
}
