-- Loads a recipe and runs it: the worker's end of a run (runtime/script/recipe.h starts it).
--
--   start = { run, files = { ["recipe.lua"] = source }, entry, params, state?, seed,
--             mode = "run" | "header", engine? = which its source was taken to want }
--
-- Where `files` has lua/nd/recipe/main.lua, the library comes from there: so a run pins it. First
-- the recipe is loaded and, in mode "run", its parameters are checked; then the header goes out.
-- The globals a recipe sees beside Lua's own are set here and nowhere else.

local host, start = ...
local xpcall = xpcall
local files = start.files or {}

-- ---- require ----

local loaded, loading = {}, {}
local library_globals = {} -- so that a recipe's own globals don't change the library

local function library_source(name)
  if files["lua/nd/recipe/main.lua"] then
    return files["lua/" .. name:gsub("%.", "/") .. ".lua"]
  end
  return host.embedded(name)
end

if host.engine == "luajit" then
  load(library_source("nd.recipe.luajit"), "=nd.recipe.luajit", "t", _G)()
end
for name, value in pairs(_G) do
  library_globals[name] = value
end

local function file_of(name)
  local path = name:gsub("%.", "/")
  for _, candidate in ipairs({ path .. ".lua", path .. "/init.lua" }) do
    if files[candidate] then
      return files[candidate], "@" .. candidate
    end
  end
end

-- The recipe's own files, the library, JSON; nothing else.
function require(name)
  if type(name) ~= "string" then
    error("require takes the name of a module", 2)
  end
  if loaded[name] ~= nil then
    return loaded[name]
  end
  local source, chunk_name = file_of(name)
  local globals = _G
  if not source and name:match("^nd%.recipe%.[%w_]+$") then
    source, chunk_name, globals = library_source(name), "=" .. name, library_globals
  end
  if not source then
    error(string.format("no module %q: a recipe can require its own files, nd.recipe.* and cjson",
      name), 2)
  end
  if loading[name] then
    error(string.format("the module %q requires itself", name), 2)
  end
  local chunk, why = load(source, chunk_name, "t", globals)
  if not chunk then
    error(why, 0)
  end
  loading[name] = true
  local value = chunk(name)
  loading[name] = nil
  loaded[name] = value == nil and true or value
  return loaded[name]
end

library_globals.require = require

local errors = require "nd.recipe.errors"
local nearest = require "nd.recipe.nearest"
local param = require "nd.recipe.param"
local scheduler = require "nd.recipe.scheduler"
local stubs = require "nd.recipe.stubs"
local tasks = require "nd.recipe.tasks"
local units = require "nd.recipe.units"
local coroutines = require "nd.recipe.coroutines"

scheduler.open(host)

-- ---- json ----

local json = {
  null = host.json.null, array = host.json.array, is_array = host.json.is_array,
}

function json.encode(value, pretty)
  if pretty then
    return host.json.encode(value, true)
  end
  local text, why = host.encode(value)
  return text or errors.raise("bad_json", why)
end

function json.decode(text)
  if type(text) ~= "string" then
    errors.raise("bad_json", "json.decode takes a string, not a " .. type(text))
  end
  local value, why = host.decode(text)
  if value == nil and why then
    errors.raise("bad_json", why)
  end
  return value
end

loaded.cjson, loaded.json = json, json

-- ---- recipe{} ----

local engines = { lua = true, luajit = true }
local recipe_class = { __name = "recipe" }
local recipe_fields = { "summary", "params", "run", "needs", "trigger", "gap", "deadline", "engine" }

local function bad_recipe(...)
  errors.raise("bad_recipe", string.format(...), "recipes/README.md shows what a recipe looks like")
end

local function declare_recipe(fields)
  if type(fields) ~= "table" then
    bad_recipe("recipe takes a table, not a %s", type(fields))
  end
  local known = {}
  for _, name in ipairs(recipe_fields) do
    known[name] = true
  end
  for name in pairs(fields) do
    if not known[name] then
      bad_recipe("a recipe has no field %q%s", tostring(name), nearest.hint(name, recipe_fields))
    end
  end
  if type(fields.run) ~= "function" then
    bad_recipe("a recipe needs the function run, but its run is a %s", type(fields.run))
  end
  local wanted = fields.engine or "lua"
  if not engines[wanted] then
    bad_recipe("a recipe's engine is \"lua\" or \"luajit\", not %q%s", tostring(wanted),
      nearest.hint(wanted, { "lua", "luajit" }))
  end
  if wanted ~= (start.engine or wanted) then
    bad_recipe("the recipe's engine is %s, but its text reads as if it were %s; let recipe.lua have the line"
      .. " engine = \"%s\", and no other like it", wanted, start.engine, wanted)
  end
  if fields.gap ~= nil and type(fields.gap) ~= "string" then
    bad_recipe("gap says in words why nothing serves for a while, and is a %s", type(fields.gap))
  end
  if fields.deadline ~= nil and (units.milliseconds(fields.deadline) or 0) == 0 then
    bad_recipe("deadline is a duration such as \"2h\", and not %s", tostring(fields.deadline))
  end
  for name, p in pairs(fields.params or {}) do
    if type(name) ~= "string" or not param.is(p) then
      bad_recipe("the parameter %q isn't declared by one of param.app, param.string, ...",
        tostring(name))
    end
  end
  return setmetatable(fields, recipe_class)
