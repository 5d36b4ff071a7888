-- deploy.lua - `ndctl deploy`: makes an image the live release of an app.
--
-- What to deploy comes from the command line, from ./nextdeploy.lua, or from both (the command line
-- wins). From a file it shows the plan first and asks.

local act = require "ndctl.lib.act"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local plan = require "ndctl.lib.plan"

local deploy = {
  name = "deploy",
  summary = "Make an image the live version of an app, without dropping a request.",
  args = { { "image", optional = true } },
  options = {
    { "app", short = "a", value = "NAME", doc = "the app; made if it doesn't exist" },
    { "image", value = "IMAGE", doc = "the image, where it isn't the argument", key = "image" },
    { "env-var", short = "e", type = "map", doc = "a variable for the app; may be repeated" },
    { "secret", type = "list", value = "NAME[:env|file|both]", complete = "secrets",
      doc = "a secret for the app, as a variable (which it is unless it says another), as the file "
        .. "/run/secrets/NAME, or both; may be repeated. Those named replace the ones it had" },
    { "port", type = "int", least = 1, most = 65535, value = "PORT",
      doc = "the port the app listens on inside its container" },
    { "domain", value = "HOST", doc = "the host name that the proxy sends to the app" },
    { "tls", value = "auto|internal|off", doc = "public certificate, this host's own, none" },
    { "proxy", choices = { "caddy", "nginx", "none" }, key = "proxy_type", doc = "the proxy that serves the domain" },
    { "publish", type = "list", value = "[HOSTPORT:]PORT[/tcp|udp]",
      doc = "a port of this host that leads to the app; may be repeated" },
    { "strategy", value = "NAME",
      doc = "blue-green, rolling, canary, recreate, or the name of any recipe with these parameters" },
    { "param", short = "p", type = "map", value = "NAME=VALUE",
      doc = "a parameter of the strategy's recipe; may be repeated" },
    { "health-check", value = "PATH", doc = "the path that answers 200 when the app is healthy" },
    { "replicas", type = "int", least = 1, most = 100, value = "N", doc = "how many instances" },
    { "memory", value = "SIZE", doc = "the most memory an instance may use, such as 256m" },
    { "drain", type = "duration", value = "TIME",
      doc = "how long the old version may finish what it has begun" },
    { "keep", type = "duration", value = "TIME", doc = "how long it is kept for a rollback" },
    { "settle", type = "duration", value = "TIME",
      doc = "how long the new version must stay healthy before the switch" },
    { "approve", type = "flag", doc = "start the new version, and switch when `ndctl runs approve` says so" },
    { "go-back", type = "flag", negatable = true,
      doc = "return to the kept version if the new one dies or turns unhealthy" },
    { "file", short = "F", value = "PATH", doc = "read this instead of ./nextdeploy.lua" },
    table.unpack(act.run_options),
  },
  permission = "deploy", json = "AppStatus", conflict = true,
  notes = {
    "In a folder with a nextdeploy.lua (a table: app, image, port, domain, env, strategy, "
      .. "health, ...) `ndctl deploy` shows the plan and asks before it goes ahead; options on "
      .. "the command line win over the file.",
  },
  examples = {
    { "ndctl deploy nginx:1.27 --app web --port 80 --domain web.example.com" },
    { "ndctl deploy --app api --image api:v2 -e LOG=debug --health-check /api/health" },
    { "ndctl deploy --strategy blue-green --health-check /api/health",
      "what ./nextdeploy.lua says, with another strategy", project = true, answer = "y" },
    { "ndctl deploy --app api --image api:v2 --strategy rolling --param pause=1s" },
    { "ndctl deploy --plan -e LOG=trace", "what would be done; exit status 1: something would change",
      status = 1, project = true },
    { "ndctl deploy --secret DB_PASSWORD", "with a secret beside what the file says", project = true, answer = "y" },
    { "ndctl deploy --env staging --yes", "without asking", project = true },
  },
}

