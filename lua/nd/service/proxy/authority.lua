-- authority.lua - certificates for `tls = internal`, by the host's own authority.
--
-- It is Caddy's: whoever trusts <authority>/root.crt trusts a host on either proxy, and after it
-- moved. Where Caddy hasn't made it yet it is made here, in the form in which Caddy finds it.
--
--   authority.ensure{ authority=dir, certs=dir, host=, instance= } -> whether it made one
--                                          parks; <certs>/HOST.crt and .key, of at most RENEW age
-- Errors: cert_failed.

local clock = require "clock"
local fs = require "fs"
local process = require "process"
local err = require "nd.error"

local authority = {}

local DAY = 24 * 3600 * 1000
local RENEW = 200 * DAY
local LIFE = "397"   -- days; what browsers accept at most
local ROOT_LIFE = "3650"

local function openssl(...)
  local ok, r = pcall(process.run, { argv = { "openssl", ... }, timeout_ms = 10000 })
  if not ok and r.code == "process_start" then
    err.raise("cert_failed", "there is no `openssl` on this host to make a certificate with",
      "apt-get install openssl, or route the host with tls = off")
  end
  if not ok then error(r, 0) end
  if r.status ~= 0 then
    err.raise("cert_failed", "openssl made no certificate: " .. r.stderr:gsub("%s+$", ""):match("[^\n]*$"))
  end
  return r.stdout
end

-- A file that nobody else can read at any moment; the owner is the directory's.
local function private(path, text)
  local owner = fs.stat(path:match "^(.*)/")
  fs.write(path, text, 384) -- 0600
  fs.chown(path, owner.uid, owner.gid)
end

local function new_key() return openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout") end

local function ensure_root(o)
  local key, crt = o.authority .. "/root.key", o.authority .. "/root.crt"
  if fs.exists(crt) and fs.exists(key) then return key, crt end
  fs.mkdir(o.authority, 448) -- 0700
  private(key, new_key())
  openssl("req", "-x509", "-new", "-key", key, "-sha256", "-days", ROOT_LIFE, "-out", crt,
    "-subj", ("/CN=NextDeploy %s"):format(o.instance),
    "-addext", "basicConstraints=critical,CA:TRUE,pathlen:1",
    "-addext", "keyUsage=critical,keyCertSign,cRLSign")
  return key, crt
end

function authority.ensure(o)
  local path = o.certs .. "/" .. o.host
  local have = fs.stat(path .. ".crt")
  if have and clock.now() - have.mtime < RENEW and fs.exists(path .. ".key") then return false end
  local root_key, root = ensure_root(o)
  fs.mkdir(o.certs, 448)
  local name = #o.host <= 64 and o.host or o.host:sub(-64) -- as much as a common name may have
  private(path .. ".key", new_key())
  -- In place at the end: a certificate of another key would be refused.
  openssl("req", "-x509", "-new", "-key", path .. ".key", "-CA", root, "-CAkey", root_key, "-sha256",
    "-days", LIFE, "-subj", "/CN=" .. name, "-out", path .. ".crt",
    "-addext", "basicConstraints=critical,CA:FALSE",
    "-addext", "keyUsage=critical,digitalSignature", "-addext", "extendedKeyUsage=serverAuth",
    "-addext", "subjectAltName=DNS:" .. o.host)
  return true
end

return authority
