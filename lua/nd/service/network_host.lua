-- network_host.lua - what the host itself must have for service addresses: route, sysctls, room.
--
--   check_range(layout, saved)     parks; raises range_overlap where the range is in use; `saved`
--                                  is what iptables-save printed
--   ensure_route(layout)           parks; idempotent       remove_route(layout)   parks
--   ensure_sysctls(before)         parks; notes in `before` what they were
--   restore_sysctls(before)        parks
--   check() -> {{name=, ok=, message=, hint=}, ...}   parks; for `ndctl doctor`

local task = require "task"
local address = require "nd.service.network_address"
local iptables = require "nd.service.iptables"
local rules = require "nd.service.network_rules"

local host = {}

local function overlap(hint, format, ...)
  error(task.error { code = "range_overlap", message = string.format(format, ...), hint = hint }, 0)
end

function host.check_range(layout, saved)
  for _, rival in ipairs(rules.others(layout, saved)) do
    if address.overlap(rival.range, layout.cidr) then
      overlap("give this one another range with --service-cidr, or end the other one and remove "
        .. "its rules", "the range %s is in use by the NextDeploy instance %s (%s)",
        layout.cidr, rival.instance, rival.range)
    end
  end
  local ours = "nd" .. layout.instance .. "-"
  for line in iptables.ip("-4", "-o", "route", "show", "table", "all"):gmatch("[^\n]+") do
    local kind, to = line:match("^(%l+) ([%d./]+)")
    if not kind then to = line:match("^([%d./]+)") end
    local dev = line:match(" dev (%S+)") or "?"
    local own = dev:sub(1, #ours) == ours
      or dev == "lo" and (to == layout.services or to == layout.host)
    if to and kind ~= "broadcast" and address.range(to) and not own
      and address.overlap(to, layout.cidr) then
      overlap("give a free range with --service-cidr, as in 10.213.0.0/16",
        "the range %s for service addresses overlaps %s on %s", layout.cidr, to, dev)
    end
  end
end

-- The route makes connect() succeed up to netfilter also where there is no default route; its
-- source stays the same when network cards come and go.
function host.ensure_route(layout)
  local addresses = iptables.ip("-4", "-o", "addr", "show", "dev", "lo")
  if not addresses:find(" " .. layout.host .. "/32 ", 1, true) then
    iptables.ip("addr", "add", layout.host .. "/32", "dev", "lo")
  end
  local route = iptables.ip("-4", "-o", "route", "show", layout.services)
  if not (route:find("dev lo", 1, true) and route:find("src " .. layout.host, 1, true)) then
    iptables.ip("route", "replace", layout.services, "dev", "lo", "src", layout.host)
  end
end

-- tcp_tw_reuse: the side that closes first holds its port for 60 s. An app that is slow to close
-- makes that the proxy, which then runs out of ports at 470 connections a second; with it a port
-- is free again after a second (RFC 6191, timestamps tell old segments from new).
local SYSCTLS = {
  { "net.ipv4.ip_forward", "1", "containers can't be reached from other bridges" },
  { "net.ipv4.tcp_tw_reuse", "1", "a busy proxy runs out of source ports" },
}

function host.ensure_sysctls(before)
  for _, s in ipairs(SYSCTLS) do
    local value = iptables.sysctl(s[1])
    if value and value ~= s[2] then
      before[s[1]] = before[s[1]] or value
      iptables.sysctl(s[1], s[2])
    end
  end
end

-- Forwarding stays: Docker wants it too.
function host.restore_sysctls(before)
  local value = before["net.ipv4.tcp_tw_reuse"]
  if value then iptables.sysctl("net.ipv4.tcp_tw_reuse", value) end
end

function host.remove_route(layout)
  pcall(iptables.ip, "route", "del", layout.services, "dev", "lo")
  pcall(iptables.ip, "addr", "del", layout.host .. "/32", "dev", "lo")
end

local function number(name)
  return math.tointeger(tonumber(iptables.sysctl(name) or "")) or 0
end

function host.check()
  local out = {}
  local function add(name, ok, message, hint)
    out[#out + 1] = { name = name, ok = ok, message = message, hint = not ok and hint or nil }
  end
  for _, s in ipairs(SYSCTLS) do
    local value = iptables.sysctl(s[1])
    add("network." .. s[1]:match("[^.]+$"), value == s[2], s[1] .. " = " .. tostring(value),
      "sysctl -w " .. s[1] .. "=" .. s[2] .. ": else " .. s[3])
  end
  local most, now = number("net.netfilter.nf_conntrack_max"),
    number("net.netfilter.nf_conntrack_count")
  add("network.conntrack", most == 0 or most >= 65536 and now < most * 3 // 4,
    string.format("%d of %d connections tracked", now, most),
    "a busy service holds 28,000 entries: sysctl -w net.netfilter.nf_conntrack_max=262144")
  local low, high = (iptables.sysctl("net.ipv4.ip_local_port_range") or ""):match("(%d+)%s+(%d+)")
  local ports = low and tonumber(high) - tonumber(low) + 1 or 0
  add("network.ports", ports >= 20000, ports .. " source ports",
    "sysctl -w net.ipv4.ip_local_port_range='32768 60999'")
  return out
end

return host