end

-- ---- what a recipe sees ----

local function words(...)
  local list = {}
  for i = 1, select("#", ...) do
    list[i] = tostring((select(i, ...)))
  end
  return list
end

local globals = {} -- their names, for hints

local function open_globals()
  stubs.open(host.json, _G)
  for name, value in pairs({
    recipe = declare_recipe, param = param, json = json, pivot = stubs.pivot, undo = stubs.undo,
    task = { all = tasks.all, race = tasks.race, timeout = tasks.timeout },
    continue_as = scheduler.continue_as,
    pcall = coroutines.pcall, xpcall = coroutines.xpcall, coroutine = coroutines.coroutine,
  }) do
    _G[name] = value
  end
  for _, name in ipairs({ "coroutine", "math", "string", "table", "utf8" }) do
    loaded[name] = _G[name]
  end
  function time.now()
    return stubs.call("time.now") / 1000
  end
  now = time.now
  function log(...)
    scheduler.log(table.concat(words(...), " "))
  end
  function print(...)
    scheduler.log(table.concat(words(...), "\t"))
  end
  function fail(message, hint)
    errors.raise("recipe_failed", tostring(message), hint and tostring(hint))
  end
end

-- ---- loading ----

local function load_recipe()
  local entry = start.entry or "recipe.lua"
  local source = files[entry]
  if type(source) ~= "string" then
    errors.raise("bad_recipe", string.format("the recipe has no file %q", entry))
  end
  local chunk, why = load(source, "@" .. entry, "t")
  if not chunk then
    errors.raise("recipe_syntax", why, "correct the line it names")
  end
  local value = chunk()
  if getmetatable(value) ~= recipe_class then
    bad_recipe("%s returns %s instead of recipe { ... }", entry,
      value == nil and "nothing" or "a " .. type(value))
  end
  return value
end

local function send_header(recipe)
  local header = {
    summary = recipe.summary, needs = recipe.needs, trigger = recipe.trigger, gap = recipe.gap,
    deadline = recipe.deadline and units.milliseconds(recipe.deadline),
    engine = host.engine,
    params = host.json.array(param.describe(recipe.params or {})),
  }
  local text, why = host.encode({ type = "header", recipe = header })
  if not text then
    bad_recipe("what the recipe says about itself can't be sent: %s", why)
  end
  host.send(text)
end

-- What Lua says about a thing that isn't there tells little to who took it for granted.
function errors.explain(message)
  local what, name = message:match("attempt to %a+ a nil value %((%a+) '([%w_]+)'%)")
  if not what then -- as LuaJIT says it
    what, name = message:match("attempt to %a+ (%a+) '([%w_]+)' %(a nil value%)")
  end
  if what == "field" or what == "method" then
    local known = nearest.of(name, stubs.list())
    return "no effect and no library of a recipe has this name"
      .. (known and "; did you mean " .. known .. "?" or ": recipes/README.md lists them")
  elseif what == "global" then
    local known = nearest.of(name, globals)
    return "a recipe has no files, sockets or programs, it asks the daemon for effects"
      .. (known and "; did you mean " .. known .. "?" or ": recipes/README.md lists them")
  end
end

-- Calls fn; reports its error as the end of the run.
local function attempt(fn, ...)
  local results = table.pack(xpcall(fn, scheduler.describe_error, ...))
  if not results[1] then
    scheduler.check_memory(results[2])
    scheduler.fail(results[2])
  end
  return table.unpack(results, 1, results.n)
end

open_globals()
for name in pairs(_G) do
  globals[#globals + 1] = name
end

local running = start.mode ~= "header"
local params
local ok, recipe = attempt(load_recipe)
if ok and running then
  ok, params = attempt(param.resolve, recipe.params or {}, start.params or {})
end
if ok and attempt(send_header, recipe) and running then
  scheduler.run(host, recipe.run, params, start.state)
end
