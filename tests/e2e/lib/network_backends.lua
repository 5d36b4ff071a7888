-- What test_network checks in an empty network namespace: both iptables backends, without Docker.

local fs = require "fs"
local json = require "json"
local process = require "process"
local task = require "task"
local iptables = require "nd.service.iptables"
local network = require "nd.service.network"

local function run(...)
  local r = process.run { argv = { ... } }
  assert(r.status == 0, table.concat({ ... }, " ") .. ": " .. r.stderr)
  return r.stdout
end

local function wait_for(what, fn)
  for _ = 1, 300 do
    if fn() then return end
    task.sleep(10)
  end
  error("gave up waiting for " .. what)
end

local has_legacy = pcall(run, "iptables-legacy", "-t", "nat", "-L", "-n")
local KEY = { project = "shop", environment = "production", app = "web" }

describe("the iptables backend", function()
  local function clean()
    run("nft", "flush", "ruleset")
    if not has_legacy then return end
    for _, name in ipairs { "nat", "filter" } do
      run("iptables-legacy", "-t", name, "-F")
      run("iptables-legacy", "-t", name, "-X")
    end
  end

  before_each(clean)
  teardown(clean)

  local function docker_in(backend) run("iptables-" .. backend, "-t", "nat", "-N", "DOCKER") end

  it("is the one that Docker uses", function()
    docker_in "nft"
    assert.equal("nft", iptables.find().kind)
    if not has_legacy then return end
    clean()
    docker_in "legacy"
    assert.equal("legacy", iptables.find().kind)
  end)

  it("is the last one where Docker hasn't started yet", function()
    assert.equal("nft", iptables.find("nft").kind)
    if has_legacy then assert.equal("legacy", iptables.find("legacy").kind) end
  end)

  it("is refused when both hold rules, with what to do", function()
    if not has_legacy then return end
    run("iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-j", "ACCEPT")
    run("iptables-legacy", "-t", "nat", "-A", "POSTROUTING", "-j", "ACCEPT")
    local ok, err = pcall(iptables.find)
    assert.is_false(ok)
    assert.equal("netfilter_mixed", err.code)
    assert.truthy(err.hint:find("iptables-legacy", 1, true))
  end)

  it("says which of our lines it refused", function()
    local ok, err = pcall(iptables.find().restore, iptables.find(),
      "*nat\n:ND-x - [0:0]\n-A ND-x --no-such-option\nCOMMIT\n")
    assert.is_false(ok)
    assert.equal("netfilter_failed", err.code)
    assert.truthy(err.message:find("no-such-option", 1, true), err.message)
    assert.falsy(run("iptables-nft-save"):find("ND-x", 1, true))
  end)

  for _, backend in ipairs { "nft", "legacy" } do
    it(backend .. " takes our rules, gives them back and is watched", function()
      if backend == "legacy" and not has_legacy then return end
      local dir = os.tmpname()
      os.remove(dir)
      fs.mkdir(dir .. "/net")
      fs.write(dir .. "/net/net.json", json.encode { backend = backend })
      local repaired = 0
      local net = network.new { instance = "abc1", cidr = "10.77.0.0/16", state_dir = dir,
        docker = { network_inspect = function() end, network_create = function() end,
          network_list = function() return {} end },
        on_event = function(kind) repaired = repaired + (kind == "network.repaired" and 1 or 0) end }
      local ok, err = pcall(function()
        net:start()
        assert.equal(backend, net.backend.kind)
        net:ensure_bridge(KEY)
        net:switch(KEY, { "10.77.128.34:80", "10.77.128.35:80" })
        assert.is_nil(net:repair())
        local tcp, udp = { port = 5432 }, { port = 53, proto = "udp" }
        for _, key in ipairs { tcp, udp } do
          for k, v in pairs(KEY) do key[k] = v end
          net:switch_all { { key = key, targets = { "10.77.128.34:7" }, published = {
            { port = 5432, from = { "10.0.0.0/8", "192.0.2.7/32", "0.0.0.0/0" } },
            { port = 15432, from = {} } } } }
          assert.is_nil(net:repair())
        end
        net:hold(KEY, true)
        assert.is_nil(net:repair())
        net:switch(KEY, { "10.77.128.36:80" })
        assert.is_nil(net:repair())
        net:hold(KEY, false)
        assert.is_nil(net:repair())
        for _, key in ipairs { tcp, udp } do net:remove(key) end
        assert.is_nil(net:repair())
        net:remove(KEY)
        assert.is_nil(net:repair())
        net:switch(KEY, { "10.77.128.34:80" })
        task.sleep(300)
        repaired = 0
        run("iptables-" .. backend, "-t", "nat", "-F", "PREROUTING")
        wait_for("the repair", function() return repaired > 0 end)
        assert.is_nil(net:repair())
        net:down()
        assert.falsy(run("iptables-" .. backend .. "-save"):find("ND-", 1, true))
      end)
      if not ok then net:stop() end
      fs.remove(dir, { recursive = true })
      if not ok then error(err, 0) end
    end)
  end
end)