local spellings = { ["blue-green"] = "bluegreen", blue_green = "bluegreen" }

local function read_file(ctx)
  local config = require "ndctl.lib.config"
  local fs = require "fs"
  local path = ctx.options.file or config.file
  if not fs.exists(path) then
    if ctx.options.file then
      fail.usage(("there is no file %s"):format(path))
    end
    return nil
  end
  local value = config.parse(fs.read(path), path)
  if ctx.options.app and ctx.options.app ~= value.app then
    if ctx.options.file then
      fail.usage(("--app is %s, but %s is about %s"):format(ctx.options.app, path, value.app))
    end
    out.progress(("Note: %s is about %s, not %s; it isn't used."):format(path, value.app,
      ctx.options.app))
    return nil
  end
  return config.body(config.for_environment(value, ctx.client().environment))
end

-- The body of POST /deploy from the file and the options.
local function body_of(ctx, from_file)
  local o = ctx.options
  if ctx.args.image and o.image and ctx.args.image ~= o.image then
    fail.usage(("two images: %s and --image %s"):format(ctx.args.image, o.image))
  end
  local body = from_file or {}
  body.app_name = o.app or body.app_name
  body.image = ctx.args.image or o.image or body.image
  body.strategy = o.strategy or body.strategy
  body.strategy = spellings[body.strategy] or body.strategy
  -- The path alone; what else the file says of the probe stays.
  local health = body.health_check
  if o.health_check and type(health) == "table" then
    health.path, o.health_check = o.health_check, nil
  end
  for _, key in ipairs { "port", "domain", "tls", "proxy_type", "health_check", "replicas",
    "memory", "go_back", "publish" } do
    if o[key] ~= nil then body[key] = o[key] end
  end
  for _, name in ipairs { "drain", "keep", "settle" } do
    if o[name] then
      body.params = body.params or {}
      body.params[name] = o[name]
    end
  end
  if o.approve then
    body.params = body.params or {}
    body.params.approve = true
  end
  for name, value in pairs(o.param or {}) do
    body.params = body.params or {}
    body.params[name] = value
  end
  for name, value in pairs(o.env_var or {}) do
    body.env = body.env or {}
    body.env[name] = value
  end
  if o.secret then
    body.secrets = body.secrets or require("json").array {}
    table.move(o.secret, 1, #o.secret, #body.secrets + 1, body.secrets)
  end
  if o.project then body.project = o.project end
  if o.env then body.environment = o.env end
  if not body.app_name then
    fail.usage("which app? --app is missing, and there is no nextdeploy.lua here",
      "ndctl deploy IMAGE --app NAME")
  end
  if not body.image then
    fail.usage(("which image of %s?"):format(body.app_name),
      ("ndctl deploy IMAGE --app %s"):format(body.app_name))
  end
  return body
end

local function retry_command(ctx)
  local o, words = ctx.options, { "ndctl deploy" }
  if ctx.args.image then words[#words + 1] = ctx.args.image end
  if o.app then words[#words + 1] = "--app " .. o.app end
  if o.file then words[#words + 1] = "--file " .. o.file end
  if o.env then words[#words + 1] = "--env " .. o.env end
  words[#words + 1] = "--yes"
  return table.concat(words, " ")
end

function deploy.run(ctx)
  local from_file = read_file(ctx)
  local body = body_of(ctx, from_file)
  if ctx.options.plan then return act.plan(ctx, "/deploy", body) end
  if from_file and not ctx.options.yes then
    if not require("term").isatty(0) then
      plan.confirm(ctx, "", retry_command(ctx))
    end
    local client = ctx.client()
    out.note(plan.lines(client:call("POST", "/deploy", { query = { plan = "true" },
      body = client:scoped(body) })))
    plan.confirm(ctx, ("Deploy %s?"):format(body.app_name), retry_command(ctx))
  end
  out.progress(("Deploying %s: %s"):format(body.app_name, body.image))
  return act.post(ctx, { path = "/deploy", body = body })
end

return deploy
