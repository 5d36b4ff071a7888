-- caddy_certificates.lua - what Caddy finds in its storage, and what it has got there.
--
-- Caddy asks its storage before it asks an authority, and renews in the background what has a third of its
-- life left, showing it meanwhile. So a certificate of the host's own authority is put there first:
--   internal   for long; it is never renewed by Caddy, since it is made anew here long before
--   standby    one that is due from its first day: for `tls = auto`, until the authority gives a public one.
--              A public authority that fails breaks nothing
--
--   certificates.new{ data=dir, directory=url, authority=a } -> c
--   c:remake(host)                     parks; makes an internal one anew
--   c:ensure(host, tls) -> whether what Caddy may have in memory is outdated     parks
--   c:find(host) -> {cert.read's first, standby=boolean} | nil     parks
--   c:problem(host) -> message, when | nil    what Caddy last said of it; when: seconds since 1970
--   certificates.issuer(url) -> name of the authority's directory in Caddy's storage

local cert = require "cert"
local clock = require "clock"
local fs = require "fs"
local json = require "json"
local authority = require "nd.service.proxy.authority"

local NO_CAUSE = "no solvers available" -- said after each challenge has said why it failed
local LOG_MOST = 256 * 1024 -- bytes of the log's end that are looked through

local Certificates = {}
Certificates.__index = Certificates

local certificates = {}

function certificates.new(o)
  o.dir = o.data .. "/certificates/" .. certificates.issuer(o.directory)
  o.log = o.data .. "/certificates.log"
  return setmetatable(o, Certificates)
end

-- As certmagic names it: host and path, joined by hyphens, with what a file's name may hold.
function certificates.issuer(url)
  local host, path = url:match "^%a+://([^/]*)(.*)$"
  path = (path or ""):gsub("[?#].*$", ""):gsub("[/\\]", "-"):gsub("^%-+", ""):gsub("%-+$", "")
  local name = path == "" and host or host .. "-" .. path
  return (name:lower():gsub(":", "-"):gsub("%.%.", ""):gsub("[^%w@.-]", ""))
end

local function path(self, host, suffix) return ("%s/%s/%s.%s"):format(self.dir, host, host, suffix) end

function Certificates:find(host)
  local file = path(self, host, "crt")
  local ok, list = pcall(function() return cert.read(fs.read(file)) end)
  if not ok then
    if list.code == "cancelled" then error(list, 0) end
    return nil
  end
  local info = list[1]
  info.own_authority = self.authority:made(info)
  local left = info.not_after - clock.now()
  info.standby = info.own_authority and left < (info.not_after - info.not_before) / 3
  return info
end

local function put(self, host, due)
  local certificate, key = self.authority:make(host, due)
  fs.mkdir(self.dir .. "/" .. host, 448)
  fs.chown(self.dir .. "/" .. host, self.owner.uid, self.owner.gid)
  authority.private(path(self, host, "key"), key)
  authority.private(path(self, host, "json"), json.encode { sans = json.array { host }, issuer_data = json.null })
  authority.private(path(self, host, "crt"), certificate)
end

-- Directories that whoever runs Caddy can write to.
local function prepare(self)
  if self.owner then return end
  fs.mkdir(self.data, 448)
  self.owner = fs.stat(self.data)
  for _, dir in ipairs { self.data .. "/certificates", self.dir } do
    if not fs.exists(dir) then
      fs.mkdir(dir, 448)
      fs.chown(dir, self.owner.uid, self.owner.gid)
    end
  end
end

function Certificates:ensure(host, tls)
  prepare(self)
  local has = self:find(host)
  if tls == "internal" then
    local good = has and has.own_authority and not has.standby
      and clock.now() - has.not_before < authority.RENEW
    if not good then put(self, host, false) end
    return has ~= nil and (not has.own_authority or has.standby)
  end
  local soon = has and has.not_after - clock.now() < 24 * 3600 * 1000
  local replaced = has and has.own_authority and (not has.standby or soon)
  if not has or replaced then put(self, host, true) end
  return replaced
end

function Certificates:remake(host)
  prepare(self)
  put(self, host, false)
end

function Certificates:problem(host)
  local file = io.open(self.log, "rb")
  if not file then return nil end
  local size = file:seek "end"
  file:seek("set", math.max(0, size - LOG_MOST))
  local text = file:read "a"
  file:close()
  local said, at
  for line in text:gmatch "[^\n]+" do
    if line:find('"' .. host .. '"', 1, true) then
      local ok, entry = pcall(json.decode, line)
      if ok and entry.identifier == host and entry.error and not entry.error:find(NO_CAUSE, 1, true)
        and entry.msg ~= "will retry" then
        said, at = entry.error, entry.ts
      end
    end
  end
  return said, at
end

return certificates
