-- lib/contexts.lua - the daemons that this user talks to, by name.
--
-- One file, ~/.config/ndctl/contexts.json ($XDG_CONFIG_HOME is honoured), readable by its owner only
-- since it holds tokens: {current = NAME?, contexts = {NAME = {host, token?, session? (lib/session.lua), ca?,
-- pin?, cert?, key?, project?, environment?}}}.
-- `contexts.choose` decides what a command talks to: flags, then the environment's variables, then
-- the context, then the default socket. A context's token goes to that context's host and nowhere
-- else, and so does its trust in a certificate.

local fail = require "ndctl.lib.fail"

local contexts = {}

contexts.default_host = "unix:///run/nextdeploy/nextdeployd.sock"

local function variable(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

-- The directory of ndctl's own files; nil for a user without a home.
function contexts.dir()
  local base = variable "XDG_CONFIG_HOME"
  if not base then
    local home = variable "HOME"
    base = home and home .. "/.config"
  end
  return base and base .. "/ndctl"
end

local function path_needed()
  local dir = contexts.dir()
  if not dir then
    fail.raise("not_found", "there is no place for contexts: neither HOME nor XDG_CONFIG_HOME is set")
  end
  return dir .. "/contexts.json", dir
end

-- What is stored; empty where nothing is.
function contexts.load()
  local fs, json = require "fs", require "json"
  local dir = contexts.dir()
  local path = dir and dir .. "/contexts.json"
  if not path or not fs.exists(path) then return { contexts = {} } end
  local ok, stored = pcall(json.decode, fs.read(path, 1024 * 1024))
  if not ok or type(stored) ~= "table" or type(stored.contexts) ~= "table" then
    fail.raise("config", ("%s is damaged: %s"):format(path, ok and "no contexts in it"
      or stored.message), "mend it, or remove it and add the contexts again")
  end
  return stored
end

function contexts.save(stored)
  local fs = require "fs"
  local path, dir = path_needed()
  fs.mkdir(dir, 448) -- rwx------
  fs.write(path, require("json").encode(stored, true) .. "\n", 384) -- rw-------
end

function contexts.names(stored)
  local names = {}
  for name in pairs(stored.contexts) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- The context of that name; raises not_found naming the nearest.
function contexts.get(stored, name)
  local found = stored.contexts[name]
  if found then return found end
  local near = require("ndctl.lib.text").nearest(name, contexts.names(stored))
  fail.raise("not_found", ("there is no context '%s'"):format(name),
    near and ("did you mean %s?"):format(near)
      or "ndctl context list shows them; ndctl context add NAME --host URL makes one")
end

-- The context in force: --context, NDCTL_CONTEXT, or the one last used; nil without any.
local function in_force(options)
  local named = options.context or variable "NDCTL_CONTEXT"
  local stored = contexts.load()
  local name = named or stored.current
  if not name then return nil end
  return contexts.get(stored, name), name
end

-- Whom an https daemon has to be, and who we are to it: `context` is that of the host, if it has one.
local function trust(options, context)
  local trusted = { ca = options.ca, pin = options.pin }
  if not trusted.ca and not trusted.pin then
    trusted.ca, trusted.pin = variable "NDCTL_CA" or context.ca, variable "NDCTL_PIN" or context.pin
  end
  trusted.cert = variable "NDCTL_CLIENT_CERT" or context.cert
  trusted.key = variable "NDCTL_CLIENT_KEY" or context.key
  return trusted
end

-- The first context of this host that somebody is signed in to; any: or not.
function contexts.of_host(host, any)
  local stored = contexts.load()
  for _, name in ipairs(contexts.names(stored)) do
    local context = stored.contexts[name]
    if context.host == host and (any or context.session) then return name end
  end
end

-- What a command with these options talks to: {host, token?, project?, environment?, context = NAME?,
-- session = the context whose session goes with it?, trust = {ca?, pin?, cert?, key?},
-- from = "--host" | "NDCTL_HOST" | "context" | "default"}.
function contexts.choose(options)
  local chosen = { project = options.project, environment = options.env }
  local env_host, env_token = variable "NDCTL_HOST", variable "NDCTL_TOKEN"
  if options.host then
    chosen.host, chosen.from = options.host, "--host"
  elseif env_host and not options.context then
    chosen.host, chosen.from = env_host, "NDCTL_HOST"
  end
  if chosen.host then
    chosen.token = options.token or env_token
    chosen.session = not chosen.token and contexts.of_host(chosen.host) or nil
    chosen.trust = trust(options, chosen.session and contexts.load().contexts[chosen.session] or {})
    return chosen
  end
  local context, name = in_force(options)
  context = context or {}
  chosen.host, chosen.from = context.host or contexts.default_host, name and "context" or "default"
  chosen.context = name
  chosen.trust = trust(options, context)
  -- A context named on the command line is a flag, and its token goes before the variable.
  chosen.token = options.token or options.context and context.token or env_token or context.token
  chosen.session = not chosen.token and context.session and name or nil
  chosen.project = chosen.project or context.project
  chosen.environment = chosen.environment or context.environment
  return chosen
end

return contexts
