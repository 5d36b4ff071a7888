-- Metrics as the daemon makes them: from a host and control groups made by hand, through rates and the
-- history to Prometheus's text.

local clock = require "clock"
local exposition = require "exposition"
local fs = require "fs"
local json = require "json"
local accept = require "nd.api.accept"
local instant = require "nd.instant"
local Metrics = require "nd.service.metrics"
local history = require "nd.service.metrics_history"
local text_of = require "nd.service.metrics_text"
local Store = require "nd.store"

local ID = ("c0ffee"):rep(10) .. "abcd"
local MINUTE, HOUR, DAY = 60000, 3600000, 24 * 3600000

local function raised(fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok)
  return e
end

describe("the Accept header", function()
  local JSON, TEXT = "application/json", "text/plain; version=0.0.4; charset=utf-8"
  local function best(header) return accept.best(header, { JSON, TEXT }) end

  it("brings the form with the largest weight, ours first among equals", function()
    for header, wanted in pairs {
      ["*/*"] = JSON, ["text/plain"] = TEXT, ["TEXT/Plain;Version=0.0.4"] = TEXT, ["text/*"] = TEXT,
      ["text/plain;version=0.0.4;q=0.5,*/*;q=0.1"] = TEXT, ["application/json;q=0.001,text/plain;q=0"] = JSON,
      ["text/plain;q=0.5, application/json;q=0.501"] = JSON, ["text/plain , application/json"] = JSON,
      ["*/*;q=0.8, application/json;q=0.1"] = TEXT, ['text/plain;charset="utf-8"'] = TEXT, [" "] = JSON,
      ["application/json;q=0, */*;q=0.2"] = TEXT,
    } do
      assert.equal(wanted, best(header), header)
    end
    assert.equal(JSON, best(nil))
  end)

  it("brings nothing where nothing is taken, or the header makes no sense", function()
    for _, header in ipairs { "text/html", "*/*;q=0", "text/plain;version=1.0.0", "text/plain;q=2", "text/plain;q=a",
      "text", "/", ";;;", ",,,", "text/plain/x", "application/json;q=0.0001" } do
      assert.is_nil(best(header), header)
    end
  end)
end)

describe("points in time", function()
  it("are milliseconds, RFC 3339 or how long ago", function()
    assert.equal(1769860800000, instant.ms("f", "1769860800000"))
    assert.equal(1769860800000, instant.ms("f", "2026-01-31T12:00:00Z"))
    assert.equal(1769860800250, instant.ms("f", "2026-01-31T14:00:00.25+02:00"))
    assert.is_true(math.abs(clock.now() - HOUR - instant.ms("f", "1h")) < 1000)
    for _, bad in ipairs { "", "yesterday", "2026-01-31", "2026-01-31T12:00:00", "-5", "1y" } do
      assert.equal("bad_request", raised(instant.ms, "f", bad).code, bad)
    end
  end)
end)

describe("Prometheus's text", function()
  it("refuses names that can't be, and families that were there", function()
    local x = exposition.new()
    x:family("a_total", "counter", "Help.")
    assert.equal("bad_metric", raised(x.family, x, "a_total", "counter", "Help.").code)
    assert.equal("bad_metric", raised(x.family, x, "a-b", "counter", "Help.").code)
    assert.has_error(function() x:family("b", "count", "Help.") end)
    assert.has_error(function() exposition.labels { { "a-b", "x" } } end)
    assert.has_error(function() exposition.labels { { "a" } } end)
    assert.equal("bad_metric", raised(exposition.new().add, exposition.new(), 1).code)
  end)
end)

