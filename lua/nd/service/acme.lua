-- acme.lua - certificates from an ACME authority (RFC 8555), by the program `uacme`.
--
-- It runs as a user that nothing else is, in a directory of its own that is removed afterwards, and never
-- sees a certificate's key: it gets a request that was signed here. What the authority wants to find under
-- /.well-known/acme-challenge/ its hook writes into `well_known`, which nginx shows; a TXT record (dns-01) the
-- hook leaves to the daemon, by files. Once the directory is that user's, nothing is written there as root.
--
--   acme.new{ directory=url, email=, ca=file, keys=dir, run=dir, well_known=dir } -> a
--   a:issue{ names={...}, dns=function(act, name, value)|nil } -> chain, key     PEM; parks, a second or
--       so. With `dns` the challenge is dns-01: it is called with "present" and "remove", and waited for.
--   a:tidy()               parks; removes what was in work when the daemon ended
-- Errors: cert_failed with the authority's own words, and data.retry_at (UTC ms) where it names a time.
-- The account's key, one a directory, is in `keys`.
--
--   acme.refusal(text) -> kind, detail, retry_at      of what uacme printed

local cert = require "cert"
local clock = require "clock"
local crypto = require "crypto"
local fs = require "fs"
local json = require "json"
local process = require "process"
local task = require "task"
local err = require "nd.error"
local instant = require "nd.instant"
local tasks = require "nd.tasks"
local certificates = require "nd.service.proxy.caddy_certificates"

local Acme = {}
Acme.__index = Acme

local USER = 0x6e630000     -- and those after it: above what hosts and user namespaces give out, below the workers'
local USERS = 0x10000       -- before the first is taken again
local NOBODY = 65534
local TAKES = 180 * 1000    -- ms; an authority may take its time to look
local NONCE_TRIES = 4       -- after badNonce, which is nobody's fault (RFC 8555, 6.5)
local PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

local hook = [[
#!/bin/sh
# ACT TYPE NAME TOKEN AUTHORIZATION, as uacme calls it
[ "$2" = "$ND_CHALLENGE" ] || exit 1
case $4 in *[!A-Za-z0-9_-]*) exit 1 ;; esac
umask 022
case $2 in
http-01)
  if [ "$1" = begin ]; then printf %s "$5" >"$ND_WELL_KNOWN/$4"; else rm -f "$ND_WELL_KNOWN/$4"; fi
  ;;
dns-01)
  : >refused
  printf '%s %s %s\n' "$1" "$3" "$5" >asked.new && mv asked.new asked
  while [ -e asked ]; do sleep 0.1; done
  [ ! -e refused ]
  ;;
esac
]]

-- Instead of the host's roots: only this process sees it.
local with_ca = [[mount --bind "$0" /etc/ssl/certs/ca-certificates.crt && exec "$@"]]

local acme = {}

function acme.new(o)
  o.account = ("%s/account-%s.key"):format(o.keys, certificates.issuer(o.directory))
  o.lock, o.count = tasks.lock(), 0
  return setmetatable(o, Acme)
end

---- the program ----

