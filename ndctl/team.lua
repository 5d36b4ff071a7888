-- team.lua - `ndctl team`: people, by invitation.

local clientlib = require "ndctl.lib.client"
local clock = require "clock"
local out = require "ndctl.lib.out"
local plan = require "ndctl.lib.plan"
local tables = require "ndctl.lib.table"
local text = require "ndctl.lib.text"

local function path(ctx, rest) return "/team/" .. clientlib.escape(ctx.args.email) .. (rest or "") end

local function invited(ctx, payload)
  if ctx.options.json then return out.json(payload) end
  out.progress(("%s, %s, is invited until %s. Hand over the code below, which is good once:"):format(payload.email,
    payload.role, payload.invited_until or "tomorrow"),
    "  ndctl login --host URL --invitation CODE")
  out.print(payload.invitation)
end

local function add(ctx)
  invited(ctx, ctx.client():call("POST", "/team", { body = { email = ctx.args.email, role = ctx.options.role } }))
end

local function invite(ctx) invited(ctx, ctx.client():call("POST", path(ctx, "/invite"))) end

local function list(ctx)
  local payload = ctx.client():call("GET", "/team")
  if ctx.options.json then return out.json(payload) end
  if #payload == 0 then return out.progress("Nobody yet: ndctl team add EMAIL --role deployer") end
  local now = clock.now()
  out.print(tables.render({
    { "EMAIL", "email" }, { "ROLE", "role" }, { "STATE", "state" }, { "SESSIONS", "sessions" },
    { "SEEN", function(row) return row.seen_at and text.ago(row.seen_at, now) end },
  }, payload))
end

local function role(ctx)
  local payload = ctx.client():call("POST", path(ctx, "/role"), { body = { role = ctx.args.role } })
  if ctx.options.json then return out.json(payload) end
  out.print(("%s has the role %s"):format(payload.email, payload.role))
end

local function remove(ctx)
  local email = ctx.args.email
  plan.confirm(ctx, ("Remove %s, with sessions and tokens?"):format(email),
    ("ndctl team remove %s --yes"):format(email))
  local payload = ctx.client():call("DELETE", path(ctx))
  if ctx.options.json then return out.json(payload) end
  out.print(("%s is removed, with sessions and tokens"):format(payload.email))
end

return {
  name = "team",
  summary = "Invite people, give them roles, remove them.",
  notes = { "What a role may is told by `ndctl role list`. Nobody gives more than he has." },
  examples = { { "ndctl team list" } },
  commands = {
    {
      name = "add",
      summary = "Invite somebody; the code is the last line of the output, and never shown again.",
      args = { { "email", complete = "none" } },
      options = { { "role", value = "ROLE", required = true, doc = "admin, deployer, viewer, or one of yours" } },
      permission = "people", json = "Person",
      examples = { { "ndctl team add user@email.com --role deployer" } },
      run = add,
    },
    {
      name = "list", also = { "ls" },
      summary = "List everybody.",
      options = {}, permission = "people", json = "Person[]",
      examples = { { "ndctl team list" } },
      run = list,
    },
    {
      name = "role",
      summary = "Give somebody another role, at once.",
      args = { { "email", complete = "people" }, { "role", complete = "roles" } },
      options = {}, permission = "people", json = "Person",
      examples = { { "ndctl team role user@email.com viewer" } },
      run = role,
    },
    {
      name = "invite",
      summary = "Another invitation, for who lost his or forgot his password.",
      args = { { "email", complete = "people" } },
      options = {}, permission = "people", json = "Person",
      examples = { { "ndctl team invite user@email.com" } },
      run = invite,
    },
    {
      name = "remove", also = { "rm" },
      summary = "Remove somebody with sessions and tokens, at once.",
      args = { { "email", complete = "people" } },
      options = {}, permission = "people", json = "Person",
      notes = { "A run that he began is refused its next step and goes back, unless it is past its point of no "
        .. "return: then it is brought to its end." },
      examples = { { "ndctl team remove user@email.com --yes" } },
      run = remove,
    },
  },
}
