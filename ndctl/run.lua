-- run.lua - `ndctl run IMAGE`: starts an app from an image; `ndctl run recipe`: runs a recipe, an
-- installed one or one from a file, for an app.

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

-- registry.example.com/team/Postgres_x:16@sha256:... -> postgres-x
local function name_of(image)
  local name = image:gsub("@.*$", ""):match("[^/]*$"):gsub(":.*$", "")
  return (name:lower():gsub("[^a-z0-9]+", "-"):gsub("^%-+", ""):gsub("%-+$", ""))
end

-- What it listens on is probed, or the path that is named; else it is well when it stays up.
local function health_of(o)
  return o.health_check or o.port and { tcp = true } or { up = "2s" }
end

local function run_image(ctx)
  local o, image = ctx.options, ctx.args.image
  local command = ctx.args.command or {}
  local body = {
    app_name = o.app or name_of(image), image = image, volumes = o.volume, env = o.env_var, port = o.port,
    secrets = o.secret, domain = o.domain, memory = o.memory, command = #command > 0 and command or nil,
    health_check = health_of(o),
  }
  if o.plan then return act.plan(ctx, "/deploy", body) end
  out.progress(("Running %s as the app %s ..."):format(image, body.app_name))
  return act.post(ctx, { path = "/deploy", body = body })
end

return {
  name = "run",
  summary = "Run an image as an app, or a recipe.",
  permission = "deploy", json = "AppStatus", conflict = true,
  usage = { "run IMAGE [-v VOLUME:PATH] [-p PORT] [--app NAME] [options] [-- COMMAND...]",
    "run recipe NAME|PATH --app APP [--PARAMETER VALUE ...] [options]" },
  args = { { "image" }, { "command", many = true, optional = true } },
  options = {
    { "app", short = "a", value = "NAME", doc = "the app; named after the image unless it is said" },
    { "volume", short = "v", type = "list", value = "VOLUME:PATH",
      doc = "a volume and where it is mounted; made if there is none; an admin may name a directory of the host's; "
        .. "may be repeated" },
    { "secret", type = "list", value = "NAME[:env|file|both]", complete = "secrets",
      doc = "a secret for the app, see ndctl deploy; may be repeated" },
    { "port", short = "p", type = "int", least = 1, most = 65535, value = "PORT",
      doc = "the port it listens on inside its container" },
    { "env-var", short = "e", type = "map", doc = "a variable for it; may be repeated" },
    { "domain", value = "HOST", doc = "the host name that the proxy sends to it" },
    { "memory", value = "SIZE", doc = "the most memory it may use, such as 256m" },
    { "health-check", value = "PATH", doc = "the path that answers 200 when it is healthy; otherwise "
      .. "its port accepts connections or, without --port, it stays up" },
    table.unpack(act.run_options),
  },
  notes = {
    "It becomes an app like any other: `ndctl status`, `logs`, `deploy`, `rollback` and `destroy` know it. With "
      .. "a volume, which has one writer, a next version is started after the one before has stopped.",
  },
  examples = {
    { "ndctl run postgres -v db-data:/var/lib/postgresql", "the app `postgres`",
      skip = "the image isn't there" },
    { "ndctl run nginx:1.27 --app web -p 80 --health-check /up" },
    { "ndctl run recipe bluegreen --app web --image nginx:1.28" },
  },
  run = run_image,
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
        table.unpack(act.run_options),
      },
      notes = {
        "Every other --NAME VALUE is a parameter of the recipe; `ndctl recipe show NAME` lists "
          .. "them. A member of a parameter is written --health.path /up.",
      },
      examples = {
        { "ndctl run recipe bluegreen --app web --image nginx:1.28 --drain 10s" },
        { "ndctl run recipe bluegreen --app web --image nginx:1.29 --plan",
          "exit status 1: something would change", status = 1 },
        { "ndctl run recipe ./canary --app web --image nginx:1.28 --health.path /up",
          "the recipe in the folder ./canary" },
      },
      run = run_recipe,
    },
  },
}