local function command(self, work, ...)
  local argv = { "uacme", "-n", "-c", work.dir, "-a", self.directory, ... }
  if not self.ca then return argv end
  local under = { "unshare", "--mount", "sh", "-c", with_ca, self.ca, "setpriv", "--reuid=" .. work.user,
    "--regid=" .. work.group, "--clear-groups", "--no-new-privs" }
  return table.move(argv, 1, #argv, #under + 1, under)
end

local function uacme(self, work, challenge, ...)
  local ok, r = pcall(process.run, {
    argv = command(self, work, ...), cwd = work.dir, timeout_ms = TAKES,
    uid = not self.ca and work.user or nil, gid = not self.ca and work.group or nil,
    env = { PATH = PATH, ND_WELL_KNOWN = self.well_known, ND_CHALLENGE = challenge } })
  if ok then return r end
  if r.code ~= "process_start" then error(r, 0) end
  err.raise("cert_failed", "uacme, which asks the authority, can't be run: " .. r.message, "apt-get install uacme")
end

-- A directory with these files (name -> text), the user's.
local function work_dir(self, files)
  self.count = (self.count + 1) % USERS
  local work = { dir = ("%s/acme-%s"):format(self.run, crypto.hex(crypto.random(8))), user = USER + self.count,
    group = USER }
  setmetatable(work, { __close = function() fs.remove(work.dir, { recursive = true }) end })
  fs.mkdir(self.well_known, 493)
  if not pcall(fs.chown, self.well_known, 0, work.group) then -- a container around us may have no such group
    work.user, work.group = NOBODY, NOBODY
    fs.chown(self.well_known, 0, work.group)
  end
  fs.chmod(self.well_known, 1021) -- 01775: nobody removes another's
  fs.mkdir(work.dir .. "/private", 448)
  fs.write(work.dir .. "/hook", hook, 493)
  for name, text in pairs(files) do
    fs.write(work.dir .. "/" .. name, text, 384)
    fs.chown(work.dir .. "/" .. name, work.user, work.group)
  end
  fs.chown(work.dir .. "/private", work.user, work.group)
  fs.chown(work.dir, work.user, work.group)
  return work
end

---- what it says ----

local about = {
  rateLimited = "the authority limits how often it is asked; it is asked again later by itself",
  connection = "the authority must reach port 80 of this host by that name",
  unauthorized = "does the name lead to this host? The authority asked it and got something else",
  dns = "the name must resolve to this host for everybody",
  rejectedIdentifier = "the authority gives no certificates for this name",
  caa = "the name's CAA record names another authority",
}

-- "retry after 2026-01-31 12:00:00 UTC", as Let's Encrypt puts it; seconds, where it is a header's value
local function retry_at(said)
  local y, mo, d, h, mi, s = said:match "[Rr]etry[ -][Aa]fter:? (%d%d%d%d)-(%d%d)-(%d%d)[ T](%d%d):(%d%d):(%d%d)"
  if y then return instant.ms("retry", ("%s-%s-%sT%s:%s:%sZ"):format(y, mo, d, h, mi, s)) end
  local seconds = said:match "[Rr]etry[ -][Aa]fter:? (%d+)"
  return seconds and clock.now() + math.tointeger(tonumber(seconds)) * 1000
end

-- The last error object of the authority in what uacme printed, else its first line.
function acme.refusal(said)
  local kind, detail
  for object in said:gmatch "%b{}" do
    local ok, e = pcall(json.decode, object)
    e = ok and (e.error or e) or {}
    for _, challenge in ipairs(ok and e.challenges or {}) do e = challenge.error or e end
    if type(e.type) == "string" then kind, detail = e.type:match "[^:]*$", e.detail end
  end
  local line = said:match "uacme: [%w_]+: (%u+ [^\n]* failed: [^\n]*)" or said:match "uacme: ([^\n]*failed[^\n]*)"
    or said:match "uacme: ([^\n]*)" or said:match "[^\n]+"
  return kind, detail or line or "it said nothing", retry_at(said)
end

local function failed(r)
  local kind, detail, at = acme.refusal(r.stderr)
  local e = err.new("cert_failed", detail .. (kind and (" (%s)"):format(kind) or ""),
    about[kind] or "it is asked again later by itself; what was shown is shown on")
  e.data = { kind = kind, retry_at = at }
  error(e, 0)
end

---- asking ----

-- -> the account's key; a new one is kept once the authority knows it
local function account(self)
  local _ <close> = self.lock:hold "account"
  if fs.exists(self.account) then return fs.read(self.account) end
  local _, key = cert.request { names = { "account.invalid" } }
  local work <close> = work_dir(self, { ["private/key.pem"] = key })
  local r = uacme(self, work, "", "-y", "new", self.email)
  if r.status ~= 0 then failed(r) end
  fs.mkdir(self.keys, 448)
  fs.write(self.account, key, 384)
  return key
end

-- What the hook asks for: act, name and value, where it may ask for that.
local function question(text, names)
  local act, name, value = text:match "^(%l+) (%S+) ([%w_-]+)\n$"
  for _, wanted in ipairs(names) do
    if name == wanted:gsub("^%*%.", "") then return act == "begin" and "present" or "remove", name, value end
  end
end

-- Has the daemon do what the hook asks for, until the program has ended.
local function serve_dns(work, wish)
  local asked, refused = work.dir .. "/asked", work.dir .. "/refused"
  while true do
    task.sleep(100)
    if fs.exists(asked) then
      local act, name, value = question(fs.read(asked), wish.names)
      local ok, e
      if act then ok, e = pcall(wish.dns, act, "_acme-challenge." .. name, value) end
      if act == "present" and not ok then work.problem = work.problem or e end
      if ok then fs.remove(refused) end
      fs.remove(asked)
    end
  end
end

local function ask(self, work, wish)
  local challenge = wish.dns and "dns-01" or "http-01"
  local server = wish.dns and task.spawn("dns-01", serve_dns, work, wish)
  local ok, r = pcall(uacme, self, work, challenge, "-h", work.dir .. "/hook", "issue", "wanted.csr")
  if server then server:cancel() end
  if not ok then error(r, 0) end
  return r
end

function Acme:issue(wish)
  local request, key = cert.request { names = wish.names }
  local work <close> = work_dir(self, { ["private/key.pem"] = account(self), ["wanted.csr"] = request })
  local r
  for _ = 1, NONCE_TRIES do
    r = ask(self, work, wish)
    if r.status == 0 or not r.stderr:find("badNonce", 1, true) then break end
  end
  if work.problem then error(work.problem, 0) end
  if r.status ~= 0 then failed(r) end
  return fs.read(work.dir .. "/wanted-cert.pem"), key
end

function Acme:tidy()
  for _, name in ipairs(fs.list(self.run)) do
    if name:find "^acme%-%x+$" then fs.remove(self.run .. "/" .. name, { recursive = true }) end
  end
  if fs.exists(self.well_known) then fs.remove(self.well_known, { recursive = true }) end
end

return acme
