-- whoami.lua - `ndctl whoami`: as whom the daemon knows you, and what you may.

local out = require "ndctl.lib.out"
local tables = require "ndctl.lib.table"

local function whoami(ctx)
  local payload = ctx.client():call("GET", "/whoami")
  if ctx.options.json then return out.json(payload) end
  local may = {}
  for i, layer in ipairs(payload.rights) do may[i] = table.concat(layer, ", ") end
  out.print(tables.pairs {
    { "name", payload.name }, { "kind", payload.kind }, { "role", payload.role },
    { "may", table.concat(may, "; and of that ") }, { "until", payload.expires_at },
  })
end

return {
  name = "whoami",
  summary = "Show as whom the daemon knows you, and what you may.",
  options = {}, permission = "self", json = "Whoami",
  examples = { { "ndctl whoami" } },
  run = whoami,
}
