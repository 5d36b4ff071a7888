-- What comes in over TCP may come from a browser, whose pages are strangers, also on this machine: they can
-- send requests to 127.0.0.1, but have neither a token nor, by what is checked here, the daemon's attention.
--
--   door.check(request)      raises forbidden for what a page of somewhere else sent, or might have
--
-- Host     names this machine by its address or as localhost. A page whose own name was made to resolve to
--          127.0.0.1 (DNS rebinding) is told by its name; an address can't be made to mean another one. Over
--          TLS such a page fails at the certificate already, and this host may be called by its own name.
-- Origin   which browsers send with every WebSocket handshake, every POST and every request across origins,
--          is the daemon's own, or absent (Fetch Standard, 3.1).
-- Sec-Fetch-Site   which they send with everything else too (images, scripts, forms, links), says that the
--          daemon's own page, or the person himself, asked (Fetch Metadata Request Headers, 2.3).

local err = require "nd.error"

local M = {}

local function is_ipv4(host)
  local a, b, c, d = host:match "^(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)%.(%d%d?%d?)$"
  return a and a + 0 < 256 and b + 0 < 256 and c + 0 < 256 and d + 0 < 256
end

-- Enough to tell it from a name: only digits of an address and colons, in brackets.
local function is_ipv6(host) return host:find "^%[[%x:.]*:[%x:.]*%]$" ~= nil end

-- "NAME:PORT" -> NAME, lower case; nil for what is neither a name nor an address with a port.
local function name_of(host)
  local name, port = host:match "^(%[[^%]]*%])(.*)$"
  if not name then name, port = host:match "^([^:]*)(.*)$" end
  if port ~= "" and not port:find "^:%d%d?%d?%d?%d?$" then return nil end
  return name:lower()
end

local function refuse(message, hint) err.raise("forbidden", message, hint) end

function M.check(request)
  local headers = request.headers
  local host, origin, site = headers.host or "", headers.origin, headers["sec-fetch-site"]
  local name = name_of(host)
  if not request.tls and host ~= "" and not (name and (name == "localhost" or is_ipv4(name) or is_ipv6(name))) then
    refuse(("the host name %q is not this daemon's"):format((host:gsub(":%d+$", ""))),
      "address it as 127.0.0.1 or localhost")
  end
  local scheme = request.tls and "https://" or "http://"
  if origin and (host == "" or origin:lower() ~= (scheme .. host):lower()) then
    refuse("requests from web pages of other origins are refused", "use ndctl, or send no Origin header")
  end
  if site and site ~= "same-origin" and site ~= "none" then
    refuse("requests that web pages of other sites make are refused", "use ndctl, or send no Sec-Fetch-Site header")
  end
end

return M
