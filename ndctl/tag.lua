-- tag.lua - `ndctl tag`: words by which people group their apps.

local clientlib = require "ndctl.lib.client"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local outcome = require "ndctl.lib.outcome"

return {
  name = "tag",
  summary = "Add tags to an app and remove others; without any, list them.",
  usage = { "tag APP [+TAG | -TAG ...]" },
  args = { { "app" }, { "tag", many = true, optional = true } },
  signed = true,
  options = {},
  permission = "deploy", json = "AppStatus",
  notes = { "`ndctl ps --tag TAG` and `ndctl apps --tag TAG` list what has one. A tag that an option "
    .. "begins like goes after --." },
  examples = {
    { "ndctl tag web +team-a +critical" },
    { "ndctl tag web -critical" },
  },
  run = function(ctx)
    local c, body = ctx.client(), { add = {}, remove = {} }
    for _, word in ipairs(ctx.args.tag or {}) do
      local sign, tag = word:match "^([+-])(.+)$"
      if not sign then fail.usage(("'%s' is neither +TAG nor -TAG"):format(word), "as in ndctl tag web +team-a") end
      table.insert(sign == "+" and body.add or body.remove, tag)
    end
    body.add, body.remove = #body.add > 0 and body.add or nil, #body.remove > 0 and body.remove or nil
    if not next(body) then body.add = require("json").array {} end
    local app = c:call("POST", "/apps/" .. clientlib.escape(ctx.args.app) .. "/tags",
      { query = c:scoped {}, body = body })
    if ctx.options.json then return out.json(app) end
    out.print(table.concat(outcome.present(app.tags) or {}, " "))
  end,
}
