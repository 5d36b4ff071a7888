-- Registries that want to know who pulls: credentials, checked once, sealed, given to Docker with each
-- pull from their host. They are shown to nobody, and enter no journal, event or log.

local clock = require "clock"
local json = require "json"
local err = require "nd.error"

local HUB = "docker.io"
local HUB_ADDRESS = "https://index.docker.io/v1/" -- what Docker calls its own registry
local AUTH_MS = 30000

local Registries = {}
Registries.__index = Registries

function Registries.new(d) return setmetatable({ d = d }, Registries) end

-- "https://GHCR.io/v2/" -> "ghcr.io". Raises bad_request for what is no HOST[:PORT].
function Registries.host(text)
  local host = text:lower():gsub("^https?://", ""):gsub("/v[12]/?$", ""):gsub("/$", "")
  if host == "index.docker.io" or host == "registry-1.docker.io" then return HUB end
  if not host:match "^[%w][%w.-]*$" and not host:match "^[%w][%w.-]*:%d+$" and not host:match "^%[[%x:]+%]:?%d*$" then
    err.raise("bad_request", ("%s is no registry"):format(json.encode(text)),
      "name it as images do: ghcr.io, registry.example.com:5000, docker.io")
  end
  return host
end

-- The registry that an image's name means: what is before its first "/", where that looks like a host.
function Registries.host_of(image)
  local first = image:match "^([^/]+)/"
  local is_host = first and (first:find("[.:]") or first == "localhost")
  return is_host and Registries.host(first) or HUB
end

local function address(host) return host == HUB and HUB_ADDRESS or host end

-- Docker asks the registry; what is refused is registry_denied.
local function verify(docker, host, username, password)
  local _, answer = docker:call("POST", "/auth", { username = username, password = password,
    serveraddress = address(host) }, { ok = { [401] = true, [403] = true, [500] = true }, timeout_ms = AUTH_MS })
  if type(answer) == "table" and answer.Status then return answer.IdentityToken end
  local said = type(answer) == "table" and answer.message or tostring(answer)
  local denied = said:lower():find "unauthorized" or said:lower():find "denied" or said:lower():find "incorrect"
  if denied then
    local e = err.new("registry_denied", ("%s doesn't know %s by this password"):format(host, username),
      "check both; some registries want an access token in the password's place")
    e.http = 403
    error(e, 0)
  end
  err.raise("registry_unreachable", ("can't ask %s about the credentials: %s"):format(host, said),
    "check the host's name and port, and that this host can reach it")
end

local function shown(row)
  return { host = row.host, username = row.username, created_at = clock.format(row.created_at) }
end

local function purpose(host) return "registry " .. host end

function Registries:login(name, username, password)
  local host = Registries.host(name)
  local identity = verify(self.d.docker, host, username, password)
  local auth = { username = username, serveraddress = address(host) }
  if identity and identity ~= "" then auth.identitytoken = identity else auth.password = password end
  local row = { host = host, username = username, created_at = clock.now() }
  self.d.store:commit { { [[INSERT INTO registry (host, username, sealed, created_at) VALUES (?, ?, ?, ?)
    ON CONFLICT (host) DO UPDATE SET username = excluded.username, sealed = excluded.sealed,
      created_at = excluded.created_at]], host, username,
    self.d.seal:close(purpose(host), json.encode(auth)), row.created_at } }
  return shown(row)
end

function Registries:list()
  local out = json.array {}
  for i, row in ipairs(self.d.store:all "SELECT host, username, created_at FROM registry ORDER BY host") do
    out[i] = shown(row)
  end
  return out
end

function Registries:logout(name)
  local host = Registries.host(name)
  local row = self.d.store:get("SELECT host, username, created_at FROM registry WHERE host = ?", host)
  if not row then
    err.raise("registry_not_found", ("no credentials are stored for %s"):format(host), "`ndctl registry list`")
  end
  self.d.store:commit { { "DELETE FROM registry WHERE host = ?", host } }
  return shown(row)
end

-- What Docker gets with a pull of that image: its AuthConfig, or nil.
function Registries:auth(image)
  local host = Registries.host_of(image)
  local row = self.d.store:get("SELECT sealed FROM registry WHERE host = ?", host)
  return row and json.decode(self.d.seal:open(purpose(host), row.sealed))
end

return Registries
