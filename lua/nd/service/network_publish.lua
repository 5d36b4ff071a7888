-- network_publish.lua - ports of the host that lead to an app, and who may come by them.
--
--   publish.entry(value) -> {port=, target=, proto=, from={cidr, ...}} | nil, why, hint
--       "[HOSTPORT:]PORT[/tcp|udp]", or {port = that, from = {"CIDR", ...}}; port is the host's,
--       target the container's. Pure.
--   publish.same(a, b) -> whether two lists of {port=, from=} say the same. Pure.
--   publish.forget(before, now)        parks; UDP flows of the targets that are no more
--   publish.check(net, app, entries)   parks; raises port_taken, naming who has it
--
-- Nobody from outside may come unless `from` names him; this host itself may, by one of its own
-- addresses (127.0.0.1 aside, which can't be sent on to a container: from here use the service
-- address). Containers don't come in by published ports, but by service addresses, where the policy
-- between projects holds.

local json = require "json"
local netfilter = require "netfilter"
local process = require "process"
local address = require "nd.service.network_address"
local err = require "nd.error"

local publish = {}

local PATH = { PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" }

local function number(text)
  local n = #text <= 5 and math.tointeger(tonumber(text))
  return n and n >= 1 and n <= 65535 and n or nil
end

local function ranges(value)
  if value == nil then return json.array {} end
  if type(value) ~= "table" then return nil, "from must be a list of ranges", 'as in from = { "10.0.0.0/8" }' end
  local out = json.array {}
  for i, text in ipairs(value) do
    local first, _, length = address.range(tostring(text))
    if not first then
      return nil, ("from: %s is no IPv4 range"):format(json.encode(text)), 'as in "10.0.0.0/8" or "0.0.0.0/0"'
    end
    out[i] = address.format(first) .. "/" .. length
  end
  table.sort(out)
  return out
end

function publish.entry(value)
  if type(value) ~= "table" then value = { port = value } end
  for name in pairs(value) do
    if name ~= "port" and name ~= "from" then
      return nil, ("there is no '%s' in it"):format(tostring(name)), "it has port and from"
    end
  end
  local text = tostring(value.port)
  local host, target, proto = text:match "^(%d+):(%d+)/?(%a*)$"
  if not host then
    target, proto = text:match "^(%d+)/?(%a*)$"
    host = target
  end
  host, target = host and number(host), target and number(target)
  if not host or not target or not (proto == "" or proto == "tcp" or proto == "udp") then
    return nil, ("%s is no port to publish"):format(json.encode(value.port)),
      'write "5432/tcp", "15432:5432/tcp" or "53/udp"'
  end
  local from, why, hint = ranges(value.from)
  if not from then return nil, why, hint end
  return { port = host, target = target, proto = proto ~= "" and proto or "tcp", from = from }
end

local function text_of(list)
  local out = {}
  for i, p in ipairs(list or {}) do out[i] = p.port .. " " .. table.concat(p.from, " ") end
  return table.concat(out, "\n")
end

function publish.same(a, b) return text_of(a) == text_of(b) end

-- A flow of a published port names the host and the container, and not the service address.
function publish.forget(before, now)
  local stays = {}
  for _, target in ipairs(now) do stays[target] = true end
  for _, target in ipairs(before) do
    if not stays[target] then netfilter.forget { proto = "udp", within = target:match "^[^:]+" } end
  end
end

-- Who listens on a port of the host, loopback aside: 'postgres (pid 12)', or nil.
local function listener(proto, port)
  local ok, r = pcall(process.run, { argv = { "ss", "-H", "-l", "-n", "-p", proto == "udp" and "-u" or "-t",
    "sport = :" .. port }, env = PATH, timeout_ms = 5000 })
  if not ok then
    if r.code == "cancelled" then error(r, 0) end
    return nil
  end
  for line in r.stdout:gmatch "[^\n]+" do
    local at = line:match "^%S+%s+%S+%s+%S+%s+(%S+)"
    if at and not at:find "^127%." and not at:find("[::1]", 1, true) then
      local name, pid = line:match '%(%("([^"]+)",pid=(%d+)'
      return name and ("%s (pid %s)"):format(name, pid) or "another program"
    end
  end
end

local function taken(entry, who, hint)
  err.raise("port_taken", ("port %d/%s of this host belongs to %s"):format(entry.port, entry.proto, who), hint)
end

function publish.check(net, app, entries)
  local ours, seen = table.concat({ app.project, app.environment, app.app }, "/") .. "/", {}
  for _, entry in ipairs(entries) do
    local name = entry.port .. "/" .. entry.proto
    if seen[name] then taken(entry, "this app already", "publish it once") end
    seen[name] = true
    local owner
    for key, s in pairs(net.services) do
      for _, p in ipairs(not s.freed_at and s.published or {}) do
        if p.port == entry.port and s.proto == entry.proto then owner = key end
      end
    end
    if owner and owner:sub(1, #ours) ~= ours then
      local project, environment, other = owner:match "^([^/]+)/([^/]+)/([^/]+)/"
      taken(entry, ("the app '%s' in %s/%s"):format(other, project, environment),
        ('publish it by another: "%d:%d/%s"'):format(entry.port + 10000 & 65535, entry.target, entry.proto))
    end
    local who = not owner and listener(entry.proto, entry.port)
    if who then taken(entry, who, ("end it, or publish another port: \"HOSTPORT:%d/%s\""):format(
      entry.target, entry.proto)) end
  end
end

return publish
