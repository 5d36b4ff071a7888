-- run.lua - `ndctl run recipe`: runs an installed recipe, or one from a file, for an app.

local act = require "ndctl.lib.act"
local files = require "ndctl.lib.files"
local out = require "ndctl.lib.out"
local params = require "ndctl.lib.params"

local function run_recipe(ctx)
  local o, recipe = ctx.options, ctx.args.recipe
  local name = recipe
  if files.is_path(recipe) then
    recipe = files.recipe(recipe)
    name = recipe.name
  end
  local given = o.params
  for parameter, value in pairs(o.param or {}) do given[parameter] = value end
  local body = { recipe = recipe, app_name = o.app, params = params.read(given) }
  if o.plan then return act.plan(ctx, "/runs", body) end
  out.progress(("Running %s for %s ..."):format(name, o.app))
  return act.post(ctx, { path = "/runs", body = body, json = "run" })
end

return {
  name = "run",
  summary = "Run a recipe.",
  examples = {
    { "ndctl run recipe bluegreen --app web --image nginx:1.28" },
  },
  commands = {
    {
      name = "recipe",
      summary = "Run a recipe by name, or from a file or folder on this machine.",
      permission = "deploy", json = "Run", conflict = true,
      usage = { "run recipe NAME|PATH --app APP [--PARAMETER VALUE ...] [options]" },
      args = { { "recipe" } },
      free = "params",
      options = {
        { "app", short = "a", value = "NAME", required = true, doc = "the app it is for" },
        { "param", short = "p", type = "map",
          doc = "a parameter, where its name is also an option's" },
        act.options.plan,
        act.options.wait,
      },
      notes = {
        "Every other --NAME VALUE is a parameter of the recipe; `ndctl recipe show NAME` lists "
          .. "them. A member of a parameter is written --health.path /up.",
      },
      examples = {
        { "ndctl run recipe bluegreen --app web --image nginx:1.28 --drain 10s" },
        { "ndctl run recipe bluegreen --app web --image nginx:1.28 --plan" },
        { "ndctl run recipe ./canary --app web --image nginx:1.28 --health.path /up",
          "the recipe in the folder ./canary" },
      },
      run = run_recipe,
    },
  },
}
