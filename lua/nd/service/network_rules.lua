-- network_rules.lua - the text of our netfilter rules, and how it compares with what is there.
--
-- Everything is iptables-restore text, used with --noflush: a chain that is declared is replaced,
-- whole or not at all, and nobody else's is touched. Chains of the instance with the short id ID:
--
--   nat     ND-ID        dispatch: one rule a service address  (from PREROUTING and OUTPUT, first)
--           ND-ID-S<n>   service n: DNAT to its healthy instances; empty when there is none
--           ND-ID-H      published ports, by who comes  (from PREROUTING, for the host's addresses)
--           ND-ID-L      published ports, for the host itself  (from OUTPUT, likewise)
--           ND-ID-P      masquerade of hairpins and of what leaves the host  (from POSTROUTING)
--   filter  ND-ID-R      reject at once, so that callers fail fast; a held service drops instead, and
--                        callers try again
--           ND-ID-F      policy between bridges                     (from DOCKER-USER, first)
--           ND-ID-G<n>   the bridges of one project and environment
--           ND-ID-I      what reaches the host itself               (from INPUT)
--
-- A packet whose destination is still a service address when it gets to `filter` was claimed by no
-- service chain: it is rejected, in OUTPUT for the host's own callers, in FORWARD for containers.
--
-- A model is {services={[n]={address=,port=,proto=,targets={"ip:port"},weights={[target]=number}|nil,
--             comment=,published={{port=,from={cidr}}}|nil, held=}},
--             bridges={[n]={bridge=,subnet=,group=}}} with n the index of address or bridge.
-- Pure functions; nothing here waits.

local rules = {}

-- The keys of a table, in order.
function rules.sorted(t)
  local keys = {}
  for k in pairs(t) do keys[#keys + 1] = k end
  table.sort(keys)
  return keys
end

local sorted = rules.sorted

-- The model of what is in use. net: {services=, bridges=} as network.lua has them
function rules.model(net)
  local services, bridges = {}, {}
  for _, s in pairs(net.services) do
    if not s.freed_at then services[s.index] = s end
  end
  for _, b in pairs(net.bridges) do
    if not b.freed_at then bridges[b.index] = b end
  end
  return { services = services, bridges = bridges }
end

-- Where we hang our chains: table, chain, what follows "-A CHAIN ".
function rules.jumps(layout)
  local c, s = layout.chain, layout.services
  return {
    { table = "nat", chain = "PREROUTING", rule = "-d " .. s .. " -j " .. c },
    { table = "nat", chain = "OUTPUT", rule = "-d " .. s .. " -j " .. c },
    { table = "nat", chain = "PREROUTING",
      rule = "! -i " .. layout.bridges .. " -m addrtype --dst-type LOCAL -j " .. c .. "-H" },
    { table = "nat", chain = "OUTPUT",
      rule = "! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j " .. c .. "-L" },
    { table = "nat", chain = "POSTROUTING", rule = "-j " .. c .. "-P" },
    { table = "filter", chain = "INPUT", rule = "-j " .. c .. "-I" },
    { table = "filter", chain = "OUTPUT", rule = "-d " .. s .. " -j " .. c .. "-R" },
    { table = "filter", chain = "DOCKER-USER", rule = "-j " .. c .. "-F" },
  }
end

function rules.chain_of(layout, n) return layout.chain .. "-S" .. n end

-- The dispatch rule of service n, without "-A CHAIN ".
function rules.dispatch(layout, n, s)
  local comment = ""
  if s.comment then
    -- iptables takes at most 255 bytes; a quote or a line break would end the rule early.
    comment = ' -m comment --comment "' .. s.comment:gsub("[^%w%p ]", "?"):gsub('["\\]', "?")
      :sub(1, 200) .. '"'
  end
  return string.format("-d %s/32 -p %s -m %s --dport %d%s -j %s", s.address, s.proto, s.proto,
    s.port, comment, rules.chain_of(layout, n))
end

-- Declares and fills the chain of service n: the whole of a switch.
function rules.service(layout, n, s)
  local chain = rules.chain_of(layout, n)
  local out = { ":" .. chain .. " - [0:0]" }
  local targets = s.held and {} or s.targets
  local function weight(target) return s.weights and s.weights[target] or 1 end
  local left = 0
  for _, target in ipairs(targets) do left = left + weight(target) end
  for i, target in ipairs(targets) do
    local chance = ""
    if i < #targets then -- the i-th rule sees what the ones before it left
      chance = string.format(" -m statistic --mode random --probability %.11f", weight(target) / left)
    end
    left = left - weight(target)
    out[#out + 1] = string.format("-A %s -p %s%s -j DNAT --to-destination %s", chain, s.proto,
      chance, target)
  end
  return table.concat(out, "\n") .. "\n"
end

-- Services as they are to be, in one transaction.
function rules.switch(layout, services)
  local chains = {}
  for i, s in ipairs(services) do chains[i] = rules.service(layout, s.index, s) end
  return "*nat\n" .. table.concat(chains) .. "COMMIT\n"
end

-- The chain that what no service claimed ends in.
local function reject_chain(layout, services)
  local chain = layout.chain .. "-R"
  local out = { ":" .. chain .. " - [0:0]" }
  for _, n in ipairs(sorted(services)) do
    local s = services[n]
    if s.held then
      out[#out + 1] = ("-A %s -d %s/32 -p %s -m %s --dport %d -j DROP"):format(chain, s.address, s.proto,
        s.proto, s.port)
    end
  end
  out[#out + 1] = "-A " .. chain .. " -p tcp -j REJECT --reject-with tcp-reset"
  out[#out + 1] = "-A " .. chain .. " -j REJECT --reject-with icmp-port-unreachable"
  return table.concat(out, "\n") .. "\n"
end

-- Some services begin or end to be held. In between they are never rejected.
function rules.hold(layout, model, changed, on)
  local drop = "*filter\n" .. reject_chain(layout, model.services) .. "COMMIT\n"
  local chains = rules.switch(layout, changed)
  return on and drop .. chains or chains .. drop
end

-- A service that wasn't there: its chain and its dispatch rule in one transaction.
function rules.add(layout, n, s)
  return "*nat\n" .. rules.service(layout, n, s) .. "-A " .. layout.chain .. " "
    .. rules.dispatch(layout, n, s) .. "\nCOMMIT\n"
end

function rules.remove(layout, n, s)
  local chain = rules.chain_of(layout, n)
  return "*nat\n:" .. chain .. " - [0:0]\n-D " .. layout.chain .. " "
    .. rules.dispatch(layout, n, s) .. "\n-X " .. chain .. "\nCOMMIT\n"
end

local function published(layout, model, out)
  local c = layout.chain
  for _, n in ipairs(sorted(model.services)) do
    local s = model.services[n]
    for _, p in ipairs(s.published or {}) do
      local rule = ("-p %s -m %s --dport %d -j %s"):format(s.proto, s.proto, p.port, rules.chain_of(layout, n))
      for _, from in ipairs(p.from) do
        out[#out + 1] = ("-A %s-H%s %s"):format(c, from == "0.0.0.0/0" and "" or " -s " .. from, rule)
      end
      out[#out + 1] = ("-A %s-L %s"):format(c, rule)
    end
  end
end

local function nat_chains(layout, model, out)
  local c = layout.chain
  for _, suffix in ipairs { "", "-P", "-H", "-L" } do out[#out + 1] = ":" .. c .. suffix .. " - [0:0]" end
  for _, n in ipairs(sorted(model.services)) do
    out[#out + 1] = rules.service(layout, n, model.services[n]):sub(1, -2)
  end
  for _, n in ipairs(sorted(model.services)) do
    out[#out + 1] = "-A " .. c .. " " .. rules.dispatch(layout, n, model.services[n])
  end
  published(layout, model, out)
  for _, n in ipairs(sorted(model.bridges)) do
    local subnet = model.bridges[n].subnet
    out[#out + 1] = string.format("-A %s-P -s %s -d %s -m conntrack --ctstate DNAT -j MASQUERADE",
      c, subnet, subnet)
  end
  -- Docker is told not to do this for our bridges: it would hide callers behind the gateway, and
  -- wouldn't come back after a flush.
  out[#out + 1] = string.format("-A %s-P -s %s ! -o %s -j MASQUERADE", c, layout.containers,
    layout.bridges)
end

local function filter_chains(layout, model, out)
  local c, ours = layout.chain, layout.bridges
  local groups, first = {}, {}
  for _, n in ipairs(sorted(model.bridges)) do
    local group = model.bridges[n].group
    if not groups[group] then
      groups[group] = {}
      first[group] = n -- the lowest index names the group's chain
    end
    table.insert(groups[group], n)
  end
  local add = function(...) out[#out + 1] = string.format(...) end
  out[#out + 1] = reject_chain(layout, model.services):sub(1, -2)
  for _, suffix in ipairs { "F", "I" } do add(":%s-%s - [0:0]", c, suffix) end
  for _, group in ipairs(sorted(groups)) do add(":%s-G%d - [0:0]", c, first[group]) end
  -- A segment that conntrack can't place isn't translated back: the host would answer it with a
  -- reset and cut a good connection.
  add("-A %s-I -i %s -m conntrack --ctstate INVALID -j DROP", c, ours)
  add("-A %s-I -d %s -j %s-R", c, layout.services, c)
  add("-A %s-F -i %s -m conntrack --ctstate INVALID -j DROP", c, ours)
  add("-A %s-F -i %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", c, ours)
  add("-A %s-F -o %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", c, ours)
  add("-A %s-F -d %s -j %s-R", c, layout.services, c)
  for _, group in ipairs(sorted(groups)) do
    for _, n in ipairs(groups[group]) do
      add("-A %s-F -i %s -j %s-G%d", c, model.bridges[n].bridge, c, first[group])
      add("-A %s-G%d -o %s -j ACCEPT", c, first[group], model.bridges[n].bridge)
    end
  end
  for _, n in ipairs(sorted(model.services)) do -- whoever got through to a published port may
    local s = model.services[n]
    for _, p in ipairs(s.published or {}) do
      add("-A %s-F -o %s -p %s -m conntrack --ctstate DNAT ! --ctorigdst %s --ctorigdstport %d -j ACCEPT",
        c, ours, s.proto, layout.services, p.port)
    end
  end
  -- With br_netfilter the kernel sends a reset past the translation, with the instance's address
  -- as its source, and the caller ignores it; the ICMP error is translated.
  add("-A %s-F -o %s -m conntrack --ctstate DNAT -j REJECT --reject-with icmp-port-unreachable",
    c, ours)
  add("-A %s-F -o %s -j %s-R", c, ours, c)
end

-- Every chain of ours and its rules, without the jumps: text for iptables-restore --noflush.
function rules.render(layout, model)
  local out = { "*nat" }
  nat_chains(layout, model, out)
  out[#out + 1] = "COMMIT"
  out[#out + 1] = "*filter"
  filter_chains(layout, model, out)
  out[#out + 1] = "COMMIT"
  return table.concat(out, "\n") .. "\n"
end

-- The same with the jumps, for a host on which nothing has run yet.
function rules.file(layout, model)
  return (rules.render(layout, model):gsub("%*(%l+)\n(.-)COMMIT\n", function(name, chains)
    local out = { "*" .. name .. "\n" .. chains }
    if name == "filter" then
      out[#out + 1] = ":DOCKER-USER - [0:0]\n-I FORWARD 1 -j DOCKER-USER\n"
    end
    for _, jump in ipairs(rules.jumps(layout)) do
      if jump.table == name then
        out[#out + 1] = "-I " .. jump.chain .. " 1 " .. jump.rule .. "\n"
      end
    end
    out[#out + 1] = "COMMIT\n"
    return table.concat(out)
  end))
end

-- One rule in a form in which iptables-save's wording and ours are equal: options in sorted order,
-- without matches' names, comments and "/32", probabilities to four digits.
local function canonical(rule)
  local groups, group = {}, nil
  local quoted = rule:gsub('"([^"]*)"', function(s) return (s:gsub(" ", "\1")) end)
  local negated = false
  for word in quoted:gmatch("%S+") do
    if word == "!" then
      negated = true
    elseif word:find("^%-") then
      group = { negated and "!" .. word or word }
      groups[#groups + 1] = group
      negated = false
    elseif group then
      group[#group + 1] = word
    end
  end
  local out = {}
  for _, g in ipairs(groups) do
    local name, value = g[1], g[2] or ""
    if name ~= "-m" and name ~= "--comment" then
      if name == "--probability" then value = string.format("%.4f", tonumber(value) or 0) end
      if name == "--ctstate" then
        local states = {}
        for state in value:gmatch("[^,]+") do states[#states + 1] = state end
        table.sort(states)
        value = table.concat(states, ",")
      end
      out[#out + 1] = name .. " " .. value:gsub("/32$", "")
    end
  end
  table.sort(out)
  return table.concat(out, " ")
end
rules.canonical = canonical

-- iptables-save's (or our own) text -> {[table]={[chain]={rule, ...}}}, rules without "-A CHAIN ".
function rules.parse(text)
  local tables, current = {}, nil
  for line in text:gmatch("[^\n]+") do
    local first = line:sub(1, 1)
    if first == "*" then
      local name = line:match("^%*(%S+)")
      current = tables[name] or {}
      tables[name] = current
    elseif current and first == ":" then
      local chain = line:match("^:(%S+)")
      current[chain] = current[chain] or {}
    elseif current and line:find("^%-A ") then
      local chain, rule = line:match("^%-A (%S+) ?(.*)$")
      current[chain] = current[chain] or {}
      table.insert(current[chain], rule)
    end
  end
  return tables
end

local function ours(layout, chain)
  return chain == layout.chain or chain:sub(1, #layout.chain + 1) == layout.chain .. "-"
end

local function same_chain(wanted, found)
  if not found or #wanted ~= #found then return false end
  for i, rule in ipairs(wanted) do
    if rule ~= found[i] and canonical(rule) ~= canonical(found[i]) then return false end
  end
  return true
end

-- Lines that bring one jump to the front. Other instances' jumps may stand before it: two daemons
-- that both insisted on the first place would fight for ever.
local function fix_jump(jump, chains, out)
  local wanted, fine, seen = canonical(jump.rule), false, 0
  local only_us = true
  for _, rule in ipairs(chains[jump.chain] or {}) do
    if canonical(rule) == wanted then
      seen = seen + 1
      fine = fine or only_us
    elseif not rule:find("%-j ND%-") then
      only_us = false
    end
  end
  if fine and seen == 1 then return end
  for _ = 1, seen do out[#out + 1] = "-D " .. jump.chain .. " " .. jump.rule end
  out[#out + 1] = "-I " .. jump.chain .. " 1 " .. jump.rule
end

-- The same for Docker's own jump to DOCKER-USER, which must come before Docker's other rules and
-- all about our bridges: Docker 20.10 leaves it last when it starts with live containers.
local function fix_docker_user(layout, found, out)
  local ours_at, seen, early = "nd" .. layout.instance .. "-", 0, true
  local fine = false
  for _, rule in ipairs(found.FORWARD or {}) do
    if rule == "-j DOCKER-USER" then
      seen = seen + 1
      fine = fine or early
    elseif rule:find("-j DOCKER", 1, true) or rule:find(ours_at, 1, true) then
      early = false
    end
  end
  if fine then return end
  for _ = 1, seen do out[#out + 1] = "-D FORWARD -j DOCKER-USER" end
  out[#out + 1] = "-I FORWARD 1 -j DOCKER-USER"
end

-- The lines that mend one table; adds the names of what was wrong to `wrong`.
local function mend_table(layout, name, found, wanted, rendered, all, wrong)
  local out, stale, differs = {}, {}, false
  for chain, list in pairs(wanted) do
    if all or not same_chain(list, found[chain]) then
      wrong[#wrong + 1] = chain
      differs = true
    end
  end
  for chain in pairs(found) do
    if ours(layout, chain) and not wanted[chain] then
      stale[#stale + 1] = chain
      wrong[#wrong + 1] = chain
      differs = true
    end
  end
  table.sort(stale)
  for _, chain in ipairs(stale) do out[#out + 1] = ":" .. chain .. " - [0:0]" end
  if differs then -- all chains of the table, since they refer to each other
    for line in rendered:match("%*" .. name .. "\n(.-)COMMIT"):gmatch("[^\n]+") do
      out[#out + 1] = line
    end
  end
  local function note(chain, fn, ...)
    local length = #out
    fn(...)
    if #out > length then wrong[#wrong + 1] = chain end
  end
  if name == "filter" then
    if not found["DOCKER-USER"] then out[#out + 1] = ":DOCKER-USER - [0:0]" end
    note("FORWARD", fix_docker_user, layout, found, out)
  end
  for _, jump in ipairs(rules.jumps(layout)) do
    if jump.table == name then note(jump.chain, fix_jump, jump, found, out) end
  end
  for _, chain in ipairs(stale) do out[#out + 1] = "-X " .. chain end
  return out
end

-- Compares what iptables-save printed with the model. Returns the text that mends it, and a list
-- of what was wrong; nil when nothing is. `all` rewrites every chain whatever is there.
function rules.mend(layout, model, saved, all)
  local there = rules.parse(saved)
  local rendered = rules.render(layout, model)
  local wanted = rules.parse(rendered)
  local text, wrong = {}, {}
  for _, name in ipairs { "nat", "filter" } do
    local out = mend_table(layout, name, there[name] or {}, wanted[name], rendered, all, wrong)
    if #out > 0 then
      text[#text + 1] = "*" .. name .. "\n" .. table.concat(out, "\n") .. "\nCOMMIT\n"
    end
  end
  if #wrong == 0 then return nil end
  table.sort(wrong)
  return table.concat(text), wrong
end

-- Text that removes every trace of the instance from what iptables-save printed; nil: none there.
function rules.clear(layout, saved)
  local text = {}
  for name, chains in pairs(rules.parse(saved)) do
    local declare, out, drop = {}, {}, {}
    for chain, list in pairs(chains) do
      if ours(layout, chain) then
        declare[#declare + 1] = ":" .. chain .. " - [0:0]"
        drop[#drop + 1] = "-X " .. chain
      else
        for _, rule in ipairs(list) do
          if ours(layout, rule:match("%-j (%S+)") or "") then
            out[#out + 1] = "-D " .. chain .. " " .. rule
          end
        end
      end
    end
    if #declare + #out > 0 then
      table.sort(declare)
      table.sort(out)
      table.sort(drop)
      text[#text + 1] = "*" .. name .. "\n" .. table.concat(declare, "\n") .. "\n"
        .. table.concat(out, "\n") .. (#out > 0 and "\n" or "") .. table.concat(drop, "\n")
        .. "\nCOMMIT\n"
    end
  end
  table.sort(text)
  return #text > 0 and table.concat(text) or nil
end

-- Other instances of NextDeploy with rules here: {{instance=, range=}, ...}.
function rules.others(layout, saved)
  local out = {}
  for _, rule in ipairs((rules.parse(saved).nat or {}).PREROUTING or {}) do
    local range, other = rule:match("%-d (%S+).* %-j ND%-(%x+)$")
    if range and other ~= layout.instance then
      out[#out + 1] = { instance = other, range = range }
    end
  end
  return out
end

return rules
