-- token.lua - `ndctl token`: who may talk to the daemon over TCP.

local clientlib = require "ndctl.lib.client"
local clock = require "clock"
local out = require "ndctl.lib.out"
local plan = require "ndctl.lib.plan"
local tables = require "ndctl.lib.table"
local text = require "ndctl.lib.text"

local function create(ctx)
  local o = ctx.options
  local payload = ctx.client():call("POST", "/tokens", { body = { name = o.name, role = o.role, expires = o.expires,
    app = o.app, environment = o.env, project = o.project } })
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
    { "FOR", function(row) return row.limits and table.concat(row.limits, " "):gsub("admin@", "") or nil end },
    { "WHOSE", "person" },
    { "CREATED", function(row) return text.ago(row.created_at, now) end },
    { "EXPIRES", "expires_at" },
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
        { "role", value = "ROLE", doc = "admin, deployer, viewer, or one of yours; without it, what you are" },
        { "expires", type = "duration", value = "TIME", doc = "it is good for so long, as 30d or 12h" },
        { "app", value = "APP", doc = "only for this app; --env and --project limit it as well" },
      },
      notes = { "Who is signed in makes tokens of his own: they may no more than he may, and go with him." },
      permission = "people", json = "Token",
      examples = {
        { "ndctl token create --name ci" },
        { "ndctl token create --name grafana --role viewer" },
        { "ndctl token create --name staging-ci --role deployer --expires 30d --app shop --env staging",
          "for a pipeline that deploys one app there" },
      },
      run = create,
    },
    {
      name = "list", also = { "ls" },
      summary = "List tokens, without their values.",
      options = {}, permission = "people", json = "Token[]",
      examples = { { "ndctl token list" } },
      run = list,
    },
    {
      name = "rm", also = { "remove", "revoke" },
      summary = "Revoke a token at once.",
      args = { { "name", complete = "tokens" } },
      options = {}, permission = "people", json = "Token",
      examples = { { "ndctl token rm ci --yes" } },
      run = remove,
    },
  },
}
