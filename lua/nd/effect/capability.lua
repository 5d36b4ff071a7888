-- What a recipe may ask for. It says so in its header, `needs = { "docker", "http:hooks.example.com" }`:
--
--   app         effects on the app that it runs for, and on no other
--   docker      images: pull, inspect
--   http:HOST   requests to this host, or HOST:PORT; `http` alone is any host
--   time        always
--
-- A recipe that says nothing has app and docker.
--
--   capability.read(needs) -> set   needs: of the header, nil or a list; raises bad_recipe
--   capability.check(set, def, args)   def: of the effect; args: its arguments; raises capability

local err = require "nd.error"
local json = require "json"

local M = {}

local usual = { app = true, docker = true }
local plain = { app = true, docker = true, time = true, http = true }

local HINT = "needs = { \"app\", \"docker\", \"http:HOST\" } are those there are"

function M.read(needs)
  if needs == nil or needs == json.null then return usual end
  if type(needs) ~= "table" or #needs == 0 and next(needs) then
    err.raise("bad_recipe", "the recipe's needs are no list", HINT)
  end
  local set = {}
  for _, need in ipairs(needs) do
    local text = tostring(need)
    if not plain[text] and not text:match "^http:[%w.-]+$" and not text:match "^http:[%w.-]+:%d+$" then
      err.raise("bad_recipe", ("the recipe needs '%s', and nothing is called so"):format(text), HINT)
    end
    set[text:lower()] = true
  end
  return set
end

-- Without a user, which reads like a host, and with no port where it is the scheme's own.
local function host_of(url)
  local scheme, authority = tostring(url):lower():match "^(https?)://([^/?#]*)"
  if not authority or authority:find("@", 1, true) then return nil end
  local host, port = authority:match "^([%w.-]+):?(%d*)$"
  return host, port ~= "" and port or scheme == "https" and "443" or "80"
end

local function allows(set, def, args)
  if def.capability == "time" then return true end
  if def.capability ~= "http" or set.http then return set[def.capability] end
  local host, port = host_of(type(args[1]) == "table" and args[1].url)
  return host and (set["http:" .. host] or set["http:" .. host .. ":" .. port])
end

function M.check(set, def, args)
  set = set or usual
  if allows(set, def, args) then return end
  local need = def.capability
  if need == "http" then
    need = "http:" .. (host_of(type(args[1]) == "table" and args[1].url) or "HOST")
  end
  err.raise("capability", ("the recipe asks for %s and doesn't say that it needs it"):format(def.name),
    ("add to its header: needs = { ..., \"%s\" }"):format(need))
end

return M
