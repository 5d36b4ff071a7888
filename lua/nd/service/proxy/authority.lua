-- authority.lua - certificates by the host's own authority: for `tls = internal`, and for `auto` until there
-- is a public one.
--
-- Both proxies have the same: whoever trusts <dir>/root.crt trusts a host on either, and after it moved.
-- The directory is where Caddy has its own authority; one that Caddy made there earlier is taken over.
--
--   authority.new{ dir=, instance= } -> a
--   a:make(host, due) -> certificate, key     PEM; parks. `due`: one whose last third has begun, so that
--                                             who renews in time renews it at once
--   a:made(info) -> boolean                   whether a certificate (cert.read) is one of these; parks
--   authority.private(path, text)             parks; a file that nobody else can read at any moment; its
--                                             owner is the directory's
--   authority.RENEW                           ms, at which age one is made anew
-- Errors: cert_failed.

local cert = require "cert"
local clock = require "clock"
local fs = require "fs"
local log = require "log"
local tasks = require "nd.tasks"

local DAY = 24 * 3600 * 1000
local LIFE = 397 * DAY      -- what browsers accept at most
local ROOT_LIFE = 3650 * DAY
local DUE_LEFT = 90 * DAY   -- of LIFE

local Authority = {}
Authority.__index = Authority

local authority = { RENEW = 200 * DAY }

function authority.new(o)
  return setmetatable({ dir = o.dir, instance = o.instance, lock = tasks.lock() }, Authority)
end

function authority.private(path, text)
  local owner = fs.stat(path:match "^(.*)/")
  fs.write(path, text, 384) -- 0600
  fs.chown(path, owner.uid, owner.gid)
end

-- Whether there are both, and one is the other's. Without that nobody would trust what they sign.
local function whole(crt, key)
  if not (fs.exists(crt) and fs.exists(key)) then return false end
  local certificate, private = fs.read(crt), fs.read(key)
  local ok, e = pcall(cert.fits, certificate, private)
  if ok then return true end
  log.warn(("the host's own authority is broken, and made anew; what it was is in %s.broken and %s.broken (%s)"):format(
    crt, key, e.message))
  authority.private(crt .. ".broken", certificate)
  authority.private(key .. ".broken", private)
  return false
end

local function root(self)
  local _ <close> = self.lock:hold "root"
  if self.certificate then return self.certificate, self.key end
  local key, crt = self.dir .. "/root.key", self.dir .. "/root.crt"
  if not whole(crt, key) then
    fs.mkdir(self.dir, 448) -- 0700
    local now = clock.now()
    local certificate, private = cert.make { common_name = "NextDeploy " .. self.instance, authority = true,
      not_before = now, not_after = now + ROOT_LIFE }
    authority.private(key, private)
    authority.private(crt, certificate)
  end
  local certificate = fs.read(crt)
  self.subject = cert.read(certificate)[1].subject
  self.certificate, self.key = certificate, fs.read(key)
  return self.certificate, self.key
end

function Authority:make(host, due)
  local certificate, key = root(self)
  local now = clock.now()
  return cert.make { common_name = #host <= 64 and host or host:sub(-64), names = { host },
    not_before = due and now + DUE_LEFT - LIFE or now, not_after = due and now + DUE_LEFT or now + LIFE,
    issuer = certificate, issuer_key = key }
end

function Authority:made(info)
  root(self)
  return info.issuer == self.subject
end

return authority
