-- diff.lua - `ndctl diff`: what a deploy of ./nextdeploy.lua would change in what is live.
--
-- The daemon compares, as it does for a plan, so that both sides are in its own normal form: "60s"
-- and "1m" are the same, what the file leaves out stays as it is.

local changes = require "ndctl.lib.changes"
local clientlib = require "ndctl.lib.client"
local config = require "ndctl.lib.config"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local outcome = require "ndctl.lib.outcome"
local text = require "ndctl.lib.text"

local present = outcome.present

local function body_of(ctx, c)
  local fs = require "fs"
  local path, o = ctx.options.file or config.file, ctx.options
  if not fs.exists(path) then
    fail.usage(("there is no file %s"):format(path), "ndctl diff compares a nextdeploy.lua with what is live")
  end
  local value = config.parse(fs.read(path), path)
  if ctx.args.app and ctx.args.app ~= value.app then
    fail.usage(("%s is about %s, not %s"):format(path, value.app, ctx.args.app))
  end
  local body = c:scoped(config.body(config.for_environment(value, c.environment)))
  body.image = o.image or body.image
  return body, path
end

-- The app as it is; nil while there is none.
local function live_app(c, body)
  local ok, app = pcall(c.call, c, "GET", "/apps/" .. clientlib.escape(body.app_name), {
    query = { project = body.project, environment = body.environment } })
  if ok then return app end
  if type(app) == "table" and app.http == 404 then return nil end
  error(app, 0)
end

local function compare(ctx)
  local c = ctx.client()
  local body, path = body_of(ctx, c)
  local app = live_app(c, body)
  body.image = body.image or app and present(app.image)
  if not body.image then
    fail.usage(("which image of %s? %s names none, and none is live"):format(body.app_name, path),
      "ndctl diff --image IMAGE")
  end
  local p = c:call("POST", "/deploy", { query = { plan = "true" }, body = body })
  local list = changes.spread(p.changes)
  return { app_name = body.app_name, file = path, release = app and present(app.release),
    same = #list == 0, changes = list }
end

return {
  name = "diff",
  summary = "Compare ./nextdeploy.lua with what is live: env, image, routes, health and the rest.",
  args = { { "app", optional = true } },
  options = {
    { "file", short = "F", value = "PATH", doc = "read this instead of ./nextdeploy.lua" },
    { "image", value = "IMAGE", doc = "the image, where the file names none" },
  },
  notes = {
    "Exit status 0: nothing differs. 1: something does. 2 or more: it could not be compared (2 "
      .. "the file, 3 not allowed, 7 the daemon is unreachable).",
  },
  exit_status = "0 nothing differs, 1 something does, 2 or more: it could not be compared.",
  permission = "deploy", errors = { name = 2 }, -- another app than the file's
  json = { type = "object", required = { "app_name", "file", "same", "changes" },
    properties = { app_name = { type = "string" }, file = { type = "string" },
      release = { type = "integer" }, same = { type = "boolean" },
      changes = { type = "array", items = { type = "object", required = { "field" },
        properties = { field = { type = "string" } } } } } },
  examples = {
    { "ndctl diff", "of the app that ./nextdeploy.lua names", status = 1, project = true },
    { "ndctl diff web --env staging --json", status = 1, project = true },
  },
  run = function(ctx)
    local ok, found = pcall(compare, ctx)
    if not ok then
      if type(found) == "table" and fail.status(found) == 1 then found.exit = 2 end
      error(found, 0)
    end
    if ctx.options.json then
      out.json(found)
    elseif found.same then
      out.print(("%s: %s says what is live"):format(found.app_name, found.file))
    else
      out.print(("%s: %s between %s and %s"):format(found.app_name,
        text.plural(#found.changes, "difference"), found.release and "release " .. found.release
          or "nothing (no release is live)", found.file))
      out.print(changes.lines(found.changes))
    end
    return found.same and 0 or 1
  end,
}
