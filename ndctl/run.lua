-- run.lua - `ndctl run recipe`: runs an installed recipe, or one from a file, for an app.

local act = require "ndctl.lib.act"
local client = require "ndctl.lib.client"
local fail = require "ndctl.lib.fail"
local files = require "ndctl.lib.files"
local out = require "ndctl.lib.out"
local params = require "ndctl.lib.params"
local text = require "ndctl.lib.text"

-- The recipe as POST /runs takes it, its name, and its declared parameters.
local function find(ctx, word)
  local c = ctx.client()
  if files.is_path(word) then
    local recipe = files.recipe(word)
    local header = c:call("POST", "/recipes/check", { body = { files = recipe.files } })
    return recipe, recipe.name, header.params or (header.recipe or {}).params
  end
  local ok, header = pcall(c.call, c, "GET", "/recipes/" .. client.escape(word))
  if ok then return word, word, header.params or (header.recipe or {}).params end
  if type(header) == "table" and header.http == 404 then
    local names = {}
    for i, recipe in ipairs(c:call("GET", "/recipes")) do names[i] = recipe.name end
    local near = text.nearest(word, names)
    fail.raise("not_found", ("there is no recipe '%s'"):format(word),
      near and ("did you mean %s?"):format(near)
        or "ndctl recipe list shows the installed ones; a path needs a / or .lua in it")
  end
  error(header, 0)
end

local function given_params(ctx)
  local given = ctx.options.params
  for name, value in pairs(ctx.options.param or {}) do given[name] = value end
  if ctx.options.app then given.app = ctx.options.app end
  return given
end

local function run_recipe(ctx)
  local recipe, name, declared = find(ctx, ctx.args.recipe)
  local given = given_params(ctx)
  local takes_app = declared == nil
  for _, p in ipairs(declared or {}) do takes_app = takes_app or p.name == "app" end
  if not takes_app then given.app = nil end
  local body = {
    recipe = recipe, app_name = ctx.options.app, params = params.read(given, declared, name),
  }
  if ctx.options.plan then return act.plan(ctx, "/runs", body) end
  out.progress(("Running %s%s ..."):format(name,
    ctx.options.app and " for " .. ctx.options.app or ""))
  return act.post(ctx, { path = "/runs", body = body, app = ctx.options.app, json = "run" })
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
      usage = { "run recipe NAME|PATH --app APP [--PARAMETER VALUE ...] [options]" },
      args = { { "recipe" } },
      free = "params",
      options = {
        { "app", short = "a", value = "NAME", doc = "the app it is for" },
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
