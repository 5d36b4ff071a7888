-- fake_iptables.lua - netfilter's tables in memory, for specs of what we do with them.
--
-- `fake.new()` -> backend with save and restore as lua/nd/service/iptables.lua has them, and
-- `tables`; fake.module(backend, routes) -> a stand-in for that module. It reads the part of
-- iptables-restore's language that we write, and refuses the rest.

local fake = {}

local Backend = {}
Backend.__index = Backend

function fake.new()
  return setmetatable({ kind = "nft", restores = 0, tables = {
    nat = { PREROUTING = { "-m addrtype --dst-type LOCAL -j DOCKER" }, OUTPUT = {},
      POSTROUTING = { "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE" }, DOCKER = {} },
    filter = { INPUT = {}, OUTPUT = {}, FORWARD = { "-j DOCKER-USER" },
      ["DOCKER-USER"] = { "-j RETURN" } },
  } }, Backend)
end

function Backend:save()
  local out = {}
  for name, chains in pairs(self.tables) do
    out[#out + 1] = "*" .. name
    for chain in pairs(chains) do out[#out + 1] = ":" .. chain .. " - [0:0]" end
    for chain, rules in pairs(chains) do
      for _, rule in ipairs(rules) do out[#out + 1] = "-A " .. chain .. " " .. rule end
    end
    out[#out + 1] = "COMMIT"
  end
  return table.concat(out, "\n") .. "\n"
end

local function find(list, rule)
  for i, r in ipairs(list) do
    if r == rule then return i end
  end
end

local function line_of(chains, line)
  local chain = line:match("^:(%S+)")
  if chain then
    chains[chain] = {}
    return
  end
  local verb, name, rest = line:match("^%-(%u) (%S+) ?(.*)$")
  assert(verb, "what is this: " .. line)
  local list = assert(chains[name], "no chain " .. name .. " for: " .. line)
  local target = rest:match("%-j (ND%-%S+)")
  assert(not target or verb == "D" or chains[target], "no chain " .. tostring(target))
  if verb == "A" then
    list[#list + 1] = rest
  elseif verb == "I" then
    table.insert(list, 1, (rest:gsub("^1 ", "")))
  elseif verb == "D" then
    table.remove(list, assert(find(list, rest), "no such rule: " .. line))
  elseif verb == "X" then
    assert(#list == 0, "not empty: " .. line)
    for other, rules in pairs(chains) do
      for _, rule in ipairs(rules) do
        assert(rule:match("%-j (%S+)") ~= name, name .. " is used in " .. other)
      end
    end
    chains[name] = nil
  else
    error("what is this: " .. line)
  end
end

function Backend.owns() return true end

-- All or nothing, as the kernel does it.
function Backend:restore(text)
  self.restores = self.restores + 1
  if self.broken then error(self.broken, 0) end
  local copy = {}
  for name, chains in pairs(self.tables) do
    copy[name] = {}
    for chain, rules in pairs(chains) do copy[name][chain] = table.move(rules, 1, #rules, 1, {}) end
  end
  local current
  for line in text:gmatch("[^\n]+") do
    if line:sub(1, 1) == "*" then
      current = assert(copy[line:sub(2)])
    elseif line ~= "COMMIT" then
      line_of(current, line)
    end
  end
  self.tables = copy
end

function fake.module(backend, routes)
  local values = { ["net.ipv4.ip_forward"] = "1", ["net.ipv4.tcp_tw_reuse"] = "2",
    ["net.ipv4.ip_local_port_range"] = "32768\t60999" }
  return {
    find = function() return backend end,
    sysctl = function(name, value)
      if value then values[name] = value end
      return values[name]
    end,
    ip = function(...)
      local line = table.concat({ ... }, " ")
      if line:find("route show", 1, true) then return routes or "" end
      return ""
    end,
  }
end

return fake
