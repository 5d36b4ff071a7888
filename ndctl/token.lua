-- token.lua - `ndctl token`: who may talk to the daemon over TCP.

local clientlib = require "ndctl.lib.client"
local clock = require "clock"
local out = require "ndctl.lib.out"
local plan = require "ndctl.lib.plan"
local tables = require "ndctl.lib.table"
local text = require "ndctl.lib.text"

local function create(ctx)
  local payload = ctx.client():call("POST", "/tokens", {
    body = { name = ctx.options.name, role = ctx.options.role } })
  if ctx.options.json then return out.json(payload) end
  out.progress(("Token %s%s; it isn't shown again."):format(payload.name or ctx.options.name,
    payload.role and " with the role " .. payload.role or ""))
  out.print(payload.token)
end

local function list(ctx)
  local payload = ctx.client():call("GET", "/tokens")
  if ctx.options.json then return out.json(payload) end
  if #payload == 0 then
    return out.progress("No tokens yet: ndctl token create --name NAME")
  end
  local now = clock.now()
  out.print(tables.render({
    { "NAME", "name" },
    { "ROLE", "role" },
    { "CREATED", function(row) return text.ago(row.created_at, now) end },
  }, payload))
end

local function remove(ctx)
  local name = ctx.args.name
  plan.confirm(ctx, ("Revoke the token %s?"):format(name), ("ndctl token rm %s --yes"):format(name))
  local payload = ctx.client():call("DELETE", "/tokens/" .. clientlib.escape(name))
  if ctx.options.json then return out.json(payload or {}) end
  out.print(("token %s is revoked"):format(name))
end

return {
  name = "token",
  summary = "Create, list and revoke tokens for the daemon's TCP port.",
  examples = { { "ndctl token create --name laptop" } },
  commands = {
    {
      name = "create",
      summary = "Create a token; it is the last line of the output, and never shown again.",
      options = {
        { "name", short = "n", value = "NAME", required = true, doc = "what it is for" },
        { "role", value = "ROLE", doc = "admin, deployer or viewer" },
      },
      permission = "admin", json = "Token",
      examples = {
        { "ndctl token create --name ci" },
        { "ndctl token create --name grafana --role viewer" },
      },
      run = create,
    },
    {
      name = "list", also = { "ls" },
      summary = "List tokens, without their values.",
      options = {}, permission = "admin", json = "Token[]",
      examples = { { "ndctl token list" } },
      run = list,
    },
    {
      name = "rm", also = { "remove", "revoke" },
      summary = "Revoke a token at once.",
      args = { { "name", complete = "tokens" } },
      options = {}, permission = "admin", json = "Token",
      examples = { { "ndctl token rm ci --yes" } },
      run = remove,
    },
  },
}
