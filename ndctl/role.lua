-- role.lua - `ndctl role`: what the roles may, and roles of one's own.

local clientlib = require "ndctl.lib.client"
local out = require "ndctl.lib.out"
local plan = require "ndctl.lib.plan"
local tables = require "ndctl.lib.table"

local function save(ctx, replace)
  local payload = ctx.client():call("POST", "/roles", { body = { name = ctx.args.name,
    permissions = ctx.options.allow, replace = replace } })
  if ctx.options.json then return out.json(payload) end
  out.print(("%s: %s"):format(payload.name, table.concat(payload.permissions, ", ")))
end

local function list(ctx)
  local payload = ctx.client():call("GET", "/roles")
  if ctx.options.json then return out.json(payload) end
  out.print(tables.render({
    { "ROLE", "name" },
    { "MAY", function(row) return table.concat(row.permissions, ", ") end },
    { "", function(row) return row.builtin and "built in" or nil end },
  }, payload))
end

local function remove(ctx)
  local name = ctx.args.name
  plan.confirm(ctx, ("Remove the role %s?"):format(name), ("ndctl role rm %s --yes"):format(name))
  local payload = ctx.client():call("DELETE", "/roles/" .. clientlib.escape(name))
  if ctx.options.json then return out.json(payload) end
  out.print(("role %s is removed"):format(payload.name))
end

local allow = { "allow", type = "list", value = "PERMISSION", required = true,
  doc = "read, deploy, secrets:read, secrets:write, audit, people or admin; repeat it" }

return {
  name = "role",
  summary = "What the roles may, and roles of your own.",
  notes = {
    "A permission is for everything, or for some apps: deploy@default/staging/shop names project, environment and "
      .. "app, and * is any of them. deploy and the secrets' permissions bring read along, secrets:write "
      .. "secrets:read, admin all.",
  },
  examples = { { "ndctl role list" } },
  commands = {
    {
      name = "create",
      summary = "Make a role.",
      args = { { "name", complete = "none" } },
      options = { allow }, permission = "people", json = "Role",
      examples = {
        { "ndctl role create stager --allow read --allow deploy@*/staging/*", "sees all, deploys in staging" },
      },
      run = function(ctx) save(ctx, false) end,
    },
    {
      name = "set",
      summary = "Change what a role may; all who have it feel it at once.",
      args = { { "name", complete = "roles" } },
      options = { allow }, permission = "people", json = "Role",
      examples = { { "ndctl role set stager --allow deploy@*/staging/shop" } },
      run = function(ctx) save(ctx, true) end,
    },
    {
      name = "list", also = { "ls" },
      summary = "List the roles and what they may.",
      options = {}, permission = "people", json = "Role[]",
      examples = { { "ndctl role list" } },
      run = list,
    },
    {
      name = "rm", also = { "remove" },
      summary = "Remove a role that nobody has.",
      args = { { "name", complete = "roles" } },
      options = {}, permission = "people", json = "Role",
      examples = { { "ndctl role rm stager --yes" } },
      run = remove,
    },
  },
}
