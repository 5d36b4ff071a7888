-- logout.lua - `ndctl logout`: ends the session, at the daemon and here.

local contexts = require "ndctl.lib.contexts"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local session = require "ndctl.lib.session"

local function logout(ctx)
  local name = contexts.choose(ctx.options).session
  if not name then fail.raise("not_found", "you aren't signed in there", "ndctl context list shows where you are") end
  local ok, payload = pcall(function()
    return ctx.client():call("POST", "/logout", { query = { all = ctx.options.all and "true" or nil } })
  end)
  if not ok and payload.http ~= 401 and payload.code ~= "unauthorized" then error(payload, 0) end
  session.forget(name)
  if ctx.options.json then return out.json(ok and payload or { email = "" }) end
  out.print(ok and ("%s is signed out"):format(payload.email) or "the session had ended already")
end

return {
  name = "logout",
  summary = "Sign out: the session ends at once.",
  options = { { "all", type = "flag", doc = "end your sessions everywhere" } },
  permission = "local",
  json = { type = "object", required = { "email" }, properties = { email = { type = "string" } } },
  examples = { { "ndctl logout --host http://127.0.0.1:8371" } },
  run = logout,
}
