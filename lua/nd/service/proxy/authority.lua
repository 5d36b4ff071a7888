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

local DAY = 24 * 3600 * 1000
local LIFE = 397 * DAY      -- what browsers accept at most
local ROOT_LIFE = 3650 * DAY
local DUE_LEFT = 90 * DAY   -- of LIFE

local Authority = {}
Authority.__index = Authority

local authority = { RENEW = 200 * DAY }

function authority.new(o) return setmetatable({ dir = o.dir, instance = o.instance }, Authority) end

function authority.private(path, text)
  local owner = fs.stat(path:match "^(.*)/")
  fs.write(path, text, 384) -- 0600
  fs.chown(path, owner.uid, owner.gid)
end

local function root(self)
  if self.certificate then return self.certificate, self.key end
  local key, crt = self.dir .. "/root.key", self.dir .. "/root.crt"
  if not (fs.exists(crt) and fs.exists(key)) then
    fs.mkdir(self.dir, 448) -- 0700
    local now = clock.now()
    local certificate, private = cert.make { common_name = "NextDeploy " .. self.instance, authority = true,
      not_before = now, not_after = now + ROOT_LIFE }
    authority.private(key, private)
    authority.private(crt, certificate)
  end
  self.certificate, self.key = fs.read(crt), fs.read(key)
  self.subject = cert.read(self.certificate)[1].subject
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
