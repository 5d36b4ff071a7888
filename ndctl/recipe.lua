-- recipe.lua - `ndctl recipe`: the strategies there are, and the beginning of one's own.

local clientlib = require "ndctl.lib.client"
local fail = require "ndctl.lib.fail"
local files = require "ndctl.lib.files"
local out = require "ndctl.lib.out"
local outcome = require "ndctl.lib.outcome"
local tables = require "ndctl.lib.table"
local text = require "ndctl.lib.text"

local present = outcome.present

local function list(ctx)
  local payload = ctx.client():call("GET", "/recipes")
  if ctx.options.json then return out.json(payload) end
  out.print(tables.render({
    { "RECIPE", "name" },
    { "SUMMARY", function(row) return row.error and "broken: " .. row.error or row.summary end },
  }, payload))
end

local function default_text(value)
  if value == nil or type(value) == "userdata" then return nil end
  if type(value) == "table" then return require("json").encode(value) end
  return tostring(value)
end

local function print_params(params)
  if not params or #params == 0 then return end
  out.print("")
  out.print(tables.render({
    { "PARAMETER", function(p) return "--" .. p.name end },
    { "TYPE", "type" },
    { "DEFAULT", function(p) return p.required and "(required)" or default_text(p.default) end },
    { "", function(p) return p.doc or " " end },
  }, params))
end

local function show(ctx)
  local name = ctx.args.name
  local payload = ctx.client():call("GET", "/recipes/" .. clientlib.escape(name))
  if ctx.options.json then return out.json(payload) end
  if ctx.options.source then
    return out.print((tostring(present(payload.source) or ""):gsub("\n$", "")))
  end
  out.print(("%s: %s"):format(name, text.clean(present(payload.summary) or "")))
  print_params(present(payload.params))
  local readme = present(payload.readme)
  if readme then
    out.print("")
    out.print((readme:gsub("\n$", "")))
  end
end

local function check(ctx)
  local recipe = files.recipe(ctx.args.path)
  local payload = ctx.client():call("POST", "/recipes/check", { body = recipe })
  if ctx.options.json then return out.json(payload) end
  out.print(("%s: no mistakes found; %s"):format(ctx.args.path,
    text.clean(present(payload.summary) or "it has no summary")))
  print_params(present(payload.params))
end

local function new(ctx)
  local fs = require "fs"
  local name = ctx.args.name
  local base = name:match("([^/]+)/*$")
  if not base or not base:find("^%l[%w_-]*$") then
    fail.usage(("'%s' isn't a recipe's name"):format(name),
      "a name is a small letter, then letters, digits, - and _")
  end
  if fs.exists(name) then
    fail.raise("exists_conflict", ("%s exists already"):format(name), "choose another name")
  end
  fs.mkdir(name, 493) -- rwxr-xr-x
  local made = {}
  for file, content in pairs(require("ndctl.lib.template")(base)) do
    fs.write(name .. "/" .. file, content, 420) -- rw-r--r--
    made[#made + 1] = name .. "/" .. file
  end
  table.sort(made)
  if ctx.options.json then return out.json { files = made } end
  out.print(made)
  out.progress(("Next: ndctl recipe check %s, then ndctl run recipe ./%s --app APP --image IMAGE "
    .. "--plan"):format(name, name))
end

local units = { [""] = 1, k = 1 << 10, m = 1 << 20, g = 1 << 30 }

local function bytes_of(size)
  local number, unit = size:lower():match("^(%d+)([kmg]?)$")
  if not number then fail.usage(("--memory takes a size such as 64m, not '%s'"):format(size)) end
  return tonumber(number) * units[unit]
end

-- Only in the sandbox: where a daemon is to act, it is `ndctl run recipe`.
local function run_file(ctx)
  local fs, json = require "fs", require "json"
  local o, path = ctx.options, ctx.args.file
  if not o.sandbox then
    fail.usage("ndctl recipe run needs --sandbox", "ndctl run recipe runs one for an app, by the daemon")
  end
  if not fs.exists(path) then fail.raise("not_found", ("there is no file %s"):format(path)) end
  local lines = json.array {}
  local value = require("ndctl.lib.sandbox").run {
    name = (path:match("([^/]+)%.lua$") or path:match("[^/]+$")):gsub("[^%w_-]", "_"),
    source = fs.read(path), params = require("ndctl.lib.params").read(o.param or {}),
    memory = bytes_of(o.memory), cpu_seconds = o.cpu, timeout_ms = text.parse_duration(o.timeout),
    log = function(line)
      lines[#lines + 1] = line
      if not o.json then out.print(text.clean(tostring(line))) end
    end,
  }
  if o.json then return out.json { logs = lines, value = value } end
  if value ~= nil and value ~= true then
    out.print(type(value) == "string" and text.clean(value) or json.encode(value))
  end
end

return {
  name = "recipe",
  summary = "List, show, check and begin recipes.",
  examples = { { "ndctl recipe list" }, { "ndctl recipe new fresh" } },
  commands = {
    {
      name = "list", also = { "ls" },
      summary = "List the installed recipes.",
      options = {}, permission = "read", json = "Recipe[]",
      examples = { { "ndctl recipe list" } },
      run = list,
    },
    {
      name = "show",
      summary = "Show a recipe's parameters and its README, or its source.",
      args = { { "name", complete = "recipes" } },
      options = { { "source", type = "flag", doc = "print the recipe itself" } },
      permission = "read", json = "Recipe",
      examples = { { "ndctl recipe show bluegreen" }, { "ndctl recipe show bluegreen --source" } },
      run = show,
    },
    {
      name = "check",
      summary = "Check a recipe on this machine without running it.",
      args = { { "path" } },
      options = {}, permission = "read", json = "Recipe",
      examples = { { "ndctl recipe check ./canary" }, { "ndctl recipe check nightly.lua" } },
      run = check,
    },
    {
      name = "run",
      summary = "Run a file in a recipe's sandbox, without a daemon: what it prints and returns.",
      usage = { "recipe run --sandbox FILE [options]" },
      args = { { "file" } },
      options = {
        { "sandbox", type = "flag", doc = "needed: elsewhere recipes are run by ndctl run recipe" },
        { "param", short = "p", type = "map", doc = "a parameter; may be repeated" },
        { "memory", value = "SIZE", default = "64m", doc = "the most memory it may use" },
        { "cpu", type = "int", least = 1, most = 3600, default = 10, value = "SECONDS",
          doc = "so long it may compute" },
        { "timeout", type = "duration", default = "60s", doc = "so long it may take, sleep included" },
      },
      notes = {
        "No effect acts: time passes and prints are told, everything else is refused (no_daemon).",
        "Exit status: 0 it ended well, 1 it raised an error, 2 it isn't Lua, 3 it asked for what the "
          .. "sandbox doesn't have, 6 it ran out of time, 8 out of memory.",
      },
      permission = "local",
      json = { type = "object", required = { "logs" }, properties = { logs = { type = "array" } } },
      examples = { { "ndctl recipe run --sandbox try.lua --param n=3" } },
      run = run_file,
    },
    {
      name = "new",
      summary = "Make a folder with a recipe to begin with, and its README.",
      args = { { "name" } },
      options = {}, permission = "local",
      json = { type = "object", required = { "files" },
        properties = { files = { type = "array", items = { type = "string" } } } },
      examples = { { "ndctl recipe new fresh" } },
      run = new,
    },
  },
}
