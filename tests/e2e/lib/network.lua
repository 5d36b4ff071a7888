-- What test_network checks, inside the other host's network namespace: the real kernel, a real
-- Docker, real connections.

local clock = require "clock"
local docker = require "docker"
local fs = require "fs"
local json = require "json"
local netfilter = require "netfilter"
local process = require "process"
local task = require "task"
local network = require "nd.service.network"
local network_restore = require "nd.service.network_restore"

local HOST, SOCKET, E2E = os.getenv "ND_HOST", os.getenv "ND_HOST_SOCKET", os.getenv "ND_E2E"
local pid = fs.read("/proc/self/stat"):match("^%d+")
local bin = process.run { argv = { "readlink", "/proc/" .. pid .. "/exe" } }.stdout:match("^(.*)/")
local engine = docker.connect { socket = SOCKET }

local function run(...)
  local r = process.run { argv = { ... }, timeout_ms = 60000 }
  assert(r.status == 0, table.concat({ ... }, " ") .. ": " .. r.stderr)
  return r.stdout
end

-- A function of lib/second_host.sh.
local function host(line)
  return run("bash", "--norc", "-c",
    ("source %s/../lib.sh; source %s/lib/second_host.sh; %s"):format(E2E, E2E, line))
end

local function wait_for(what, fn, seconds)
  local deadline = clock.monotonic() + (seconds or 10) * 1000
  while clock.monotonic() < deadline do
    local ok, value = pcall(fn)
    if ok and value then return value end
    task.sleep(5)
  end
  error("gave up waiting for " .. what)
end

-- curl, in the namespace of the container `from`, of the LAN's neighbour ("lan"), or here (nil).
local function curl(from, url, seconds)
  local argv = { "curl", "-s", "-m", "5", "--connect-timeout", tostring(seconds or 5), url }
  if from == "lan" then
    argv = { "nsenter", "--net=/run/netns/" .. HOST .. "l", table.unpack(argv) }
  elseif from then
    argv = { "nsenter", "--net=/proc/" .. engine:inspect(from).State.Pid .. "/ns/net",
      table.unpack(argv) }
  end
  local began = clock.monotonic()
  local r = process.run { argv = argv, timeout_ms = 20000 }
  return r.stdout:gsub("%s+$", ""), r.status, clock.monotonic() - began
end

local REFUSED = 7 -- curl's status

local function key(app, project, proto)
  return { project = project or "shop", environment = "production", app = app, proto = proto }
end

