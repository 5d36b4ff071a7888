-- host.lua - host names as a proxy takes them.
--
--   host(text) -> name   lower case, without a final dot; raises bad_host

local err = require "nd.error"

-- RFC 1123 section 2.1, RFC 1035 section 2.3.4.
return function(text)
  if type(text) ~= "string" or text == "" then
    err.raise("bad_host", "a host name is missing", "as in shop.example.com")
  end
  local name = text:lower():gsub("%.$", "")
  local shown = #text > 80 and text:sub(1, 80) .. "..." or text
  local function bad(why, hint)
    err.raise("bad_host", ("'%s' is no host name: %s"):format(shown:gsub("[%c]", "?"), why), hint)
  end
  if name:find("[\128-\255]") then
    bad("it has letters outside ASCII", "write it in its punycode form, as in "
      .. "xn--bcher-kva.example (`idn2 NAME` prints it)")
  elseif name:find("^%a+://") then
    bad("it is a URL", "give the name alone, without https:// and path")
  elseif name:find("*", 1, true) then
    bad("wildcards are not supported", "name each host")
  elseif name:find(":", 1, true) then
    bad("it has a port", "the proxy listens on its own ports; give the name alone")
  elseif #name > 253 then
    bad("it is longer than 253 characters")
  elseif name:find("^[%d.]+$") then
    bad("it is an address or a number", "give a name that resolves to this host")
  end
  for label in (name .. "."):gmatch("([^.]*)%.") do
    if label == "" then
      bad("a part between dots is empty")
    elseif #label > 63 then
      bad("a part between dots is longer than 63 characters")
    elseif not label:find("^[a-z0-9-]+$") then
      bad("it may have letters, digits, dots and hyphens only")
    elseif label:find("^%-") or label:find("%-$") then
      bad("a part begins or ends with a hyphen")
    end
  end
  return name
end
