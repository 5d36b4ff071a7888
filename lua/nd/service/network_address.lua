-- network_address.lua - IPv4 arithmetic, and how an instance divides its range.
--
-- `layout` is the one place that knows the division: the lower half of --service-cidr holds
-- service addresses, the upper half holds container bridges of 32 addresses each. The first block
-- of the upper half belongs to the host itself: its first address sits on `lo` and is the source
-- of what the host sends to a service address, so that it depends on no network card.
-- Pure functions; nothing here waits.

local address = {}

local BLOCK = 32 -- addresses per bridge: 29 containers, the gateway, network and broadcast

-- "10.1.2.3" -> integer, or nil. No octal, no short forms: inet_aton would take both.
function address.parse(text)
  local a, b, c, d = string.match(text, "^(%d+)%.(%d+)%.(%d+)%.(%d+)$")
  if not a then return nil end
  local n = 0
  for _, part in ipairs { a, b, c, d } do
    if #part > 3 or (#part > 1 and part:sub(1, 1) == "0") or tonumber(part) > 255 then
      return nil
    end
    n = n << 8 | math.tointeger(tonumber(part))
  end
  return n
end

function address.format(n)
  return string.format("%d.%d.%d.%d", n >> 24 & 255, n >> 16 & 255, n >> 8 & 255, n & 255)
end

-- "10.0.0.0/8" -> first, last address as integers, prefix length; nil when it isn't a range.
function address.range(cidr)
  local text, length = string.match(cidr, "^([%d.]+)/(%d%d?)$")
  if not text then text, length = cidr, "32" end
  local n = address.parse(text)
  length = math.tointeger(tonumber(length))
  if not n or length > 32 then return nil end
  local size = 1 << (32 - length)
  local first = n & ~(size - 1)
  return first, first + size - 1, length, n
end

function address.overlap(a, b)
  local first_a, last_a = address.range(a)
  local first_b, last_b = address.range(b)
  return first_a <= last_b and first_b <= last_a
end

-- "10.0.0.2:8080" -> integer, port; nil when it isn't that.
function address.endpoint(text)
  local ip, port = string.match(text, "^([%d.]+):(%d+)$")
  local n = ip and address.parse(ip)
  port = port and #port <= 5 and math.tointeger(tonumber(port))
  if not n or not port or port < 1 or port > 65535 then return nil end
  return n, port
end

-- layout{instance="3fa2", cidr="10.201.0.0/16"} -> table, or nil, why.
function address.layout(o)
  if not string.match(o.instance, "^%x%x%x%x%x?%x?$") then
    return nil, "an instance's short id is 4 to 6 hexadecimal digits"
  end
  local first, _, length, given = address.range(o.cidr)
  if not first or not o.cidr:find("/", 1, true) then
    return nil, "it is not an IPv4 range like 10.201.0.0/16"
  end
  if given ~= first then
    return nil, "it has bits set behind its prefix: write "
      .. address.format(first) .. "/" .. length
  end
  if length < 12 or length > 20 then
    return nil, "its prefix must be between /12 and /20"
  end
  local half = 1 << (31 - length)
  local id = o.instance
  return {
    instance = id,
    cidr = o.cidr,
    service_first = first,          -- integer; the address itself is never given out
    service_count = half - 1,       -- service addresses are service_first + 1 ... + count
    services = address.format(first) .. "/" .. length + 1,
    container_first = first + half, -- integer; block 0 is the host's
    bridge_count = half // BLOCK - 1,
    containers = address.format(first + half) .. "/" .. length + 1,
    host = address.format(first + half + 1),
    bridges = "nd" .. id .. "-+",   -- what iptables calls all our bridges
    chain = "ND-" .. id,
  }
end

function address.service(layout, n) return address.format(layout.service_first + n) end

-- The n-th bridge (from 1): {index=, bridge=, subnet=, gateway=}.
function address.bridge(layout, n)
  local first = layout.container_first + n * BLOCK
  return {
    index = n,
    bridge = "nd" .. layout.instance .. "-" .. n,
    subnet = address.format(first) .. "/27",
    gateway = address.format(first + 1),
  }
end

-- The addresses that containers on the bridge may have: first, last, as integers.
function address.containers(layout, n)
  local first = layout.container_first + n * BLOCK
  return first + 2, first + BLOCK - 2
end

return address
