-- password.lua - `ndctl password`: changes one's own.

local out = require "ndctl.lib.out"
local secret = require "ndctl.lib.secret"

local function password(ctx)
  local old = secret.read(ctx.options, "Present password: ")
  local payload = ctx.client():call("POST", "/password", { body = { old = old,
    new = secret.new(ctx.options, "New password: ") } })
  if ctx.options.json then return out.json(payload) end
  out.print(("%s: the password is changed, and your other sessions are ended"):format(payload.email))
end

return {
  name = "password",
  summary = "Change your password; your other sessions end.",
  options = {
    { "password-stdin", type = "flag", doc = "read both from stdin, a line each; otherwise they are asked for" },
  },
  notes = { "Who has forgotten it is sent a new invitation: `ndctl team invite EMAIL`." },
  permission = "local",
  json = { type = "object", required = { "email" }, properties = { email = { type = "string" } } },
  examples = { { "ndctl password --host http://127.0.0.1:8371 --password-stdin",
    stdin = "correct horse battery\nstaple correct horse\n" } },
  run = password,
}