describe("metrics", function()
  local dir, d, asked

  local function put(path, text)
    local parent = (dir .. "/" .. path):match "^(.*)/"
    fs.mkdir(parent)
    fs.write(dir .. "/" .. path, text)
  end

  local function group(name, text) put("sys/fs/cgroup/docker/" .. ID .. "/" .. name, text) end

  local function put_container(usec, received)
    put("proc/77/cgroup", "0::/docker/" .. ID .. "\n")
    put("proc/77/net/dev", ("h\nh\n  eth0: %d 1 0 0 0 0 0 0 50 1 0 0 0 0 0 0\n"):format(received))
    put("sys/fs/cgroup/cgroup.controllers", "cpu memory pids io\n")
    group("cpu.stat", ("usage_usec %d\n"):format(usec))
    group("memory.current", "4096\n")
    group("pids.current", "3\n")
  end

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    fs.mkdir(dir, 448)
    put("proc/stat", "cpu  100 0 0 900 0 0 0 0 0 0\ncpu0 1 1 1 1\nbtime 1700000000\n")
    put("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 250 kB\n")
    put("proc/loadavg", "0.50 1.25 2.00 1/100 4242\n")
    put("proc/uptime", "6130.50 1000.00\n")
    asked = 0
    d = { version = "9.9", store = Store.open(dir, "a machine"), docker = { inspect = function(_, id)
      asked = asked + 1
      assert.equal(ID, id)
      return { State = { Pid = 77 } }
    end }, options = { proc_root = dir .. "/proc", sys_root = dir .. "/sys", state_dir = dir } }
    d.metrics = Metrics.new(d)
    d.store:commit {
      { "INSERT INTO app (id, project, environment, name, created_at, updated_at) VALUES (1, 'p', 'e', 'shop', 1, 1)" },
      { [[INSERT INTO release (id, app, number, state, image, image_id, config, run, key, created_at)
        VALUES (1, 1, 4, 'live', 'i', 'i', '{}', 'r', 'k', 1)]] },
      { [[INSERT INTO instance (release, process, position, name, container, address, state, restarts, started_at)
        VALUES (1, 'web', 1, 'nd-shop-1', ?, '10.0.0.2', 'running', 2, 5000)]], ID },
    }
    put_container(1000000, 100)
  end)

  after_each(function()
    d.store:close()
    fs.remove(dir, { recursive = true })
  end)

  it("tell percent and rates between two readings, whoever else looks", function()
    local a = d.metrics:read()
    d.metrics:read()
    put("proc/stat", "cpu  200 0 0 1000 0 0 0 0 0 0\ncpu0 1 1 1 1\nbtime 1700000000\n")
    put_container(2500000, 2100)
    local b = d.metrics:read()
    b.at = a.at + 2000
    local host, containers = d.metrics:between(a, b)
    assert.equal(50.0, host.cpu)
    assert.equal(75.0, containers[1].cpu)
    assert.equal(1000.0, containers[1].rates.received)
    assert.equal(0.0, containers[1].rates.sent)
    assert.is_nil(containers[1].rates.read) -- there is no io.stat
    local shown = d.metrics:shown(a, b, function() return true end)
    assert.equal("shop web 4 2", ("%s %s %d %d"):format(shown.containers[1].app, shown.containers[1].process,
      shown.containers[1].release, shown.containers[1].restarts))
    assert.equal(1, asked)
    assert.equal(16.7, d.metrics:shown(nil, b).cpu) -- since boot
  end)

  it("count from zero what began anew", function()
    local a = d.metrics:read()
    put_container(300000, 40)
    local b = d.metrics:read()
    b.at = a.at + 1000
    local _, containers = d.metrics:between(a, b)
    assert.equal(30.0, containers[1].cpu)
    assert.equal(40.0, containers[1].rates.received)
  end)

  it("leave out a container whose groups are gone, and ask Docker no more than now and then", function()
    assert.equal(1, #d.metrics:read().containers)
    fs.remove(dir .. "/proc/77", { recursive = true })
    for _ = 1, 5 do assert.equal(0, #d.metrics:read().containers) end
    assert.equal(1, asked)
    put_container(1, 1)
    d.store:commit { { "UPDATE instance SET started_at = 6000, restarts = 3" } }
    local reading = d.metrics:read()
    assert.equal(2, asked)
    assert.equal(3, reading.containers[1].row.restarts)
  end)

  it("ask Docker for no more than a hundred containers at a time", function()
    local statements = {}
    for i = 1, 250 do
      statements[i] = { [[INSERT INTO instance (release, process, position, name, container, address, state)
        VALUES (1, 'web', ?, ?, ?, '10.0.0.3', 'running')]], i + 1, "nd-shop-x" .. i, ("%064x"):format(i) }
    end
    d.store:commit(statements)
    d.docker.inspect = function() asked = asked + 1 end -- there are no such containers
    for i, wanted in ipairs { 100, 200, 251, 251 } do
      assert.equal(0, #d.metrics:read().containers, i)
      assert.equal(wanted, asked)
    end
  end)

  it("do without Docker", function()
    d.docker.inspect = function() error(require "nd.error".new("docker_unreachable", "away"), 0) end
    assert.equal(0, #d.metrics:read().containers)
    assert.is_nil((text_of(d)):match 'app="shop"')
  end)

  it("become Prometheus's text, with what other services give", function()
    d.metrics:gauge("nextdeploy_certs_expiry_seconds", "When they end.", function()
      return { { 5, labels = { { "domain", 'a"b' } } }, { 7, labels = { { "domain", "c" } } } }
    end)
    d.metrics:gauge("nextdeploy_broken", "It fails.", function() error "no" end)
    d.metrics:gauge("nextdeploy_queue_length", "It has one value.", function() return 3 end)
    d.metrics:counter("nextdeploy_cuts_total", "Cut.", { "app" }):add(2, "shop")
    d.metrics.requests:add(1, "metrics", 200)
    local text = text_of(d)
    for _, line in ipairs {
      'nextdeploy_certs_expiry_seconds{domain="a\\"b"} 5', "nextdeploy_queue_length 3",
      'nextdeploy_cuts_total{app="shop"} 2', 'nextdeploy_http_requests_total{operation="metrics",status="200"} 1',
      'nextdeploy_container_cpu_seconds_total{project="p",env="e",app="shop",process="web",release="4",'
        .. 'instance="nd-shop-1"} 1',
      'nextdeploy_releases{state="live"} 1', 'nextdeploy_host_boot_time_seconds 1700000000',
    } do
      assert.is_truthy(("\n" .. text):find("\n" .. line .. "\n", 1, true), line)
    end
    for _, name in ipairs { "nextdeploy_queue_length", "up", "nextdeploy_Bad", 7 } do
      assert.equal("bad_metric", raised(d.metrics.gauge, d.metrics, name, "Help.", print).code)
    end
    assert.equal("bad_metric", raised(d.metrics.gauge, d.metrics, "nextdeploy_mute", "", print).code)
  end)

  it("are sampled each second only while somebody looks", function()
    d.metrics:start()
    local handle = d.metrics:look()
    assert.is_true(d.metrics.sampled:wait(3000))
    local first = d.metrics.last.at
    assert.is_true(d.metrics.sampled:wait(3000))
    assert.is_true(d.metrics.last.at - first < 3000)
    handle.close()
    handle.close()
    assert.equal(0, d.metrics.lookers)
    d.metrics:stop()
  end)
end)

describe("the history of metrics", function()
  local dir, store, h
  local app = { project = "p", environment = "e", name = "shop" }
  local now -- the beginning of an hour that has just passed

  local function host(cpu) return { cpu = cpu, memory = 50, disk = 10, load = { 1 }, rates = { sent = 5 } } end

  local function container(process, memory, of)
    return { row = { project = "p", environment = "e", app = of or "shop", process = process },
      cpu = 1, usage = { memory = memory, pids = 2 }, rates = {} }
  end

  local function values(q)
    local list = {}
    for i, value in ipairs(h:range(q.app and app, q).values) do list[i] = value == json.null and "-" or value end
    return list
  end

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    fs.mkdir(dir, 448)
    store = Store.open(dir, "a machine")
    h = history.new(store)
    now = clock.now() // HOUR * HOUR
  end)

  after_each(function()
    store:close()
    fs.remove(dir, { recursive = true })
  end)

  it("knows steps of ten seconds, their mean over longer ones, and gaps", function()
    for i = 1, 6 do
      if i ~= 4 then h:put(10000, now + i * 10000, host(i), {}) end
    end
    assert.same({ 1.0, 2.0, 3.0, "-", 5.0, 6.0 },
      values { metric = "cpu", from = now, to = now + MINUTE, step = 10000 })
    assert.same({ 2.0, 5.5, "-" }, values { metric = "cpu", from = now, to = now + 90000, step = 30000 })
    local range = h:range(nil, { metric = "cpu", from = now, to = now + MINUTE, step = 30000 })
    assert.equal(6.0, range.most[2])
    assert.equal("percent", range.unit)
  end)

  it("adds up the processes of an app, and no other app's", function()
    h:put(10000, now + 10000, host(1), { container("web", 100), container("web", 20), container("worker", 3),
      container("web", 9999, "shop2"), container("web", 7777, "sho") })
    local q = { app = true, metric = "memory", from = now, to = now + 10000, step = 10000 }
    assert.same({ 123.0 }, values(q))
    q.process = "web"
    assert.same({ 120.0 }, values(q))
    q.process = "we"
    assert.same({ "-" }, values(q))
    q.process, q.metric = nil, "instances"
    assert.same({ 3.0 }, values(q))
  end)

  it("writes five minutes in one transaction, once, and reads them back", function()
    h:keep(now)
    for i = 1, 31 do h:put(10000, now + i * 10000, host(i), { container("web", 100 * i) }) end
    local commits = store.counts.commits
    h:keep(now + 5 * MINUTE)
    assert.equal(commits + 1, store.counts.commits)
    h:keep(now + 5 * MINUTE + 10000)
    assert.equal(commits + 1, store.counts.commits)
    local rows = store:all "SELECT subject, time, samples, data FROM metric ORDER BY subject"
    assert.equal("host p/e/shop/web", rows[1].subject .. " " .. rows[2].subject)
    assert.equal(now, rows[1].time)
    assert.equal(30, rows[1].samples)
    assert.same({ 15.5, 30.0 }, json.decode(rows[1].data).cpu)
    h = history.new(store) -- after a restart
    assert.same({ 15.5, "-" }, values { metric = "cpu", from = now, to = now + 10 * MINUTE, step = 5 * MINUTE })
    assert.same({ 1550.0 },
      values { app = true, metric = "memory", from = now, to = now + 5 * MINUTE, step = 5 * MINUTE })
    assert.same({ 15.5, 15.5 }, values { metric = "cpu", from = now, to = now + MINUTE, step = 30000 })
  end)

  it("keeps what a stop cut short, and the fuller row where it was cut twice", function()
    h:keep(now)
    for i = 1, 12 do h:put(10000, now + i * 10000, host(10), {}) end
    h:keep(now + 2 * MINUTE, true)
    h = history.new(store)
    h:keep(now + 3 * MINUTE)
    for i = 19, 21 do h:put(10000, now + i * 10000, host(90), {}) end
    h:keep(now + 4 * MINUTE, true)
    local row = store:get "SELECT samples, data FROM metric"
    assert.equal(12, row.samples)
    assert.same({ 10.0, 10.0 }, json.decode(row.data).cpu)
  end)

  it("forgets what is over 30 days old", function()
    for _, days in ipairs { 29, 31, 400 } do
      store:commit { { "INSERT INTO metric VALUES ('host', ?, 1, '{\"cpu\":[1,1]}')", now - days * DAY } }
    end
    h:keep(now)
    h:put(10000, now + 10000, host(1), {})
    h:keep(now + 5 * MINUTE)
    assert.equal(now - 29 * DAY, store:get("SELECT min(time) AS t FROM metric").t)
  end)

  it("answers about 30 days with a step that has values", function()
    for i = 0, 287 do
      store:commit { { "INSERT INTO metric VALUES ('host', ?, 30, ?)", now - 2 * DAY + i * 5 * MINUTE,
        ('{"cpu":[%d,%d]}'):format(i % 2 * 10, i) } }
    end
    local range = h:range(nil, { metric = "cpu", from = now - 2 * DAY, to = now - DAY })
    assert.equal(300.0, range.step)
    assert.equal(288, #range.values)
    range = h:range(nil, { metric = "cpu", from = now - 2 * DAY, to = now - DAY, step = HOUR })
    assert.equal(24, #range.values)
    assert.equal(5.0, range.values[1])
    assert.equal(11.0, range.most[1])
  end)

  it("has a bounded size, whatever there was", function()
    for step = 1, 2 do
      local from = now - 10 * HOUR + step * 5 * HOUR
      for i = 1, 3000 do h:put(10000, from + i * 10000, host(i), { container("web", i) }) end
    end
    assert.is_true(h:bytes() < 2160 * 4 * 19 + 1000)
    local crowd = {}
    for i = 1, 2000 do crowd[i] = container("web", i, "app" .. i) end
    for i = 1, 40 do h:put(10000, now + i * 10000, host(1), crowd) end
    assert.is_true(h:bytes() < 4 * 1024 * 1024)
    h:drop_old(now + 20 * HOUR)
    assert.equal(0, h:bytes())
  end)

  it("lets the seconds go ten minutes after the last look", function()
    h:put(1000, now + 1000, host(3), {})
    assert.same({ 3.0 }, values { metric = "cpu", from = now, to = now + 1000, step = 1000 })
    h:forget_fast(now + 9 * MINUTE)
    assert.is_true(h:bytes() > 0)
    h:forget_fast(now + 11 * MINUTE)
    assert.equal(0, h:bytes())
  end)

  it("refuses what can't be answered, with a hint", function()
    for _, q in ipairs {
      { metric = "cpu", from = now, to = now }, { metric = "cpu", from = now, to = now + HOUR, step = 1 },
      { metric = "pids", from = now, to = now + HOUR }, { metric = "cpu", from = now - DAY, to = now, step = 0 },
      { metric = "cpu", from = 0, to = now, step = 10000 },
    } do
      local e = raised(h.range, h, nil, q)
      assert.equal("bad_request", e.code)
    end
  end)
end)
