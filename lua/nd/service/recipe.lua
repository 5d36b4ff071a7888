-- Recipes: where they are found, and how one becomes a bundle that a run pins.
--
-- A recipe is a folder with recipe.lua (and what it requires, README.md, spec.lua), or one file
-- NAME.lua. --recipe-dir is looked through first, then the ones shipped in the binary. A bundle is
-- {path = source} of the recipe and of the recipe library, and is named by its hash.

local clock = require "clock"
local crypto = require "crypto"
local embed = require "embed"
local fs = require "fs"
local json = require "json"
local err = require "nd.error"
local recipe_worker = require "nd.service.recipe_worker"

local MAX_BYTES = 1024 * 1024

local Recipes = {}
Recipes.__index = Recipes

local library_dir = "lua/nd/recipe/"
local library = {} -- of this release of NextDeploy: path -> source
for _, path in ipairs(embed.list(library_dir)) do library[path] = embed.read(path) end

function Recipes.new(d) return setmetatable({ d = d, shipped = {} }, Recipes) end

-- The files to send a worker: without the library where the worker's own is the same.
function Recipes.to_send(files)
  local own = {}
  for path, text in pairs(files) do
    if path:sub(1, #library_dir) ~= library_dir then
      own[path] = text
    elseif library[path] ~= text then
      return files
    end
  end
  return own
end

local shipped_dir = "recipes/"

local function read_folder(dir)
  local files = {}
  for _, name in ipairs(fs.list(dir)) do
    if name:match "%.lua$" and name ~= "spec.lua" or name == "README.md" then
      files[name] = fs.read(dir .. "/" .. name, MAX_BYTES)
    end
  end
  return files
end

local function read_shipped(name)
  local files = {}
  for _, path in ipairs(embed.list(shipped_dir .. name .. "/")) do
    local file = path:sub(#shipped_dir + #name + 2)
    if file ~= "spec.lua" then files[file] = embed.read(path) end
  end
  return next(files) and files
end

-- Whether there is one of this name to be run; a recipe that was sent may be called anything.
function Recipes:is_named(name)
  local dir = self.d.options.recipe_dir
  return name:match "^[%w_-]+$" ~= nil and (embed.list(shipped_dir .. name .. "/")[1] ~= nil
    or fs.exists(dir .. "/" .. name .. "/recipe.lua") or fs.exists(dir .. "/" .. name .. ".lua"))
end

-- -> {[path] = source}, where it came from
function Recipes:files(name)
  if type(name) == "string" and name:match "^[%w_-]+$" then
    local dir = self.d.options.recipe_dir
    if fs.exists(dir .. "/" .. name .. "/recipe.lua") then
      return read_folder(dir .. "/" .. name), dir .. "/" .. name
    elseif fs.exists(dir .. "/" .. name .. ".lua") then
      return { ["recipe.lua"] = fs.read(dir .. "/" .. name .. ".lua", MAX_BYTES) }, dir .. "/" .. name .. ".lua"
    end
    local files = read_shipped(name)
    if files then return files, "shipped" end
  end
  local near = err.nearest(tostring(name), self:names())
  err.raise("recipe_not_found", ("there is no recipe '%s'"):format(tostring(name)),
    (near and ("did you mean '%s'? "):format(near) or "")
    .. "`ndctl recipe list` shows all; a path such as ./mine.lua runs your own")
end

function Recipes:names()
  local seen, names = {}, {}
  local function add(name)
    if name and not seen[name] then
      seen[name] = true
      names[#names + 1] = name
    end
  end
  for _, path in ipairs(embed.list(shipped_dir)) do add(path:match "^recipes/([^/]+)/recipe%.lua$") end
  local dir = self.d.options.recipe_dir
  for _, entry in ipairs(fs.exists(dir) and fs.list(dir) or {}) do
    if entry:match "%.lua$" then
      add(entry:match "^(.*)%.lua$")
    elseif fs.exists(dir .. "/" .. entry .. "/recipe.lua") then
      add(entry)
    end
  end
  table.sort(names)
  return names
end

local function make_bundle(name, files)
  local sources = {}
  for path, text in pairs(files) do
    if path:match "%.lua$" then sources[path] = text end
  end
  for path, text in pairs(library) do sources[path] = text end
  local text = json.encode(sources)
  if #text > MAX_BYTES then err.raise("too_large", "a recipe is at most 1 MiB with all its files") end
  return { name = name, files = sources, text = text, hash = crypto.sha256(text) }
end

-- A name or {name, files} -> bundle {name, files, text, hash}. A shipped recipe can't change while
-- this process runs: its bundle is made once.
function Recipes:bundle(recipe)
  if type(recipe) == "table" then
    if type(recipe.files) ~= "table" or type(recipe.files["recipe.lua"]) ~= "string" then
      err.raise("bad_recipe", "a recipe that is sent needs files with a recipe.lua")
    end
    return make_bundle(recipe.name or "recipe", recipe.files)
  end
  local files, from = self:files(recipe)
  if from ~= "shipped" then return make_bundle(recipe, files) end
  self.shipped[recipe] = self.shipped[recipe] or make_bundle(recipe, files)
  return self.shipped[recipe]
end

-- The statement that stores a bundle, for the commit that begins its run.
function Recipes.keep(bundle)
  return { [[INSERT INTO bundle (hash, name, files, created_at) VALUES (?, ?, ?, ?) ON CONFLICT (hash)
    DO UPDATE SET files = excluded.files, checksum = 0 WHERE files <> excluded.files -- the disk's doing]],
    bundle.hash, bundle.name, bundle.text, clock.now() }
end

-- The files of a bundle, as JSON text.
function Recipes:kept(hash)
  local bundle = self.d.store:get("SELECT * FROM bundle WHERE hash = ?", hash)
  if not bundle.damaged then return bundle.files end
  err.raise("journal_damaged", ("the recipe '%s', as the run has kept it, is damaged"):format(bundle.name),
    "start it anew")
end

-- What the recipe says of itself: summary, params, needs. Raises what is wrong with it.
function Recipes:header(bundle)
  local w, header = recipe_worker.start(self.d,
    { id = "header", params = "{}", seed = 0, recipe = bundle.name }, bundle.files, "header")
  w:kill()
  return header
end

function Recipes:list()
  local list = json.array {}
  for _, name in ipairs(self:names()) do
    local ok, header = pcall(function() return self:header(self:bundle(name)) end)
    local _, from = self:files(name)
    list[#list + 1] = { name = name, from = from, summary = ok and header.summary or nil,
      error = not ok and err.from(header).message or nil }
  end
  return list
end

function Recipes:show(name)
  local files, from = self:files(name)
  local header = self:header(self:bundle(name))
  return { name = name, from = from, summary = header.summary, params = header.params,
    needs = header.needs, gap = header.gap, engine = header.engine, readme = files["README.md"],
    source = files["recipe.lua"] }
end

return Recipes
