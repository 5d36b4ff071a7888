-- lib/files.lua - a recipe on this machine: the files that go to the daemon with a run.
--
-- A path is a folder with a recipe.lua (all its .lua and .md files go along) or one .lua file.

local fail = require "ndctl.lib.fail"
local fs = require "fs"

local files = {}

local FILE_MOST = 1024 * 1024 -- bytes, all files of a recipe together

-- Whether a word of `run recipe` is a path and not the name of an installed recipe.
function files.is_path(word)
  return word:find("/", 1, true) ~= nil or word:find("%.lua$") ~= nil or word:find("^%.") ~= nil
end

local function read(path)
  local ok, content = pcall(fs.read, path, FILE_MOST)
  if ok and content then return content end
  fail.usage(("can't read %s: %s"):format(path, tostring(content and content.message or content)))
end

local function collect(dir, prefix, found, depth)
  for _, entry in ipairs(fs.list(dir)) do
    local name = type(entry) == "table" and entry.name or entry
    local path = dir .. "/" .. name
    if name:sub(1, 1) ~= "." then
      local stat = fs.stat(path)
      if stat and stat.type == "directory" then
        if depth < 4 then collect(path, prefix .. name .. "/", found, depth + 1) end
      elseif name:find("%.lua$") or name:find("%.md$") then
        found[prefix .. name] = read(path)
      end
    end
  end
  return found
end

-- Returns {name =, files = {["recipe.lua"] = source, ...}}.
function files.recipe(path)
  path = path:gsub("(.)/+$", "%1")
  local stat = fs.exists(path) and fs.stat(path)
  if not stat then
    fail.raise("not_found", ("there is no recipe at %s"):format(path),
      "ndctl recipe list shows the installed ones")
  end
  if stat.type ~= "directory" then
    local stem = path:match("([^/]+)%.lua$")
    if not stem then fail.usage(("%s isn't a .lua file"):format(path)) end
    if stem == "recipe" then
      return files.recipe(path:match("^(.*)/[^/]+$") or ".")
    end
    return { name = stem, files = { ["recipe.lua"] = read(path) } }
  end
  local found = collect(path, "", {}, 1)
  if not found["recipe.lua"] then
    fail.raise("not_found", ("there is no recipe.lua in %s"):format(path),
      "ndctl recipe new NAME makes one to begin with")
  end
  local total = 0
  for _, content in pairs(found) do total = total + #content end
  if total > FILE_MOST then
    fail.usage(("the recipe's files are %d bytes, more than 1 MiB"):format(total))
  end
  local name = path:match("([^/]+)$")
  if name == "." or name == ".." then name = "recipe" end
  return { name = name, files = found }
end

return files
