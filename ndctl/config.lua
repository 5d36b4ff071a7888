-- config.lua - `ndctl config`: reads a nextdeploy.lua or a nextdeployd.lua and says what is wrong with
-- it, without asking a daemon.

local config = require "ndctl.lib.config"
local fail = require "ndctl.lib.fail"
local json = require "json"
local out = require "ndctl.lib.out"
local tables = require "ndctl.lib.table"

local DAEMON_FILE = "nextdeployd.lua"

-- The daemon's own reader.
local function read_daemon(path)
  return { file = path, kind = "nextdeployd", environments = json.array {},
    value = require("nd.config").load { "--config", path } }
end

-- What the daemon would make of it, so that its checks are made too.
local function check_environment(path, value, environment)
  local body = config.body(config.for_environment(value, environment))
  local ok, e = pcall(require("nd.service.app_config").merge, {}, body)
  if not ok then
    if type(e) ~= "table" then error(e, 0) end
    fail.raise("config", ("%s: %s%s"):format(path, environment and environment .. ": " or "",
      e.message), e.hint)
  end
  return body
end

local function read_app(path, environment)
  local value = config.parse(require("fs").read(path), path)
  local names = json.array {}
  for name in pairs(value.environments or {}) do names[#names + 1] = name end
  table.sort(names)
  if environment and value.environments and not value.environments[environment] then
    local near = require("ndctl.lib.text").nearest(environment, names)
    out.progress(("Note: %s has nothing of its own for %s%s."):format(path, environment,
      near and ("; did you mean %s?"):format(near) or ""))
  end
  check_environment(path, value)
  for _, name in ipairs(names) do check_environment(path, value, name) end
  return { file = path, kind = "nextdeploy", environments = names,
    value = check_environment(path, value, environment) }
end

local function read(ctx)
  local path = ctx.args.file or config.file
  if not require("fs").exists(path) then
    fail.raise("not_found", ("there is no file %s"):format(path),
      "ndctl config check FILE; a nextdeploy.lua is: return { app = \"web\", image = \"web:v1\" }")
  end
  if ctx.options.daemon or path:match("[^/]*$") == DAEMON_FILE then return read_daemon(path) end
  return read_app(path, ctx.options.env)
end

local function check(ctx)
  local found = read(ctx)
  found.value = nil
  if ctx.options.json then return out.json(found) end
  out.print(("%s: no mistakes found%s"):format(found.file, #found.environments > 0
    and "; environments: " .. table.concat(found.environments, ", ") or ""))
end

local function show(ctx)
  local found = read(ctx)
  if ctx.options.json then return out.json(found) end
  local names, lines = {}, {}
  for name in pairs(found.value) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    local value = found.value[name]
    lines[i] = { name, type(value) == "table" and json.encode(value) or tostring(value) }
  end
  out.print(tables.pairs(lines))
end

local options = {
  { "daemon", type = "flag", doc = "the file is a nextdeployd.lua, whatever its name" },
}

local shape = { type = "object", required = { "file", "kind", "environments" },
  properties = { file = { type = "string" },
    kind = { type = "string", enum = { "nextdeploy", "nextdeployd" } },
    environments = { type = "array", items = { type = "string" } }, value = { type = "object" } } }

return {
  name = "config",
  summary = "Check or show a nextdeploy.lua or a nextdeployd.lua; no daemon is asked.",
  examples = { { "ndctl config check", project = true } },
  commands = {
    {
      name = "check",
      summary = "Check a file: what isn't known is told with the nearest that is.",
      args = { { "file", optional = true } },
      options = options, permission = "local", json = shape,
      notes = { "Without FILE ./nextdeploy.lua is checked, in each of its environments." },
      examples = {
        { "ndctl config check", project = true },
        { "ndctl config check /etc/nextdeploy/nextdeployd.lua" },
      },
      run = check,
    },
    {
      name = "show",
      summary = "Show what a file comes to: defaults filled in, an environment merged.",
      args = { { "file", optional = true } },
      options = options, permission = "local", json = shape,
      examples = {
        { "ndctl config show", project = true },
        { "ndctl config show --env staging --json", project = true },
      },
      run = show,
    },
  },
}
