-- What makes a canary be taken back: counts of answers, and how they are read from the proxies' logs.

local fs = require "fs"
local Gate = require "nd.service.gate"
local answers = require "nd.service.proxy.answers"
local caddy = require "nd.service.proxy.caddy"
local nginx = require "nd.service.proxy.nginx"

describe("a canary's answers", function()
  local t

  before_each(function() t = Gate.tally() end)

  local function add(count, status, ms, now)
    for _ = 1, count do t:add(status, ms or 10, now or 0) end
  end

  it("are bad with the twentieth error, not before", function()
    add(19, 500)
    assert.is_nil(t:verdict({}, 0))
    add(1, 502)
    assert.equal("20 of 20 answers were errors (100 %, and at most 2 % may be)", t:verdict({}, 0))
  end)

  it("may have as many errors as is said", function()
    add(980, 200)
    add(20, 500)
    assert.is_nil(t:verdict({}, 0))
    assert.is_nil(t:verdict({}, 0, true))
    assert.matches("20 of 1000 answers were errors %(2 %%", t:verdict({ errors = 1 }, 0))
    add(1, 500)
    assert.matches("21 of 1001", t:verdict({}, 0))
    assert.is_nil(t:verdict({ least = 30 }, 0))
    assert.matches("21 of 1001", t:verdict({ least = 30 }, 0, true))
  end)

  it("are no longer good because they once were", function()
    add(100000, 200, 10, 0)
    add(20, 500, 10, 60000)
    assert.matches("20 of 20 answers", t:verdict({}, 60000))
    assert.is_nil(t:verdict({}, 120000))
  end)

  it("are bad in the end where too large a part of few was", function()
    add(3, 200)
    add(1, 500)
    assert.is_nil(t:verdict({}, 0))
    assert.matches("1 of 4 answers", t:verdict({}, 0, true))
  end)

  it("are good where there are none", function() assert.is_nil(t:verdict({ latency = 1 }, 0, true)) end)

  it("may be what the client did wrong", function()
    add(100, 404)
    assert.is_nil(t:verdict({}, 0, true))
  end)

  it("are too slow when a twentieth of them is, WebSockets aside", function()
    add(95, 200, 100)
    add(5, 200, 3000)
    add(50, 101, 60000)
    assert.is_nil(t:verdict({ latency = 500 }, 0))
    add(1, 200, 3000)
    assert.matches("a twentieth of its 101 answers took longer than", t:verdict({ latency = 500 }, 0))
    assert.is_nil(t:verdict({ latency = 3000 }, 0))
    assert.is_nil(t:verdict({ latency = 500, least = 102 }, 0))
  end)

  it("take the same memory however many they are", function()
    for n = 1, 20000 do t:add(200, n * 7 % 100000, n * 10) end
    local slots, classes = 0, 0
    for _ in pairs(t.slots) do slots = slots + 1 end
    for _ in pairs(t.classes) do classes = classes + 1 end
    assert.is_true(slots <= 6 and classes < 150)
  end)
end)

describe("a proxy's log", function()
  local path, log, drivers

  before_each(function()
    path = os.tmpname()
    local driver = setmetatable({}, { __index = nginx.new {
      dir = "/nowhere", run = "/nowhere" } })
    driver.answers_log = function() return path, true end
    drivers = { driver }
  end)
  after_each(function()
    log:close()
    os.remove(path)
  end)

  local function write(text, mode)
    local file <close> = assert(io.open(path, mode or "a"))
    file:write(text)
  end

  local function read()
    local list = {}
    log:read(function(host, release, status, ms)
      list[#list + 1] = ("%s %d %d %g"):format(host, release, status, ms)
    end)
    return table.concat(list, "; ")
  end

  it("is read from its end on, by whole lines", function()
    write "shop.test 3 200 0.001\n"
    log = answers.open(drivers)
    assert.equal("", read())
    write "shop.test 3 200 0.012\nshop.test 2 50"
    assert.equal("shop.test 3 200 12", read())
    write "0 0.5\n-\n"
    assert.equal("shop.test 2 500 500", read())
  end)

  it("may come to be only later, be emptied, or be another file", function()
    os.remove(path)
    log = answers.open(drivers)
    assert.equal("", read())
    write "shop.test 3 200 0.001\nshop.test 3 200 0.002\n"
    assert.equal("shop.test 3 200 1; shop.test 3 200 2", read())
    write("shop.test 3 200 0.003\n", "w")
    assert.equal("shop.test 3 200 3", read())
    write "shop.test 3 200 0.004\nshop.test 3 200 0.005\n"
    os.rename(path, path .. ".1")
    write "shop.test 3 200 0.006\n"
    assert.equal("shop.test 3 200 4; shop.test 3 200 5", read())
    assert.equal("shop.test 3 200 6", read())
    os.remove(path .. ".1")
  end)

  it("is kept short where nobody else does it, and not read whole in a flood", function()
    log = answers.open(drivers)
    write(("shop.test 3 200 0.001\n"):rep(1 << 19))
    local _, count = read():gsub("shop", "")
    assert.is_true(count > 40000 and count < 50000)
    assert.equal(0, fs.stat(path).size)
    write "shop.test 3 200 0.002\n"
    assert.equal("shop.test 3 200 2", read())
  end)

  it("of Caddy can't be lied to by a client or an app", function()
    log = answers.open(drivers)
    local line = [[{"level":"info","msg":"handled request","request":{"method":"GET","host":"Shop.test:8080"},]]
      .. [["duration":0.001223384,"size":3,"status":200,"resp_headers":{"X":["\"status\":500,\"host\":\"b\""],]]
      .. [["Nextdeploy-Release":["2","9"]}}]]
    local driver = caddy.new { dir = "", acme = { directory = "https://ca.test/dir" } }
    assert.same({ "Shop.test:8080", 2, 200, 0.001223384 }, { driver:answer(line) })
    assert.is_nil((nginx.new({ dir = "", run = "" }):answer "a b\nc 500"))
  end)
end)
