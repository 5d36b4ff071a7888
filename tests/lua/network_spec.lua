-- What users would lose if addresses, rules or their repair were wrong. The kernel's part is in
-- tests/e2e/test_network.

local json = require "json"
local task = require "task"
local clock = require "clock"
local fs = require "fs"
local address = require "nd.service.network_address"
local rules = require "nd.service.network_rules"

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local fake = dofile(here .. "/lib/fake_iptables.lua")

local APP = { project = "shop", environment = "production", app = "web" }

local function key(app, port)
  return { project = "shop", environment = "production", app = app or "web", port = port }
end

local function code_of(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  assert.is_table(err, tostring(err))
  return err.code, err
end

local function layout(cidr, instance)
  return assert(address.layout { instance = instance or "3fa2", cidr = cidr or "10.201.0.0/16" })
end

describe("an instance's range", function()
  it("is halved: services below, containers above, the host's own address between", function()
    local l = layout()
    assert.equal("10.201.0.0/17", l.services)
    assert.equal("10.201.128.0/17", l.containers)
    assert.equal("10.201.128.1", l.host)
    assert.equal("10.201.0.1", address.service(l, 1))
    assert.equal("10.201.127.255", address.service(l, l.service_count))
    assert.same({ index = 1, bridge = "nd3fa2-1", subnet = "10.201.128.32/27",
      gateway = "10.201.128.33" }, address.bridge(l, 1))
    assert.equal("10.201.255.224/27", address.bridge(l, l.bridge_count).subnet)
  end)

  it("names bridges that fit the kernel's 15 characters", function()
    local l = layout("10.0.0.0/12", "abcdef")
    assert.is_true(#address.bridge(l, l.bridge_count).bridge <= 15)
  end)

  it("is refused when it is no range, too small, too large or has stray bits", function()
    for _, cidr in ipairs { "", "10.201.0.0", "10.201.0.0/21", "10.0.0.0/11", "10.201.1.0/16",
      "10.201.0.0/33", "256.0.0.0/16", "010.1.0.0/16", "fd00::/64", "10.1/16" } do
      assert.is_nil((address.layout { instance = "3fa2", cidr = cidr }), cidr)
    end
    assert.is_nil((address.layout { instance = "xyz", cidr = "10.201.0.0/16" }))
  end)
end)

describe("the rules", function()
  local l = layout()
  local function model(targets)
    local m = { services = { [1] = { address = "10.201.0.1", port = 80, proto = "tcp",
      targets = targets, comment = 'a "quoted"\nname' } }, bridges = {} }
    for i, group in ipairs { "shop/production", "shop/production", "blog/production" } do
      m.bridges[i] = address.bridge(l, i)
      m.bridges[i].group = group
    end
    return m
  end

  it("share new connections evenly between replicas", function()
    local text = rules.service(l, 1, model { "10.1.1.1:1", "10.1.1.2:1", "10.1.1.3:1" }.services[1])
    for _, part in ipairs { "--probability 0.33333333333 -j DNAT --to-destination 10.1.1.1:1",
      "--probability 0.50000000000 -j DNAT --to-destination 10.1.1.2:1",
      "-p tcp -j DNAT --to-destination 10.1.1.3:1\n" } do
      assert.truthy(text:find(part, 1, true), part)
    end
  end)

  it("share them by weight where there are some", function()
    local service = model { "10.1.1.1:1", "10.1.1.2:1", "10.1.2.1:1" }.services[1]
    service.weights = { ["10.1.1.1:1"] = 47.5, ["10.1.1.2:1"] = 47.5, ["10.1.2.1:1"] = 5 }
    local text = rules.service(l, 1, service)
    for _, part in ipairs { "--probability 0.47500000000 -j DNAT --to-destination 10.1.1.1:1",
      "--probability 0.90476190476 -j DNAT --to-destination 10.1.1.2:1", -- of what the first has left
      "-p tcp -j DNAT --to-destination 10.1.2.1:1\n" } do
      assert.truthy(text:find(part, 1, true), part)
    end
  end)

  it("can't be ended early by a name", function()
    for line in rules.render(l, model {}):gmatch("[^\n]+") do
      assert.truthy(line:find("^[%*:%-C]"), line)
      local _, quotes = line:gsub('"', "")
      assert.truthy(quotes == 0 or quotes == 2, line)
    end
  end)

  it("compare equal with iptables-save's wording of them", function()
    local ours = '-d 10.0.0.1/32 -p tcp -m tcp --dport 80 -m comment --comment "a b" -j ND-3fa2-S1'
    local theirs = "-d 10.0.0.1 -p tcp --dport 80 -j ND-3fa2-S1"
    assert.equal(rules.canonical(theirs), rules.canonical(ours))
    assert.equal(rules.canonical "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
      rules.canonical "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
    assert.equal(rules.canonical "--probability 0.33333333349 -j X",
      rules.canonical "--probability 0.33333333333 -j X")
    assert.not_equal(rules.canonical "! -o a -j X", rules.canonical "-o a -j X")
    assert.not_equal(rules.canonical "-o a -j X", rules.canonical "-o b -j X")
  end)

  it("need nothing once they are there, whatever else is", function()
    local b = fake.new()
    local m = model { "10.1.1.1:1" }
    b:restore((rules.mend(l, m, b:save())))
    assert.is_nil(rules.mend(l, m, b:save()))
    table.insert(b.tables.filter.INPUT, "-p tcp --dport 22 -j ACCEPT")
    table.insert(b.tables.filter.FORWARD, 1, "-j ufw-before-forward")
    table.insert(b.tables.filter.FORWARD, "-j DOCKER-ISOLATION-STAGE-1")
    assert.is_nil(rules.mend(l, m, b:save()))
  end)

  it("come back after anything was taken, changed or put before them", function()
    local m = model { "10.1.1.1:1", "10.1.1.2:1" }
    local harm = {
      function(t) t.nat.PREROUTING = {} end,
      function(t) table.insert(t.nat.PREROUTING, 1, "-p tcp --dport 80 -j REDIRECT") end,
      function(t) table.insert(t.filter["DOCKER-USER"], 1, "-j RETURN") end,
      function(t) table.insert(t.nat.PREROUTING, "-d 10.201.0.0/17 -j ND-3fa2") end,
      function(t) t.nat["ND-3fa2-S1"] = {} end,
      function(t) table.remove(t.nat["ND-3fa2-S1"], 1) end,
      function(t) t.nat["ND-3fa2-S1"][2] = "-p tcp -j DNAT --to-destination 10.1.1.9:1" end,
      function(t) t.nat["ND-3fa2-S9"] = { "-p tcp -j DNAT --to-destination 10.1.1.9:1" } end,
      function(t) table.remove(t.filter["ND-3fa2-F"], 2) end,
      function(t) t.filter.FORWARD = {} end,
      function(t) table.insert(t.filter.FORWARD, 1, "-j DOCKER-ISOLATION-STAGE-1") end,
      function(t) table.insert(t.filter.FORWARD, 1, "-i nd3fa2-1 ! -o nd3fa2-1 -j ACCEPT") end,
      function(t)
        t.filter.FORWARD = {}
        t.filter["DOCKER-USER"] = nil
      end,
      function(t)
        for _, chains in pairs(t) do
          for chain in pairs(chains) do
            chains[chain] = chain:find("^%u+$") and chain ~= "DOCKER" and {} or nil
          end
        end
      end,
    }
    for i, change in ipairs(harm) do
      local b = fake.new()
      b:restore((rules.mend(l, m, b:save())))
      change(b.tables)
      local text, wrong = rules.mend(l, m, b:save())
      assert.truthy(text, "harm " .. i .. " wasn't seen")
      assert.truthy(#wrong > 0)
      b:restore(text)
      assert.is_nil(rules.mend(l, m, b:save()), "harm " .. i .. " wasn't mended")
    end
  end)

  it("leave another instance's jumps where they are, in either order", function()
    local b, other = fake.new(), layout("10.202.0.0/16", "bbbb")
    local m, none = model {}, { services = {}, bridges = {} }
    b:restore((rules.mend(l, m, b:save())))
    b:restore((rules.mend(other, none, b:save())))
    assert.is_nil(rules.mend(l, m, b:save()))
    assert.is_nil(rules.mend(other, none, b:save()))
    assert.same({ { instance = "bbbb", range = "10.202.0.0/17" } }, rules.others(l, b:save()))
    b:restore(rules.clear(other, b:save()))
    assert.is_nil(rules.mend(l, m, b:save()))
  end)

  it("are gone without a trace in the end", function()
    local b, before = fake.new(), fake.new()
    b:restore((rules.mend(l, model { "10.1.1.1:1" }, b:save())))
    b:restore(rules.clear(l, b:save()))
    assert.same(before.tables, b.tables)
    assert.is_nil(rules.clear(l, b:save()))
  end)

  it("grow with the number of bridges, not with its square", function()
    local function size(n)
      local m = { services = {}, bridges = {} }
      for i = 1, n do
        m.bridges[i] = address.bridge(l, i)
        m.bridges[i].group = "one"
      end
      local _, count = rules.render(l, m):gsub("\n", "")
      return count
    end
    assert.equal(size(200) - size(100), size(300) - size(200))
  end)
end)

describe("the network", function()
  local network, backend, docker, dir, flows, forgotten, net, events
  local modules = { "nd.service.iptables", "nd.service.network_host", "nd.service.network",
    "netfilter" }
  local before = {}

  local function new(o)
    o = o or {}
    return network.new { instance = "3fa2", cidr = o.cidr or "10.201.0.0/16", state_dir = dir,
      docker = docker, store = o.store,
      on_event = function(kind, data) events[#events + 1] = { kind = kind, data = data } end }
  end

  local function setup_modules(routes)
    package.loaded["nd.service.iptables"] = fake.module(backend, routes)
    package.loaded["nd.service.network_host"] = nil
    package.loaded["nd.service.network"] = nil
    package.loaded.netfilter = {
      flows = function() return flows end,
      forget = function(f)
        forgotten[#forgotten + 1] = f.within
        return 1
      end,
      watch = function()
        return setmetatable({ recv = function() task.sleep(10000) end },
          { __close = function() end })
      end,
    }
    network = require "nd.service.network"
  end

  before_each(function()
    for _, name in ipairs(modules) do before[name] = package.loaded[name] end
    backend, flows, forgotten, events = fake.new(), {}, {}, {}
    dir = os.tmpname()
    os.remove(dir)
    docker = { networks = {} }
    function docker:network_inspect(name) return self.networks[name] end
    function docker:network_create(spec) self.networks[spec.Name] = spec end
    function docker:network_remove(name) self.networks[name] = nil end
    function docker:network_list()
      local out = {}
      for _, n in pairs(self.networks) do out[#out + 1] = n end
      return out
    end
    setup_modules()
    net = new()
    net:start()
  end)

  after_each(function()
    net:stop()
    fs.remove(dir, { recursive = true })
    for _, name in ipairs(modules) do package.loaded[name] = before[name] end
  end)

  it("gives an app the same service address for its life", function()
    local s = net:service(key())
    assert.equal("10.201.0.1:80", s.at)
    assert.same(s, net:service(key()))
    assert.equal("10.201.0.2:80", net:service(key "api").at)
    assert.equal("10.201.0.3:9000", net:service(key("web", 9000)).at)
    assert.is_nil(net:find_service(key "other"))
  end)

  it("sends new connections to the new targets, to each once, and to none at all", function()
    net:service(key())
    net:switch(key(), { "10.201.128.35:80", "10.201.128.34:80", "10.201.128.35:80" })
    assert.equal(2, #backend.tables.nat["ND-3fa2-S1"])
    assert.same({ "10.201.128.34:80", "10.201.128.35:80" }, net:targets(key()))
    net:switch(key(), {})
    assert.equal(0, #backend.tables.nat["ND-3fa2-S1"])
  end)

  it("lets a change through while the rules are repaired without a pause", function()
    net:service(key())
    local save, done = backend.save, false
    function backend.save(self)
      task.sleep(1) -- as long as iptables-save takes, others can come
      return save(self)
    end
    local hog = task.spawn("hog", function()
      for _ = 1, 200 do
        if done then return true end
        net:repair()
      end
    end)
    task.sleep(5)
    net:switch(key(), { "10.201.128.34:80" })
    done = true
    assert.is_true(hog:join())
  end)

  it("refuses what isn't an address and port", function()
    net:service(key())
    for _, bad in ipairs { "web:80", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:80 -j X",
      "10.0.0.1:80\n-F" } do
      assert.equal("bad_target", (code_of(net.switch, net, key(), { bad })))
    end
    net:switch(key "other", {})
    assert.is_nil(net:find_service(key "other"))
  end)

  it("still points at the old instances when a switch was refused", function()
    net:service(key())
    net:switch(key(), { "10.201.128.34:80" })
    backend.broken = task.error { code = "netfilter_failed", message = "no" }
    assert.equal("netfilter_failed", (code_of(net.switch, net, key(), { "10.201.128.35:80" })))
    assert.same({ "10.201.128.34:80" }, net:targets(key()))
    backend.broken = nil
    net:repair()
    assert.truthy(backend.tables.nat["ND-3fa2-S1"][1]:find("10.201.128.34:80", 1, true))
  end)

  it("lets a freed service address rest before another app gets it", function()
    local small = new { cidr = "10.99.0.0/20" }
    net:stop()
    backend.tables = fake.new().tables
    net = small
    net:start()
    local count = small.layout.service_count
    for i = 1, count do small.services["p/e/" .. i] = { index = i, address = address.service(
      small.layout, i), port = 80, proto = "tcp", targets = {}, comment = "x" } end
    local code, err = code_of(small.service, small, key())
    assert.equal("range_full", code)
    assert.truthy(err.hint)
    small.services["p/e/7"].freed_at = clock.now()
    assert.equal("range_full", (code_of(small.service, small, key())))
    small.services["p/e/7"].freed_at = clock.now() - 121000
    flows[address.service(small.layout, 7)] = 1 -- a connection still names it
    assert.equal("range_full", (code_of(small.service, small, key())))
    flows = {}
    assert.equal(7, small:service(key()).index)
  end)

  it("gives a removed app its address back when it returns soon", function()
    local at = net:service(key()).at
    net:service(key "b")
    net:switch(key(), { "10.201.128.34:80" })
    net:remove(key())
    assert.is_nil(backend.tables.nat["ND-3fa2-S1"])
    assert.is_nil(net:find_service(key()))
    assert.equal(at, net:service(key()).at)
    assert.same({}, net:targets(key()))
  end)

  it("makes one Docker network for an app, once, with the policy before it", function()
    local rules_at_creation
    function docker:network_create(spec)
      rules_at_creation = backend.tables.filter["ND-3fa2-G1"]
      self.networks[spec.Name] = spec
    end
    local b = net:ensure_bridge(APP)
    assert.equal("nd-3fa2-shop.production.web", b.network)
    assert.truthy(rules_at_creation)
    local spec = docker.networks[b.network]
    assert.equal("nd3fa2-1", spec.Options["com.docker.network.bridge.name"])
    assert.equal("10.201.128.32/27", spec.IPAM.Config[1].Subnet)
    assert.equal("3fa2", spec.Labels["nextdeploy.instance"])
    assert.equal(b.subnet, net:ensure_bridge(APP).subnet)
    docker.networks = {}
    net:ensure_bridge(APP) -- removed behind our back
    assert.truthy(docker.networks[b.network])
    docker.networks[b.network].IPAM.Config[1].Subnet = "10.1.0.0/24"
    net.bridges["shop/production/web"].freed_at = 1
    assert.equal("bridge_taken", (code_of(net.ensure_bridge, net, APP)))
  end)

  it("never gives two containers one address, and the one longest free first", function()
    net:ensure_bridge(APP)
    local a = net:container_address(APP, {})
    local b = net:container_address(APP, {})
    assert.equal("10.201.128.34", a)
    assert.equal("10.201.128.35", b)
    net:container_gone(a)
    assert.equal("10.201.128.36", net:container_address(APP, { b }))
    assert.same({ a }, forgotten)
    flows["10.201.128.37"] = 3
    assert.equal("10.201.128.38", net:container_address(APP, { b, "10.201.128.36" }))
  end)

  it("takes an address with stale connections only when no other is left, and cuts them", function()
    net:ensure_bridge(APP)
    local used = {}
    for n = 35, 62 do used[#used + 1] = "10.201.128." .. n end
    flows["10.201.128.34"] = 2
    assert.equal("10.201.128.34", net:container_address(APP, used))
    assert.same({ "10.201.128.34" }, forgotten)
    used[#used + 1] = "10.201.128.34"
    assert.equal("bridge_full", (code_of(net.container_address, net, APP, used)))
  end)

  it("never gives out an address that a rule still names", function()
    net:ensure_bridge(APP)
    net:service(key())
    net:switch(key(), { "10.201.128.34:80" })
    assert.equal("10.201.128.35", net:container_address(APP, {}))
  end)

  it("knows after a restart what it knew before", function()
    net:ensure_bridge(APP)
    local at = net:service(key()).at
    net:switch(key(), { "10.201.128.34:80" })
    net:stop()
    backend.tables = fake.new().tables -- as after a reboot
    net = new()
    net:restore()
    assert.truthy(backend.tables.nat["ND-3fa2-S1"][1]:find("10.201.128.34:80", 1, true))
    assert.equal(at, net:service(key()).at)
    assert.equal("nd3fa2-1", net:ensure_bridge(APP).bridge)
    local empty = fake.new() -- rules.v4 is for a host on which nothing has run yet
    empty.tables = { nat = { PREROUTING = {}, OUTPUT = {}, POSTROUTING = {} },
      filter = { INPUT = {}, OUTPUT = {}, FORWARD = {} } }
    empty:restore(fs.read(dir .. "/net/rules.v4"))
    backend.tables = empty.tables
    assert.is_nil(net:repair())
  end)

  it("takes addresses from the store, and targets from the file only where both agree", function()
    local rows = { service = {}, bridge = {} }
    local store = { all = function(_, kind) return json.decode(json.encode(rows[kind])) end,
      put = function(_, kind, k, row) rows[kind][k] = row end }
    net:stop()
    net = new { store = store }
    net:start()
    local at = net:service(key()).at
    net:switch(key(), { "10.201.128.34:80" })
    assert.equal(1, rows.service["shop/production/web/web/80"].index)
    assert.is_nil(rows.service["shop/production/web/web/80"].targets)
    net:stop()
    net = new { store = store }
    net:start()
    assert.equal(at, net:service(key()).at)
    assert.same({ "10.201.128.34:80" }, net:targets(key()))
    net:stop()
    rows.service = {} -- a database from before the deploy
    net = new { store = store }
    net:start()
    assert.is_nil(net:find_service(key()))
    assert.is_nil(backend.tables.nat["ND-3fa2-S1"])
  end)

  it("refuses a range that something else on the host uses", function()
    net:stop()
    for _, route in ipairs { "10.201.4.0/24 dev eth1 scope link",
      "10.0.0.0/8 via 192.0.2.1 dev tun0", "local 10.201.128.33 dev nd9999-1 table local" } do
      setup_modules(route .. "\n")
      local code, err = code_of(function() new():start() end)
      assert.equal("range_overlap", code)
      assert.truthy(err.hint)
    end
    setup_modules("default via 192.0.2.1 dev eth0\n"
      .. "10.201.0.0/17 dev lo scope link src 10.201.128.1\n"
      .. "10.201.128.32/27 dev nd3fa2-1 proto kernel\nbroadcast 10.201.128.63 dev nd3fa2-1\n"
      .. "local 10.201.128.1 dev lo table local\nlocal ::1 dev lo\n")
    net = new()
    net:start()
  end)

  it("refuses a range that another instance's rules use", function()
    net:stop()
    local other = network.new { instance = "aaaa", cidr = "10.200.0.0/15", state_dir = dir .. "-2" }
    local code, err = code_of(other.start, other)
    assert.equal("range_overlap", code)
    assert.truthy(err.message:find("3fa2", 1, true))
  end)

  it("leaves nothing behind when it is taken down", function()
    net:ensure_bridge(APP)
    net:service(key())
    net:down()
    assert.same(fake.new().tables, backend.tables)
    assert.same({}, docker.networks)
    assert.is_false(fs.exists(dir .. "/net"))
    assert.equal("2", package.loaded["nd.service.iptables"].sysctl "net.ipv4.tcp_tw_reuse")
  end)

  it("says what is wrong to `ndctl doctor`", function()
    local bad = {}
    backend.tables.nat.PREROUTING = {}
    for _, c in ipairs(net:check()) do
      if not c.ok then bad[c.name] = c.hint end
    end
    assert.truthy(bad["network.rules"])
    net:repair()
    for _, c in ipairs(net:check()) do
      if c.name == "network.rules" then assert.is_true(c.ok) end
    end
  end)
end)
