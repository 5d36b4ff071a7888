-- recipe.lua - `ndctl recipe`: the strategies there are, and the beginning of one's own.

local clientlib = require "ndctl.lib.client"
local clock = require "clock"
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

-- Lua 5.4 isn't worth a word.
local function engine_note(recipe)
  local engine = present(recipe.engine)
  return engine and engine ~= "lua" and (" (engine: %s)"):format(text.clean(engine)) or ""
end

local function show(ctx)
  local name = ctx.args.name
  local payload = ctx.client():call("GET", "/recipes/" .. clientlib.escape(name))
  if ctx.options.json then return out.json(payload) end
  if ctx.options.source then
    return out.print((tostring(present(payload.source) or ""):gsub("\n$", "")))
  end
  out.print(("%s: %s%s"):format(name, text.clean(present(payload.summary) or ""), engine_note(payload)))
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
  out.print(("%s: no mistakes found; %s%s"):format(ctx.args.path,
    text.clean(present(payload.summary) or "it has no summary"), engine_note(payload)))
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

local function bytes_of(size, option)
  local number, unit = size:lower():match("^(%d+)([kmg]?)$")
  if not number then fail.usage(("%s takes a size such as 64m, not '%s'"):format(option, size)) end
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
    memory = bytes_of(o.memory, "--memory"), cpu_s = o.cpu, wall_ms = text.parse_duration(o.timeout),
    effects = o.effects, log_bytes = bytes_of(o.logs, "--logs"),
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

-- A run's story, for whoever wants to know how it came.
local function tell(name, seed, result)
  out.print(("%s, seed %d: %s, %s"):format(name, seed, result.state == "done" and "it ends well"
    or "it fails: " .. text.clean(tostring((result.error or {}).message)),
    result.broken and "and breaks what has to hold: " .. result.broken or "and all holds"))
  for _, line in ipairs(result.story) do out.print("  " .. text.clean(line)) end
end

local function test_one(ctx, path, trials)
  local recipe = files.recipe(path)
  local header = trials.header(recipe.files)
  local given = require("ndctl.lib.params").read(ctx.options.param or {})
  local o = { files = recipe.files, params = trials.params(header, given), rules = trials.rules(recipe.files) }
  if ctx.options.seed then
    o.seed = 0
    local first = trials.one(o)
    o.seed = ctx.options.seed
    local result = trials.one(o, first.effects)
    if not ctx.options.json then tell(recipe.name, o.seed, result) end
    return { recipe = recipe.name, runs = 1, broken = require("json").array { result.broken
      and { seed = o.seed, why = result.broken } }, story = result.story }
  end
  local began = clock.monotonic()
  o.runs = ctx.options.runs
  local told = trials.all(o)
  told.recipe, told.ms = recipe.name, clock.monotonic() - began
  if not ctx.options.json then
    out.print(("%s: %d runs, %d of %d faults of its %d effects, %d ended well, %d failed; %s (%.1f s)"):format(
      told.recipe, told.runs, told.hit, told.points, told.effects, told.ended.done, told.ended.failed,
      #told.broken == 0 and "all held" or #told.broken .. " broke", told.ms / 1000))
    local first = told.broken[1]
    if first then
      o.seed = first.seed
      tell(recipe.name, first.seed, trials.one(o, told.effects))
    end
  end
  return told
end

local function test(ctx)
  local trials, all = require "ndctl.lib.trials", require("json").array {}
  local broken
  for i, path in ipairs(ctx.args.paths) do
    all[i] = test_one(ctx, path, trials)
    local first = all[i].broken[1]
    broken = broken or first and { path = path, seed = first.seed, why = first.why, count = #all[i].broken }
  end
  if ctx.options.json then out.json(all) end
  if not broken then return end
  local e = fail.new("recipe_broken", ("%s: %s (in %d of its runs)"):format(broken.path, broken.why, broken.count),
    ("see it again: ndctl recipe test %s --seed %d"):format(broken.path, broken.seed))
  e.shown_json = true
  error(e, 0)
end

return {
  name = "recipe",
  summary = "List, show, check, test and begin recipes.",
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
      name = "test",
      summary = "Try recipes in a simulated world, in which everything goes wrong in turn, without a daemon.",
      usage = { "recipe test PATH... [options]" },
      args = { { "paths", many = true } },
      options = {
        { "runs", type = "int", least = 1, most = 1000000, default = 1000, value = "N", doc = "how many runs" },
        { "seed", type = "int", least = 0, value = "N", doc = "only this run, with its story" },
        { "param", short = "p", type = "map", doc = "a parameter; may be repeated" },
      },
      notes = {
        "Each effect fails, times out, or has the daemon die before or after it; then by chance. At every moment "
          .. "traffic has to go to a release that runs and was seen healthy, unless the recipe says that it has a "
          .. "gap; in the end nothing may be left over, and a run that failed before its pivot has changed nothing.",
        "A test.lua beside the recipe adds rules of its own: return { always = function(world) ... end, ending = "
          .. "function(world, state) ... end }, each of which returns what is broken.",
      },
      permission = "local", json = { type = "array" },
      examples = {
        { "ndctl recipe test ./canary" },
        { "ndctl recipe test ./canary --seed 17", "that run alone, with its story" },
      },
      run = test,
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
        { "effects", type = "int", least = 0, most = 1000000, default = 10000, value = "N",
          doc = "so many effects it may ask for" },
        { "logs", value = "SIZE", default = "1m", doc = "so much it may print" },
      },
      notes = {
        "No effect acts: time passes and prints are told, everything else is refused (no_daemon).",
        "Exit status: 0 it ended well, 1 it raised an error, 2 it isn't Lua (recipe_syntax), 3 it asked for what "
          .. "the sandbox doesn't have (no_daemon, sandbox_killed), 6 it took too long (recipe_timeout), 8 too much "
          .. "memory (recipe_memory), 9 it computed for too long (recipe_cpu), 10 it asked for too much "
          .. "(too_many_effects), 11 it printed too much (too_much_log).",
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
