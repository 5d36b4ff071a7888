-- What a configuration may say of an app's processes, and what each of them gets.

local config = require "nd.service.app_config"
local cron = require "cron"
local Process = require "nd.service.process"

local function mistake(request)
  local ok, e = pcall(config.merge, {}, request)
  assert.is_false(ok)
  return e
end

describe("an app's processes", function()
  it("are one, web, unless some are named", function()
    local plain = config.merge({}, { port = 8080, replicas = 2, command = { "serve" } })
    local list = Process.list(plain)
    assert.equal(1, #list)
    assert.same({ "web", "web", 8080, 2 }, { list[1].name, list[1].kind, list[1].port, list[1].replicas })
    assert.same({ { process = "web", port = 80, target = 8080, replicas = 2 } }, Process.services(plain))
  end)

  it("inherit what is the app's, and say the rest themselves", function()
    local c = config.merge({}, { port = 8080, command = { "serve" }, memory = "64m", env = { A = "1", B = "1" },
      processes = { web = {}, mailer = { command = { "mail" }, env = { B = "2" } },
        api = { kind = "web", port = 9000, memory = "32m" } } })
    local mailer = Process.of(c, "mailer")
    assert.same({ "worker", { "mail" }, { A = "1", B = "2" }, 64 << 20 },
      { mailer.kind, mailer.command, mailer.env, mailer.memory })
    assert.is_nil(mailer.port)
    assert.same({ "serve" }, Process.of(c, "web").command)
    assert.is_nil(Process.of(c, "api").command)
    local names = {}
    for i, process in ipairs(Process.list(c)) do names[i] = process.name end
    assert.same({ "web", "api", "mailer" }, names)
    assert.same({ { process = "web", port = 80, target = 8080, replicas = 1 },
      { process = "api", port = 9000, target = 9000, replicas = 1 } }, Process.services(c))
  end)

  it("are of a kind that follows from the name or the schedule", function()
    local c = config.merge({}, { processes = { web = {}, nightly = { schedule = "@daily", command = { "x" } },
      job = { command = { "x" } }, anything = {} } })
    assert.same({ "cron", "job", "worker" }, { Process.of(c, "nightly").kind, Process.of(c, "job").kind,
      Process.of(c, "anything").kind })
  end)

  it("go away again", function()
    local c = config.merge({}, { processes = { web = {}, worker = {} }, release = { "migrate" } })
    assert.same({ "migrate" }, Process.of(c, "release").command)
    c = config.merge(c, { processes = {}, release = {} })
    assert.is_nil(c.processes)
    assert.is_nil(c.release)
  end)

  it("have memory that a machine can have, or are refused by name", function()
    for text, bytes in pairs { ["6m"] = 6 << 20, ["1G"] = 1 << 30, ["512MiB"] = 512 << 20, ["1048576k"] = 1 << 30,
      ["8388608"] = 8 << 20 } do
      assert.equal(bytes, config.merge({}, { memory = text }).memory, text)
    end
    for _, text in ipairs { "99999999999999999999", "99999999999999999999g", "9999999999g", "18014398509488129k",
      "9223372036854775807k", "5m", "0" } do
      local e = mistake { memory = text }
      assert.equal("bad_request", e.code)
      assert.matches("^memory", e.message)
    end
  end)

  it("know which volumes have one writer, and how many would write", function()
    local c = config.merge({}, { volumes = { "data:/data" }, processes = { web = {}, worker = { replicas = 2 },
      clean = { kind = "job", command = { "x" }, volumes = { { name = "tmp", path = "/t", shared = true } } } } })
    local data = Process.one_writer(c)[1]
    assert.same({ "data", { "web", "worker" }, 3, true }, { data.name, data.processes, data.containers, data.long })
    assert.equal(1, #Process.one_writer(c))
  end)

  it("are refused where they can't be meant so", function()
    for names, processes in pairs {
      ["is not a name"] = { Web = {} },
      ["a worker has no schedule"] = { worker = { schedule = "@daily" } },
      ["needs a schedule"] = { web = {}, cron = { command = { "x" } } },
      ["needs a command"] = { web = {}, job = {} },
      ["a port of its own"] = { web = {}, api = { kind = "web" } },
      ["at least 1 replica"] = { web = { replicas = 0 } },
      ["the process named web"] = { web = { kind = "worker" } },
      ["none of them runs"] = { job = { command = { "x" } } },
      ["there is no field 'comand'"] = { worker = { comand = { "x" } } },
      ["'release' is taken"] = { release = { command = { "x" } } },
    } do
      local e = mistake { processes = processes }
      assert.equal("bad_request", e.code)
      assert.truthy(e.message:find(names, 1, true), e.message)
    end
    assert.equal("did you mean 'command'?", mistake { processes = { worker = { comand = {} } } }.hint)
    local e = mistake { processes = { web = {}, cron = { schedule = "61 * * * *", command = { "x" } } } }
    assert.equal("bad_schedule", e.code)
    assert.equal("bad_zone",
      mistake { processes = { web = {}, cron = { schedule = "@daily", zone = "Mars", command = { "x" } } } }.code)
  end)
end)

describe("cron", function()
  it("tells when an expression is due next", function()
    assert.equal(1769904000000, cron.next("0 0 1 * *", 1769860800000))
    assert.equal(1769900400000, cron.next("0 0 1 * *", 1769860800000, "Europe/Berlin"))
    assert.same({ 0, 30 }, cron.parse("*/30 * * * *").minutes)
  end)
end)