describe("service addresses", function()
  local dir, net, events, addresses = nil, nil, {}, {}

  local function new(o)
    o = o or {}
    return network.new { instance = o.instance or "3fa2", cidr = o.cidr or "10.201.0.0/16",
      state_dir = o.dir or dir, docker = engine,
      on_event = function(kind, data) events[#events + 1] = { kind = kind, data = data } end }
  end

  local function repaired()
    local chains = {}
    for _, e in ipairs(events) do
      if e.kind == "network.repaired" then
        for _, c in ipairs(e.data.chains) do chains[#chains + 1] = c end
      end
      assert.not_equal("network.failed", e.kind, e.data.error and tostring(e.data.error))
    end
    return chains
  end

  local function start(name, app, version, env)
    local b = net:ensure_bridge(app)
    local ip = net:container_address(app, {})
    addresses[name] = ip
    local list = json.array { "VERSION=" .. version }
    for k, v in pairs(env or {}) do list[#list + 1] = k .. "=" .. v end
    engine:create(name, { Image = "nd-net-sample", Env = list,
      Labels = { ["nextdeploy.instance"] = "3fa2" }, HostConfig = { NetworkMode = b.network },
      NetworkingConfig = { EndpointsConfig = { [b.network] = {
        IPAMConfig = { IPv4Address = ip } } } } })
    engine:start(name)
    wait_for(name, function() return curl(nil, "http://" .. ip .. ":8080/") == version end)
    return ip .. ":8080"
  end

  local function stop(name)
    engine:remove(name, { force = true })
    net:container_gone(addresses[name])
  end

  local function load(url, seconds, ...)
    return task.spawn("load", process.run, { argv = { bin .. "/nd-load", "--json", "--url", url,
      "--seconds", tostring(seconds), ... }, timeout_ms = 60000 })
  end

  local shop, api, blog = key "web", key("api"), key("web", "blog")
  local at, v1, v2

  setup(function()
    dir = os.tmpname()
    os.remove(dir)
    net = new()
    net:start()
    at = "http://" .. net:service(shop).at
    v1 = start("shop1", shop, "v1")
    v2 = start("shop2", shop, "v2")
    net:switch(shop, { v1 })
    net:switch(api, { start("api1", api, "api") })
    net:switch(blog, { start("blog1", blog, "blog") })
  end)

  teardown(function()
    for _, c in ipairs(engine:list { all = true }) do engine:remove(c.Id, { force = true }) end
    net:down()
    fs.remove(dir, { recursive = true })
  end)

  before_each(function() events = {} end)

  it("lead to the instances, from the host, whichever were chosen last", function()
    assert.equal("v1", (curl(nil, at)))
    net:switch(shop, { v2 })
    assert.equal("v2", (curl(nil, at)))
    net:switch(shop, { v1, v2 })
    local seen = {}
    for _ = 1, 40 do
      local v = curl(nil, at)
      seen[v] = (seen[v] or 0) + 1
    end
    assert.equal(40, seen.v1 + seen.v2)
    assert.truthy(seen.v1 > 5 and seen.v2 > 5)
    net:switch(shop, { v1 })
  end)

  it("move new connections at a switch and leave established ones alone", function()
    local running = load(at .. "/", 2, "--get", "2", "--new", "2", "--ws", "3")
    task.sleep(500)
    for i = 1, 10 do net:switch(shop, { i % 2 == 1 and v2 or v1 }) end
    net:switch(shop, { v2 })
    local report = json.decode(running:join(20000).stdout)
    assert.equal(0, report.failed)
    assert.equal(0, report.cut)
    local answers = {}
    for _, v in ipairs(report.versions) do answers[v.version] = v.answers end
    assert.truthy(answers.v1 > 10 and answers.v2 > 10)
    net:switch(shop, { v1 })
  end)

  it("see the caller's own address, and the host's where the host calls", function()
    assert.equal("10.201.128.1", (curl(nil, at .. "/peer"):match("^[^:]+")))
    assert.equal(addresses.api1, (curl("api1", at .. "/peer"):match("^[^:]+")))
  end)

  it("let a container call its own service, and its siblings'", function()
    assert.equal("v1", (curl("shop1", at)))
    assert.equal(net:ensure_bridge(shop).gateway, (curl("shop1", at .. "/peer"):match("^[^:]+")))
    assert.equal("v1", (curl("shop2", at)))
    assert.equal("api", (curl("shop1", "http://" .. net:service(api).at)))
    assert.equal("v1", (curl("api1", at)))
  end)

  it("refuse at once what nobody serves, to the host and to containers", function()
    local empty = key "empty"
    local nobody = { "http://10.201.77.77", at .. "1", "http://" .. net:service(empty).at }
    for _, url in ipairs(nobody) do
      for _, from in ipairs { false, "shop1", "blog1" } do
        local _, status, ms = curl(from or nil, url)
        assert.equal(REFUSED, status, url)
        assert.is_true(ms < 1000, ms)
      end
    end
    net:remove(empty)
  end)

  it("are refused to other projects, by service address and directly", function()
    for _, url in ipairs { at, "http://" .. v1, "http://" .. v2 } do
      local _, status = curl("blog1", url, 3)
      assert.equal(REFUSED, status, url)
    end
    local _, status = curl("shop1", "http://" .. net:service(blog).at, 3)
    assert.equal(REFUSED, status)
    assert.equal("blog", (curl("blog1", "http://" .. net:service(blog).at)))
  end)

  it("aren't reached from the network outside, though it has a route", function()
    for _, url in ipairs { at, "http://" .. v1 } do
      local _, status = curl("lan", url, 3)
      assert.equal(REFUSED, status, url)
    end
  end)

  it("don't keep containers from calling out, as the host", function()
    local outside = task.spawn("outside", process.run, { argv = { "nsenter",
      "--net=/run/netns/" .. HOST .. "l", bin .. "/nd-sample" }, env = { PORT = "9000" } })
    local ok, err = pcall(function()
      wait_for("the neighbour", function() return curl(nil, "http://192.0.2.1:9000/") ~= "" end)
      assert.equal("192.0.2.10", (curl("shop1", "http://192.0.2.1:9000/peer"):match("^[^:]+")))
    end)
    outside:cancel()
    outside:wait()
    if not ok then error(err, 0) end
  end)

  it("cost no look at the rules when the change was our own", function()
    local saves, save = 0, net.backend.save
    net.backend.save = function(...)
      saves = saves + 1
      return save(...)
    end
    for _ = 1, 5 do net:switch(shop, { v1 }) end
    task.sleep(150)
    net.backend.save = nil
    assert.equal(0, saves)
  end)

  it("are back within a second when somebody flushes all rules", function()
    run("nft", "flush", "ruleset")
    local began = clock.monotonic()
    wait_for("the service", function() return curl(nil, at, 0.02) == "v1" end, 3)
    local took = clock.monotonic() - began
    print(("# flush repaired after %d ms"):format(took))
    assert.is_true(took < 1000)
    wait_for("the rest", function() return #repaired() > 5 end, 3)
    assert.equal("v1", (curl("api1", at)))
    local _, status = curl("blog1", at, 3)
    assert.equal(REFUSED, status)
    wait_for("quiet", function() return net:repair() == nil end)
  end)

  it("are first again when a rule is put before them", function()
    run("iptables", "-t", "nat", "-I", "OUTPUT", "1", "-p", "tcp", "--dport", "80", "-j",
      "REDIRECT", "--to-ports", "1")
    wait_for("the service", function() return curl(nil, at, 1) == "v1" end, 3)
    run("iptables", "-t", "nat", "-D", "OUTPUT", "-p", "tcp", "--dport", "80", "-j", "REDIRECT",
      "--to-ports", "1")
    run("iptables", "-F", "DOCKER-USER")
    wait_for("the policy", function()
      return table.concat(repaired(), " "):find("DOCKER-USER", 1, true)
    end, 3)
    assert.is_nil(net:repair())
  end)

  it("get their route back", function()
    run("ip", "route", "del", "10.201.0.0/17", "dev", "lo")
    run("ip", "addr", "del", "10.201.128.1/32", "dev", "lo")
    net:repair()
    assert.equal("10.201.128.1", (curl(nil, at .. "/peer"):match("^[^:]+")))
  end)

  it("outlive a dockerd that is killed and started again", function()
    local running = load(at .. "/", 4, "--get", "2", "--new", "2", "--rate", "300")
    task.sleep(200)
    host("host_kill_dockerd " .. HOST .. " KILL; host_dockerd " .. HOST)
    -- Docker 20.10 puts its rules before DOCKER-USER when it starts with live containers.
    wait_for("the policy", function() return curl("api1", at, 0.1) == "v1" end, 1)
    assert.equal("v1", (curl(nil, at)))
    local _, status = curl("blog1", at, 3)
    assert.equal(REFUSED, status)
    local report = json.decode(running:join(20000).stdout)
    assert.equal(0, report.failed)
    wait_for("quiet", function() return net:repair() == nil end)
    -- Docker's own networks and rules come and go beside ours.
    engine:network_create { Name = "other", CheckDuplicate = true }
    engine:network_remove "other"
    wait_for("quiet", function() return net:repair() == nil end)
  end)

  it("forget a container's connections when it is gone", function()
    local running = load(at .. "/", 1, "--ws", "2")
    task.sleep(300)
    assert.equal(2, netfilter.flows { within = addresses.shop1, open = true }[addresses.shop1])
    running:cancel()
    running:wait()
    local dns = key("dns", "shop", "udp")
    dns.port = 53
    local s = net:service(dns)
    net:switch(dns, { addresses.shop1 .. ":53" })
    run("bash", "-c", "echo x > /dev/udp/" .. s.address .. "/53")
    assert.truthy(netfilter.flows { within = s.address, proto = "udp" }[s.address])
    net:switch(dns, { addresses.shop2 .. ":53" })
    assert.is_nil(netfilter.flows { within = s.address, proto = "udp" }[s.address])
    net:remove(dns)
    start("gone", shop, "x")
    local ip = addresses.gone
    curl(nil, "http://" .. ip .. ":8080/")
    assert.truthy(netfilter.flows { within = ip }[ip])
    stop "gone"
    assert.is_nil(netfilter.flows { within = ip }[ip])
  end)

  it("tell who is still connected, and which of them are idle", function()
    local state = engine:inspect "shop1".State
    local busy = load(at .. "/", 4, "--ws", "1", "--slow", "1", "--slow-ms", "3000")
    -- One keep-alive connection that had its answer and stays open.
    local idle = task.spawn("idle", process.run, { argv = { "bash", "--norc", "-c", ([[
      exec 3<>/dev/tcp/%s
      printf 'GET / HTTP/1.1\r\nHost: x\r\n\r\n' >&3
      head -1 <&3
      read -rt 20 <> <(:)]]):format((net:service(shop).at:gsub(":", "/"))) }, timeout_ms = 10000 })
    local seen
    wait_for("the idle one", function()
      seen = net:drain(state.Pid, 8080)
      return seen.count == 3 and seen.idle == 1
    end)
    assert.equal(3, #seen.peers)
    assert.truthy(seen.peers[1]:find("^10%.201%.128%.1:"))
    for _, t in ipairs { busy, idle } do
      t:cancel()
      t:wait()
    end
    wait_for("their end", function() return net:drain(state.Pid, 8080).count == 0 end)
  end)

  it("refuse a range that the host uses already", function()
    for _, cidr in ipairs { "192.0.0.0/12", "172.16.0.0/12", "10.192.0.0/12" } do
      local other = new { instance = "bbbb", cidr = cidr, dir = dir .. "-2" }
      local ok, err = pcall(other.start, other)
      assert.is_false(ok)
      assert.equal("range_overlap", err.code, tostring(err))
    end
  end)

  it("let two instances live side by side", function()
    local other = new { instance = "bbbb", cidr = "10.213.0.0/16", dir = dir .. "-2" }
    other:start()
    other:switch(shop, { v1 })
    assert.is_nil(net:repair())
    assert.is_nil(other:repair())
    assert.equal("v1", (curl(nil, at)))
    other:down()
    assert.is_nil(net:repair())
    assert.falsy(run("iptables-save"):find("bbbb", 1, true))
  end)

  it("move in milliseconds, also among 1,000", function()
    for i = 1, 1000 do
      net.services["p/e/" .. i] = { index = 1000 + i, address = "10.201.8." .. i % 256, port = i,
        proto = "tcp", targets = { "10.201.129." .. i % 256 .. ":80" }, comment = "p/e/" .. i }
    end
    local began = clock.monotonic()
    net:repair(true)
    print(("# 1,000 services written in %d ms"):format(clock.monotonic() - began))
    local times = {}
    for i = 1, 11 do
      began = clock.monotonic()
      net:switch(shop, { i % 2 == 1 and v1 or v2 })
      times[i] = clock.monotonic() - began
    end
    table.sort(times)
    print(("# one of them switched in %d ms (median), %d ms (most)"):format(times[6], times[11]))
    assert.is_true(times[6] < 200)
    for i = 1, 1000 do net.services["p/e/" .. i] = nil end
    net:repair(true)
    net:switch(shop, { v1 })
  end)

  it("serve after a reboot, before any daemon", function()
    net:stop()
    for _, name in ipairs { "shop1", "shop2" } do engine:stop(name, 1) end
    run("nft", "flush", "ruleset")
    run("ip", "route", "del", "10.201.0.0/17", "dev", "lo")
    run("ip", "addr", "del", "10.201.128.1/32", "dev", "lo")
    local began = clock.monotonic()
    network_restore(dir)
    print(("# restored after %d ms"):format(clock.monotonic() - began))
    local _, status = curl(nil, "http://10.201.77.77")
    assert.equal(REFUSED, status)
    engine:start "shop1"
    wait_for("the service", function() return curl(nil, at) == "v1" end)
    _, status = curl("blog1", at, 3)
    assert.equal(REFUSED, status)
    engine:start "shop2"
    net = new()
    net:start()
    assert.same({ v1 }, net:targets(shop))
    assert.is_nil(net:repair())
  end)

  it("leave nothing when they are taken down", function()
    for _, c in ipairs(engine:list { all = true }) do engine:remove(c.Id, { force = true }) end
    net:stop()
    net = new() -- as `nextdeployd --remove-network` does
    net:down()
    assert.falsy(run("iptables-save"):find("ND-", 1, true))
    assert.falsy(run("ip", "-4", "route", "show", "table", "all"):find("10.201.", 1, true))
    assert.same({}, engine:network_list { labels = { ["nextdeploy.instance"] = true } })
    assert.is_false(fs.exists(dir .. "/net"))
  end)
end)
