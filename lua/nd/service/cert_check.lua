-- cert_check.lua - what a certificate of the user's own has to be before anybody is shown it.
--
--   check(name, certificate, key, now) -> bundle     PEM texts; `name` a host name or *.zone. The bundle has the
--                                        certificates and the key, and nothing else that came with them
--   covers(names, host) -> boolean       RFC 6125, 6.4.3: a wildcard stands for one label, the first
--   name(text) -> name                   a host name or *.zone, lower case; raises bad_host
-- Errors: bad_certificate, bad_key; each says what is wrong, and what would be right.

local cert = require "cert"
local clock = require "clock"
local err = require "nd.error"
local host_name = require "nd.service.proxy.host"

local CLOCKS = 3600 * 1000 -- ms; by so much the CA's clock may be ahead

local M = {}

function M.name(text)
  local zone = type(text) == "string" and text:match "^%*%.(.+)$"
  if not zone then return host_name(text) end
  return "*." .. host_name(zone)
end

function M.covers(names, host)
  local zone = host:match "^[^.]+%.(.+)$"
  for _, name in ipairs(names) do
    if name == host or zone and name == "*." .. zone then return true end
  end
  return false
end

local function bad(message, hint) err.raise("bad_certificate", message, hint) end

local function check_time(leaf, now)
  if now > leaf.not_after then
    bad("the certificate expired on " .. clock.format(leaf.not_after), "ask its authority for a new one")
  elseif now + CLOCKS < leaf.not_before then
    bad("the certificate is valid from " .. clock.format(leaf.not_before) .. " on",
      "import it then; or is this host's clock wrong?")
  end
end

-- Each is issued by the one after it; a root at the end is of no use, and no harm.
local function check_chain(list)
  for i = 1, #list do
    if list[i].weak and i > 1 then bad(("the certificate of %s: %s"):format(list[i].subject, list[i].weak)) end
    if i < #list and not list[i].issued_by_next then
      bad(("certificate %d (%s) isn't issued by the one after it (%s)"):format(i, list[i].subject,
        list[i + 1].subject), "the order is: the host's own, the one that issued it, the one that issued that")
    end
  end
end

-- The blocks of a kind in a PEM text, each with its line's end.
local function blocks(text, kind)
  local out = {}
  for block in text:gmatch("%-%-%-%-%-BEGIN " .. kind .. "%-%-%-%-%-.-%-%-%-%-%-END " .. kind .. "%-%-%-%-%-") do
    out[#out + 1] = block .. "\n"
  end
  return out
end

function M.check(name, certificate, key, now)
  local list = cert.read(certificate)
  local chain = blocks(certificate, "CERTIFICATE")
  if #chain ~= #list then
    bad("not every certificate is in a block of its own that says CERTIFICATE",
      "`openssl x509 -in FILE` writes one that does")
  end
  local leaf = list[1]
  if leaf.authority and #list > 1 then
    bad(("the first certificate (%s) is an authority's"):format(leaf.subject), "put the host's own first")
  end
  if #leaf.names == 0 then
    bad("the certificate has no host names (subjectAltName)", "browsers look at nothing else; have it issued anew")
  elseif not M.covers(leaf.names, name) then
    bad(("the certificate is for %s, not for %s"):format(table.concat(leaf.names, ", "), name),
      ("`ndctl certs import %s` takes it"):format(leaf.names[1]))
  end
  check_time(leaf, now)
  if leaf.weak then bad(("the certificate isn't safe: %s"):format(leaf.weak), "have it issued anew, for an EC key") end
  check_chain(list)
  cert.fits(certificate, key)
  return table.concat(chain) .. blocks(key, "[%u ]*PRIVATE KEY")[1]
end

return M
