-- The real Docker Engine: what a deploy needs of it, and its errors. Everything made here is named
-- ndtest-docker-* or labelled so, and removed at the end.
local clock = require "clock"
local docker = require "docker"
local fs = require "fs"
local http = require "http"
local process = require "process"
local task = require "task"

local LABEL = "ndtest-docker"
local IMAGE = "ndtest-docker-app:1"
local bin = os.getenv("ND_BIN_DIR") or "build/debug/bin"

local d = docker.connect {}
local up = pcall(d.ping, d)
local count = 0

local function name_of()
  count = count + 1
  return ("ndtest-docker-%d-%d"):format(clock.now() % 100000000, count)
end

-- A ustar of {name = {data, mode}}.
local function tar(files)
  local out = {}
  for name, file in pairs(files) do
    local data = file[1]
    local head = name .. ("\0"):rep(100 - #name) .. ("%07o\0%07o\0%07o\0%011o\0%011o\0")
      :format(file[2] or 420, 0, 0, #data, 0) .. "        0" .. ("\0"):rep(100) .. "ustar\00000"
    head = head .. ("\0"):rep(512 - #head)
    local sum = 0
    for i = 1, 512 do sum = sum + head:byte(i) end
    head = head:sub(1, 148) .. ("%06o\0 "):format(sum) .. head:sub(157)
    out[#out + 1] = head .. data .. ("\0"):rep(-#data % 512)
  end
  return table.concat(out) .. ("\0"):rep(1024)
end

local function create(spec)
  spec.Image = spec.Image or IMAGE
  spec.Labels = spec.Labels or { [LABEL] = "1" }
  local name = name_of()
  return d:create(name, spec), name
end

local function run(spec)
  local id, name = create(spec)
  d:start(id)
  return id, name
end

local function lines_of(id, opts)
  local log, got = d:logs(id, opts or {}), {}
  for line, stream, time in function() return log:recv(5000) end do
    got[#got + 1] = { line = line, stream = stream, time = time }
  end
  return got
end

local function code_of(fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok)
  assert(type(e) == "table", tostring(e))
  return e.code, e.message
end

local function clean_up()
  for _, c in ipairs(d:list { all = true, labels = { [LABEL] = true } }) do
    d:remove(c.Id, { force = true, volumes = true })
  end
  for _, n in ipairs(d:network_list { labels = { [LABEL] = true } }) do d:network_remove(n.Id) end
  for _, i in ipairs(d:images {}) do
    for _, list in ipairs { i.RepoTags or {}, i.RepoDigests or {} } do
      for _, tag in ipairs(list) do
        if tag:find("ndtest-docker", 1, true) then
          pcall(d.image_remove, d, tag, { force = true })
        end
      end
    end
  end
end

describe("Docker" .. (up and "" or " (none runs here)"), function()
  local it = up and it or pending

  setup(function()
    if not up then return end
    clean_up()
    local seen = 0
    local id = d:build(tar {
      Dockerfile = { "FROM scratch\nCOPY nd-sample /nd-sample\nCOPY long /long\n"
        .. 'LABEL ndtest-docker=1\nENTRYPOINT ["/nd-sample"]\n' },
      ["nd-sample"] = { assert(fs.read(bin .. "/nd-sample")), 493 },
      long = { ("x"):rep(40000) .. "\nshort\n" },
    }, { tag = IMAGE, progress = function() seen = seen + 1 end })
    assert.matches("^sha256:%x+$", id)
    assert(seen > 0)
  end)

  teardown(function() if up then clean_up() end end)

  it("tells its version and settles on one we speak", function()
    local v = d:version()
    assert.matches("^1%.%d+$", v.api)
    assert.equal("linux", v.os)
    assert.is_true(d:ping())
    assert.is_table(d:info().SecurityOptions)
  end)

  it("starts, describes, stops and removes a container", function()
    local id, name = run { Env = { "VERSION=7" } }
    local found = d:inspect(name)
    assert.equal(id, found.Id)
    assert.is_true(found.State.Running)
    d:start(id) -- running already: fine
    d:stop(id, 5)
    assert.is_false(d:inspect(id).State.Running)
    d:stop(id, 5)
    assert.equal(0, d:wait(id))
    assert.equal("docker_not_found", code_of(d.start, d, "ndtest-docker-none"))
    d:remove(id)
    assert.is_nil(d:inspect(id))
    assert.equal("docker_not_found", code_of(d.remove, d, id))
  end)

  it("kills what is deaf to SIGTERM after its grace", function()
    local id = run { Env = { "IGNORE_TERM=1" } }
    local begun = clock.monotonic()
    d:stop(id, 1)
    assert(clock.monotonic() - begun < 8000)
    assert.equal(137, d:wait(id))
  end)

  it("waits for the exit code, and gives up when cancelled", function()
    local id = run { Cmd = { "exit", "7" } }
    assert.equal(7, d:wait(id))
    local long = run {}
    local waiter = task.spawn("wait", function() return d:wait(long) end)
    task.sleep(20)
    waiter:cancel()
    assert.equal("cancelled", code_of(waiter.join, waiter))
    d:kill(long)
    assert.equal(137, d:wait(long))
  end)

  it("finds containers by label", function()
    local id = create { Labels = { [LABEL] = "1", [LABEL .. ".app"] = "web & co" } }
    local found = d:list { all = true, labels = { [LABEL .. ".app"] = "web & co" } }
    assert.equal(1, #found)
    assert.equal(id, found[1].Id)
    assert.equal(0, #d:list { labels = { [LABEL .. ".app"] = "web & co" } }) -- it isn't running
    assert.equal(0, #d:list { all = true, labels = { [LABEL .. ".app"] = "other" } })
  end)

  it("renames, limits and reports a name that is taken", function()
    local id, name = create {}
    assert.equal("docker_conflict", code_of(d.create, d, name, { Image = IMAGE }))
    local other = name_of()
    d:rename(id, other)
    d:update(id, { Memory = 64 << 20, MemorySwap = 64 << 20 })
    local found = d:inspect(other)
    assert.equal(id, found.Id)
    assert.equal(64 << 20, found.HostConfig.Memory)
    assert.equal("integer", math.type(found.HostConfig.Memory))
  end)

  it("says why a wrong entrypoint can't start, and leaves it to be removed", function()
    local id = create { Entrypoint = { "/nope" } }
    local code, message = code_of(d.start, d, id)
    assert.equal("docker_refused", code)
    assert.matches("/nope", message, 1, true)
    d:remove(id)
  end)

  it("reports an image that isn't there by its name", function()
    assert.is_nil(d:image("ndtest-docker-none:1"))
    local code, message = code_of(d.create, d, name_of(), { Image = "ndtest-docker-none:1" })
    assert.equal("image_not_found", code)
    assert.matches("ndtest-docker-none:1", message, 1, true)
    assert.equal("image_not_found", code_of(d.image_remove, d, "ndtest-docker-none:1"))
  end)

  it("reads logs of both streams with their times, and splits long lines", function()
    local before = clock.now()
    local id = run { Cmd = { "cat", "/long" } }
    d:wait(id)
    local got = lines_of(id)
    for i, length in ipairs { 16384, 16384, 7232, 5 } do assert.equal(length, #got[i].line) end
    assert.equal("short", got[4].line)
    assert.equal("stdout", got[4].stream)
    assert(got[4].time >= before - 1000 and got[4].time <= clock.now() + 1000)
    id = run { Cmd = { "cat", "/missing" } }
    d:wait(id)
    got = lines_of(id, { timestamps = false })
    assert.equal("stderr", got[1].stream)
    assert.is_nil(got[1].time)
    assert.equal(0, #lines_of(id, { stderr = false }))
  end)

  it("reads the log of a terminal, and the tail of any", function()
    local id = run { Cmd = { "cat", "/long" }, Tty = true }
    d:wait(id)
    local got = lines_of(id)
    assert.equal("short", got[#got].line)
    assert.equal("short", lines_of(id, { tail = 1 })[1].line)
  end)

  it("follows a log until the container ends", function()
    local id = run { Env = { "LOG_LINES=3" } }
    local log = d:logs(id, { follow = true })
    for _ = 1, 3 do assert.is_string((log:recv(5000))) end
    d:kill(id)
    local line repeat line = log:recv(5000) until not line
    assert.is_nil(line)
  end)

  it("runs commands with their output and exit code", function()
    local id = run {}
    local r = d:exec(id, { "/nd-sample", "args", "a b", "c" })
    assert.equal(0, r.code)
    assert.matches("a b\nc", r.output, 1, true)
    assert.equal(9, d:exec(id, { "/nd-sample", "exit", "9" }).code)
    r = d:exec(id, { "/nd-sample", "env" }, { env = { GREETING = "hello=you" } })
    assert.matches("GREETING=hello=you", r.output, 1, true)
    r = d:exec(id, { "/nd-sample", "cat", "/long" }, { max_output = 100 })
    assert.same({ 100, true }, { #r.output, r.truncated })
    local code = code_of(d.exec, d, "ndtest-docker-none", { "/x" })
    assert.equal("docker_not_found", code)
  end)

  it("kills a command that takes too long", function()
    local id = run {}
    local code, message = code_of(d.exec, d, id, { "/nd-sample" },
      { env = { PORT = "9999" }, timeout_ms = 300 })
    assert.equal("docker_timeout", code)
    assert.matches("300 ms", message, 1, true)
    local deadline = clock.monotonic() + 5000
    repeat
      local _, top = d:call("GET", "/containers/" .. id .. "/top")
      if #top.Processes == 1 then return end
      task.sleep(10)
    until clock.monotonic() > deadline
    error("the command still runs")
  end)

  it("tells events as they happen", function()
    local events = d:events { labels = { [LABEL] = true }, filters = { type = { "container" } } }
    local id = run { Cmd = { "exit", "3" } }
    local seen, e = {}
    repeat
      e = events:recv(10000)
      if e.id == id then seen[#seen + 1] = e.Action end
    until e.id == id and e.Action == "die"
    assert.same({ "create", "start", "die" }, seen)
    assert.equal("3", e.Actor.Attributes.exitCode)
    assert.equal("timeout", code_of(events.recv, events, 1))
    events:close()
  end)

  it("makes networks and moves containers between them", function()
    local name = name_of()
    local net = d:network_create { Name = name, Labels = { [LABEL] = "1" } }
    assert.equal(net, d:network_inspect(name).Id)
    assert.is_nil(d:network_inspect("ndtest-docker-none"))
    assert.equal(net, d:network_list { filters = { name = { name } } }[1].Id)
    local id = create {}
    d:connect_network(name, id, { Aliases = { "web" } })
    assert.is_table(d:inspect(id).NetworkSettings.Networks[name])
    d:disconnect_network(name, id)
    assert.is_nil(d:inspect(id).NetworkSettings.Networks[name])
    d:network_remove(name)
    assert.equal("docker_not_found", code_of(d.network_remove, d, name))
  end)

  it("loads an image from a tar, and refuses one that is none", function()
    d:tag(IMAGE, "ndtest-docker-app:saved")
    local _, bytes = d:call("GET", "/images/ndtest-docker-app:saved/get", nil, { raw = true })
    d:image_remove("ndtest-docker-app:saved")
    assert.is_nil(d:image("ndtest-docker-app:saved"))
    assert.equal("ndtest-docker-app:saved", d:load(bytes))
    assert.is_table(d:image("ndtest-docker-app:saved"))
    assert.matches("^docker_", (code_of(d.build, d, "this is no tar")))
    assert.matches("^docker_", (code_of(d.load, d, "this is no tar")))
  end)

  it("offers any other call", function()
    local query = { filters = '{"label":["no"]}' }
    local status, volumes = d:call("GET", "/volumes", nil, { query = query })
    assert.equal(200, status)
    assert.is_table(volumes)
    assert.equal(404, (d:call("GET", "/containers/none/json", nil, { ok = { [404] = true } })))
    assert.equal("docker_not_found", code_of(d.call, d, "GET", "/containers/none/json"))
  end)

  it("is reached over one connection by many calls at once", function()
    local tasks = {}
    for i = 1, 20 do tasks[i] = task.spawn("t", function() return #d:list { all = true } end) end
    for _, t in ipairs(tasks) do assert(t:join(10000) >= 0) end
  end)
end)

local registry_works = up and os.execute("command -v docker-registry >/dev/null 2>&1")

describe("a registry" .. (registry_works and "" or " (there is none here)"), function()
  local it = registry_works and it or pending
  local dir, server, address, digest

  setup(function()
    if not registry_works then return end
    dir = io.popen("mktemp -d"):read("l")
    for _ = 1, 20 do
      address = "127.0.0.1:" .. math.random(20000, 32000)
      local config = assert(io.open(dir .. "/config.yml", "w"))
      config:write(("version: 0.1\nlog: {level: error}\nhttp: {addr: '%s'}\n"):format(address),
        ("storage: {filesystem: {rootdirectory: '%s'}}\n"):format(dir))
      config:close()
      server = task.spawn("registry", process.run,
        { argv = { "docker-registry", "serve", dir .. "/config.yml" } })
      local deadline = clock.monotonic() + 5000
      repeat
        local ok, r = pcall(http.request, { url = "http://" .. address .. "/v2/" })
        if ok and r.status == 200 and server:alive() then return end
        task.sleep(10)
      until clock.monotonic() > deadline or not server:alive()
    end
    error("docker-registry did not start")
  end)

  teardown(function()
    if not registry_works then return end
    clean_up()
    server:cancel()
    pcall(server.join, server)
    os.execute("rm -rf '" .. dir .. "'")
  end)

  it("takes an image and gives it back, pinned to its digest", function()
    if not d:image(IMAGE) then -- cleaned up by the specs above
      d:build(tar {
        Dockerfile = { 'FROM scratch\nCOPY nd-sample /nd-sample\nENTRYPOINT ["/nd-sample"]\n' },
        ["nd-sample"] = { assert(fs.read(bin .. "/nd-sample")), 493 },
      }, { tag = IMAGE })
    end
    local ref = address .. "/ndtest-docker-app:1"
    d:tag(IMAGE, ref)
    digest = d:push(ref)
    assert.matches("^sha256:%x+$", digest)
    d:image_remove(ref)
    d:image_remove(IMAGE)
    local last
    local name, id = d:pull(ref, { progress = function(p) last = p end })
    assert.equal(address .. "/ndtest-docker-app@" .. digest, name)
    assert.equal(id, d:image(name).Id)
    assert.equal(last.done, last.total)
    assert.equal(name, (d:pull(name))) -- by digest
    d:remove(d:create(name_of(), { Image = name, Labels = { [LABEL] = "1" } }))
  end)

  it("without the tag, the digest or the image is image_not_found", function()
    assert.equal("image_not_found", code_of(d.pull, d, address .. "/ndtest-docker-app:2"))
    assert.equal("image_not_found", code_of(d.pull, d, address .. "/ndtest-docker-none"))
    local wrong = "sha256:" .. ("0"):rep(64)
    assert.equal("image_not_found", code_of(d.pull, d, address .. "/ndtest-docker-app@" .. wrong))
    assert.equal("pull_failed", code_of(d.pull, d, "127.0.0.1:1/ndtest-docker-app:1"))
    assert.equal("docker_refused", code_of(d.pull, d, "Not An Image"))
  end)
end)
