-- A Docker that hangs, truncates or lies: each way ends in a named error, in time, and the loop
-- runs on.
local clock = require "clock"
local docker = require "docker"
local task = require "task"

local TIMEOUT = 400 -- ms, of every call here
local SLACK = 600   -- ms, for a busy machine

local dir = io.popen("mktemp -d"):read("l")
local socket, script = dir .. "/d.sock", dir .. "/script"
local fake

local GOOD_PING = "on GET /_ping\nreply 200 text/plain OK\n"

local function ping_of(api)
  return ("on GET /_ping\nsend HTTP/1.1 200 OK\\r\\nApi-Version: %s\\r\\n"
    .. "Content-Length: 2\\r\\n\\r\\nOK\nkeep\n"):format(api)
end

local function write(text)
  local new = assert(io.open(script .. ".new", "w"))
  new:write(text)
  new:close()
  assert(os.rename(script .. ".new", script))
end

local function asked()
  local file = io.open(script .. ".log")
  local text = file and file:read("a") or ""
  if file then file:close() end
  os.remove(script .. ".log")
  return text
end

local function connect(timeout)
  return docker.connect { socket = socket, timeout_ms = timeout or TIMEOUT }
end

-- Runs `fn` and returns what it raised, how long it took, and the longest the loop was held (ms).
local function watched(fn, ...)
  local worst, last, on = 0, clock.monotonic(), true
  local ticker = task.spawn("ticker", function()
    while on do
      task.sleep(5)
      local now = clock.monotonic()
      worst, last = math.max(worst, now - last - 5), now
    end
  end)
  task.yield()
  last = clock.monotonic()
  local start = last
  local ok, e = pcall(fn, ...)
  local took = clock.monotonic() - start
  on = false
  ticker:join()
  return not ok and e or nil, took, worst
end

local function start(d) d:start("web-1") end
local function create(d) return d:create("web-1", { Image = "demo:1" }) end
local function inspect(d) return d:inspect("web-1") end
local function list(d) return d:list { all = true } end
local function pull(d) return d:pull("demo:1") end
local function wait(d) return d:wait("web-1", { timeout_ms = TIMEOUT }) end
local function exec(d) return d:exec("web-1", { "/bin/true" }) end
local function drain(stream) repeat until stream:recv() == nil end
local function logs(d) drain(d:logs("web-1", { follow = true })) end
local function events(d) drain(d:events {}) end
local function version(d) return d:version() end

local OK = "HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\n"
local CHUNKED = OK .. "Transfer-Encoding: chunked\\r\\n\\r\\n"
local NO_TTY = "on GET /containers/web-1/json\njson 200 "
  .. '{"Id":"a","Config":{"Tty":false}}\n'
local RAW = "HTTP/1.1 200 OK\\r\\nContent-Type: application/vnd.docker.raw-stream\\r\\n\\r\\n"
local EXEC = 'on POST /containers/web-1/exec\njson 201 {"Id":"abc123"}\n'

-- name, code, what is called, the script behind the ping (a string without "on" answers everything)
local cases = {
  { "never answers", "docker_timeout", start, "hang" },
  { "answers nothing and closes", "docker_unreachable", start, "close" },
  { "leaves the request unread", "docker_unreachable", start, "unread", whole = true },
  { "closes within the head", "docker_unreachable", inspect, "send HTTP/1.1 200 OK\\r\\nConte" },
  { "closes within the body", "docker_unreachable", inspect,
    "send " .. OK .. 'Content-Length: 100\\r\\n\\r\\n{"Id":' },
  { "closes within a chunk", "docker_unreachable", inspect,
    "send " .. CHUNKED .. '40\\r\\n{"Id":' },
  { "closes between two chunks", "docker_unreachable", inspect,
    "send " .. CHUNKED .. '6\\r\\n{"Id":\\r\\n' },
  { "hangs within the head", "docker_timeout", inspect, "send HTTP/1.1 200 OK\\r\\nCont\nhang" },
  { "hangs within the body", "docker_timeout", inspect,
    "send " .. OK .. "Content-Length: 100\\r\\n\\r\\n{\nhang" },
  { "hangs within a chunk", "docker_timeout", inspect, "send " .. CHUNKED .. "40\\r\\n{\nhang" },
  { "sends a chunk without a size", "docker_protocol", inspect,
    "send " .. CHUNKED .. "zz\\r\\n{}\\r\\n0\\r\\n\\r\\n" },
  { "drips", "docker_timeout", inspect, "drip 20 " .. OK .. "Content-Length: 500\\r\\n\\r\\n{}" },
  { "never ends its head", "docker_too_large", inspect,
    "send HTTP/1.1 200 OK\\r\\n\nflood 100000 X-Again: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\\r\\n" },
  { "sends one endless header", "docker_too_large", inspect,
    "send HTTP/1.1 200 OK\\r\\nX: \nflood 1000000 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" },
  { "sends a giant body", "docker_too_large", inspect,
    "send " .. CHUNKED .. "7fffffff\\r\\n\nflood 1000000 " .. ("a"):rep(44) },
  { "announces a giant body", "docker_too_large", inspect,
    "send " .. OK .. "Content-Length: 99999999999\\r\\n\\r\\n{}" },
  { "is no HTTP server", "docker_protocol", inspect, "send SSH-2.0-OpenSSH_9.2\\r\\n" },
  { "speaks HTTP/0.9", "docker_protocol", inspect, "send <html>hello</html>" },
  { "fails with HTML", "docker_error", inspect, "reply 500 text/html <h1>Oops</h1>" },
  { "fails with words", "docker_error", start,
    'json 500 {"message":"driver failed programming"}', says = "driver failed" },
  { "fails with words of the wrong type", "docker_error", start,
    'json 500 {"message":[1]}' },
  { "answers broken JSON", "docker_protocol", inspect, 'json 200 {"Id": "a", ' },
  { "answers a list instead of an object", "docker_protocol", inspect, "json 200 []" },
  { "answers an object instead of a list", "docker_protocol", list, "json 200 {}" },
  { "answers a list without an end", "docker_protocol", list, 'json 200 [{"Id":"a"}' },
  { "answers a list with a hole", "docker_protocol", list, "json 200 [{},,{}]" },
  { "answers a list of garbage", "docker_protocol", list, 'json 200 [{"a":]},"]' },
  { "answers a list and more", "docker_protocol", list, "json 200 [{}]{}" },
  { "describes a container by two megabytes", "docker_too_large", inspect,
    "send " .. OK .. '\\r\\n{"Id":"\nflood 50000 ' .. ("a"):rep(44) .. '\nsend "}' },
  { "answers nothing at all", "docker_protocol", inspect, "json 200" },
  { "names a member twice", "docker_protocol", inspect, 'json 200 {"Id":"a","Id":"b"}' },
  { "nests without end", "docker_protocol", inspect,
    "send " .. OK .. '\\r\\n{"a":\nflood 100000 [' },
  { "creates without an Id", "docker_protocol", create, 'json 201 {"Warnings":[]}' },
  { "creates with an Id that is no text", "docker_protocol", create, 'json 201 {"Id":7}' },
  { "creates with an empty Id", "docker_protocol", create, 'json 201 {"Id":""}' },
  { "does not know the container", "docker_not_found", start,
    'json 404 {"message":"No such container: web-1"}', says = "No such container" },
  { "does not know the image", "image_not_found", create,
    'json 404 {"message":"No such image: demo:1"}' },
  { "has the name already", "docker_conflict", create,
    'json 409 {"message":"The name is already in use"}' },
  { "refuses the entrypoint", "docker_refused", start,
    'json 400 {"message":"exec: \\"nope\\": executable file not found"}' },
  { "redirects", "docker_protocol", inspect,
    "send HTTP/1.1 301 Moved\\r\\nLocation: /x\\r\\nContent-Length: 0\\r\\n\\r\\n" },
  { "switches protocols unasked", "docker_protocol", inspect,
    "send HTTP/1.1 101 UPGRADED\\r\\nUpgrade: tcp\\r\\nConnection: Upgrade\\r\\n\\r\\nhello" },
  { "waits without an exit code", "docker_protocol", wait, "json 200 {}" },
  { "waits and fails", "docker_error", wait,
    'json 200 {"StatusCode":1,"Error":{"Message":"lost it"}}', says = "lost it" },
  { "waits without answering", "docker_timeout", wait, "hang" },

  { "fails inside the stream of a pull", "image_not_found", pull, [[
on * *
send HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n
send {"status":"Pulling from library/demo","id":"1"}\r\n
send {"errorDetail":{"message":"manifest for demo:1 not found"},"error":"x"}\r\n]] },
  { "is denied by the registry", "registry_denied", pull,
    'json 500 {"message":"unauthorized: authentication required"}' },
  { "can't reach the registry", "pull_failed", pull,
    'json 500 {"message":"dial tcp: connection refused"}', says = "refused" },
  { "stops within a pull", "docker_timeout", pull,
    "send " .. OK .. '\\r\\n{"status":"Downloading","id":"a"}\\r\\n\nhang' },
  { "breaks within a pull", "docker_unreachable", pull,
    "send " .. CHUNKED .. '10\\r\\n{"status":"Pull' },
  { "sends garbage within a pull", "docker_protocol", pull, "send " .. OK .. "\\r\\n<html>\\n" },
  { "sends an endless message within a pull", "docker_protocol", pull,
    "send " .. OK .. "\\r\\n\nflood 100000 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" },
  { "ends a pull without an image", "image_not_found", pull, whole = true, GOOD_PING
    .. 'on POST /images/create\njson 200 {"status":"Done"}\n'
    .. 'on GET /images\njson 404 {"message":"No such image: demo:1"}\n' },

  { "announces a huge log frame", "docker_protocol", logs,
    NO_TTY .. "on * *\nsend " .. RAW .. "\\x01\\0\\0\\0\\xff\\xff\\xff\\xffhello\nhang" },
  { "cuts a log frame", "docker_protocol", logs,
    NO_TTY .. "on * *\nsend " .. RAW .. "\\x01\\0\\0\\0\\0\\0\\0\\x20hello" },
  { "sends a log frame with a wrong head", "docker_protocol", logs,
    NO_TTY .. "on * *\nsend " .. RAW .. "hello, this is no frame\nhang" },
  { "does not say whether there is a terminal", "docker_protocol", logs,
    'on * *\njson 200 {"Id":"a","Config":{}}\n' },
  { "never opens the log", "docker_timeout", logs, NO_TTY .. "on * *\nhang" },
  { "never opens the events", "docker_timeout", events, "hang" },
  { "ends the events", "docker_unreachable", events, "send " .. OK .. "\\r\\n{}\\n" },
  { "breaks the events", "docker_unreachable", events, "send " .. CHUNKED .. '2\\r\\n{}\\r\\n' },
  { "sends garbage as an event", "docker_protocol", events,
    "send " .. OK .. '\\r\\n{"a":}\\n\nhang' },

  { "runs a command without an Id", "docker_protocol", exec, "json 201 {}" },
  { "gives a command a wild Id", "docker_protocol", exec,
    'json 201 {"Id":"../../containers/x"}' },
  { "never ends a command", "docker_timeout", exec, EXEC
    .. "on POST /exec\nsend " .. RAW .. "\nhang\n"
    .. 'on GET /exec\njson 200 {"Running":true,"Pid":0}\n' },
  { "does not tell the exit code", "docker_protocol", exec, EXEC .. "on POST /exec\nsend " .. RAW
    .. "\non GET /exec\njson 200 {}\n" },

  { "speaks too old a version", "docker_version", version, whole = true,
    ping_of("1.18") },
  { "wants too new a version", "docker_version", version, whole = true,
    "on GET /_ping\nsend HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nOK\nkeep\non * *\n"
    .. 'json 200 {"ApiVersion":"1.99","MinAPIVersion":"1.90"}\n' },
  { "tells no version", "docker_version", version, whole = true,
    "on GET /_ping\nsend HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nOK\nkeep\n"
    .. "on * *\njson 200 {}\n" },
  { "tells a version that is none", "docker_version", version, whole = true,
    "on * *\nsend HTTP/1.1 200 OK\\r\\nApi-Version: new\\r\\nContent-Length: 2\\r\\n\\r\\nOK\n" },
  { "always calls our version too old", "docker_version", version, whole = true,
    GOOD_PING .. "on * *\n"
    .. 'json 400 {"message":"client version 1.41 is too old. Minimum is 1.44"}\n' },
  { "hangs when asked for its version", "docker_timeout", version, whole = true, "on * *\nhang\n" },
  { "fails when asked for its version", "docker_error", version, whole = true,
    "on * *\nreply 503 text/plain starting\n" },
}

local function start_fake()
  write(GOOD_PING)
  local bin = os.getenv("ND_BIN_DIR") or "build/debug/bin"
  fake = assert(io.popen(("%s/nd-fake %s %s >/dev/null"):format(bin, socket, script), "w"))
  local deadline = clock.monotonic() + 5000
  while not pcall(function() return connect():ping() end) do
    assert(clock.monotonic() < deadline, "nd-fake did not start")
    task.sleep(5)
  end
end

describe("a Docker that", function()
  setup(start_fake)

  teardown(function()
    fake:close()
    os.execute("rm -rf '" .. dir .. "'")
  end)

  for _, case in ipairs(cases) do
    local name, code, run, text = table.unpack(case, 1, 4)
    it(name .. " ends in " .. code, function()
      if not case.whole then
        if not text:find("^on ") then text = "on * *\n" .. text .. "\n" end
        text = GOOD_PING .. text
      end
      write(text)
      -- What ends by its size must have the time to arrive, on a busy machine too.
      local timeout = code == "docker_too_large" and 5000 or TIMEOUT
      local e, took, worst
      for _ = 1, 3 do -- a busy machine may hold us once
        e, took, worst = watched(run, connect(timeout))
        if worst < 100 then break end
      end
      assert(type(e) == "table", "no error object: " .. tostring(e))
      assert.equal(code, e.code, e.message)
      if case.says then assert.truthy(e.message:find(case.says, 1, true), e.message) end
      assert(took < timeout + SLACK, ("took %d ms"):format(took))
      assert(worst < 100, ("held the loop for %d ms"):format(worst))
    end)
  end

  it("lists 60,000 containers does not hold the loop", function()
    write(GOOD_PING .. "on * *\nsend " .. OK .. "\\r\\n [\nflood 60000 "
      .. '{"Id":"\\\\",]}","Names":["/web"],"Labels":{"a":"b"}},\nsend {"Id":"last"} ] \n')
    local found
    local e, worst, took
    for _ = 1, 3 do
      e, took, worst = watched(function() found = connect(20000):list {} end)
      if worst < 100 then break end
    end
    assert.is_nil(e)
    assert(took < 20000)
    assert.equal(60001, #found)
    assert.equal('",]}', found[1].Id)
    assert.equal("last", found[60001].Id)
    assert(worst < 100, ("held the loop for %d ms"):format(worst))
  end)

  it("lists nothing gives an empty list", function()
    write(GOOD_PING .. "on * *\njson 200  [ ] \n")
    assert.is_true(require("json").is_array(connect():list {}))
  end)

  it("answers 204 with a body does not confuse the next call", function()
    write(GOOD_PING .. "on POST *\nsend HTTP/1.1 204 No Content\\r\\n\\r\\nleftover\nkeep\n"
      .. 'on GET *\njson 200 {"Id":"a"}\n')
    local d = connect()
    d:start("web-1")
    assert.equal("a", d:inspect("web-1").Id)
  end)

  it("sends more than it announced does not confuse the next call", function()
    write(GOOD_PING .. "on GET *\nsend " .. OK
      .. 'Content-Length: 10\\r\\n\\r\\n{"Id":"a"}{"Id":"b"}\nkeep\n')
    local d = connect()
    assert.equal("a", d:inspect("web-1").Id)
    assert.equal("a", d:inspect("web-1").Id)
  end)

  it("changed its version is asked again, and the call is made once more", function()
    write(GOOD_PING .. 'on * *\njson 200 {"Id":"a"}\n')
    local d = connect()
    d:inspect("web-1")
    assert.matches("GET /v1.41/containers/web%-1/json", asked())
    write(ping_of("1.44")
      .. "on GET /containers/old\n"
      .. 'json 400 {"message":"client version 1.41 is too old"}\n'
      .. 'on * *\njson 200 {"Id":"b"}\n')
    assert.has_error(function() d:inspect("old") end)
    assert.equal("b", d:inspect("web-1").Id)
    assert.matches("GET /v1.44/containers/web%-1/json", asked())
  end)

  it("goes away is missed, and found again with the version it came back with", function()
    write(GOOD_PING .. 'on * *\njson 200 {"Id":"a"}\n')
    local d = connect()
    d:inspect("web-1")
    fake:close()
    local ok, e = pcall(d.inspect, d, "web-1")
    assert.is_false(ok)
    assert.equal("docker_unreachable", e.code)
    start_fake()
    write(ping_of("1.44") .. 'on * *\njson 200 {"Id":"b"}\n')
    asked()
    assert.equal("b", d:inspect("web-1").Id)
    assert.matches("GET /v1.44/containers/web%-1/json", asked())
  end)

  it("is newer than us is spoken to in our newest version", function()
    write(ping_of("1.77")
      .. 'on * *\njson 200 {"Id":"a"}\n')
    asked()
    connect():inspect("web-1")
    assert.matches("GET /v1.52/containers", asked())
  end)

  it("is asked for its version once, over one connection", function()
    write(GOOD_PING .. 'on * *\njson 200 {"Id":"a"}\n')
    asked()
    local d = connect()
    for _ = 1, 5 do d:inspect("web-1") end
    local _, pings = asked():gsub("GET /_ping", "")
    assert.equal(1, pings)
  end)

  it("pulls with credentials gets them in a header, base64url", function()
    write(GOOD_PING .. 'on POST *\njson 200 {"status":"ok"}\n'
      .. 'on GET *\njson 200 {"Id":"sha256:1",'
      .. '"RepoDigests":["other@sha256:9","r.io/demo@sha256:2"]}\n')
    asked()
    local name, id = connect():pull("r.io/demo:1", { auth = { username = "u", password = "p??>" } })
    assert.same({ "r.io/demo@sha256:2", "sha256:1" }, { name, id })
    local log = asked()
    assert.matches("X%-Registry%-Auth: eyJwYXNzd29yZCI6InA_Pz4iLCJ1c2VybmFtZSI6InUifQ==", log)
    assert.matches("fromImage=r.io%%2Fdemo&tag=1", log)
  end)

  it("drips a pull is reported at most five times a second", function()
    local lines = {}
    for i = 1, 100 do
      lines[i] = ('send {"status":"Downloading","id":"l%d",'
        .. '"progressDetail":{"current":%d,"total":100}}\\n\nwait 4')
        :format(i % 3, i)
    end
    write(GOOD_PING .. "on POST *\nsend " .. OK .. "\\r\\n\n" .. table.concat(lines, "\n") .. "\n"
      .. 'on GET *\njson 200 {"Id":"sha256:1"}\n')
    local seen = {}
    local name = connect():pull("demo:1", { progress = function(p) seen[#seen + 1] = p end })
    assert.equal("sha256:1", name)
    assert(#seen >= 2 and #seen <= 12, #seen)
    assert.equal(300, seen[#seen].total)
    assert.equal(297, seen[#seen].done)
    assert.matches("0 of 3 layers complete", seen[#seen].text)
  end)

  it("pulls for a caller whose progress function raises is left", function()
    write(GOOD_PING .. "on POST *\nsend " .. OK .. '\\r\\n{"status":"a"}\\n\nhang\n')
    local ok, e = pcall(connect().pull, connect(), "demo:1", {
      progress = function() error("stop", 0) end,
    })
    assert.is_false(ok)
    assert.equal("stop", e)
  end)

  it("hangs is left at once by a task that is cancelled", function()
    write(GOOD_PING .. "on * *\nhang\n")
    for _, run in ipairs { start, pull, logs, events, exec } do
      local t = task.spawn("t", run, connect())
      task.sleep(10)
      local begun = clock.monotonic()
      t:cancel()
      local ok, e = pcall(t.join, t)
      assert.is_false(ok)
      assert.equal("cancelled", e.code)
      assert(clock.monotonic() - begun < 200)
    end
  end)

  it("logs for a terminal gives lines without carriage returns", function()
    write(GOOD_PING .. 'on GET /containers/web-1/json\njson 200 {"Config":{"Tty":true}}\n'
      .. "on * *\nsend " .. RAW .. "2024-01-02T03:04:05.678901234Z one\\r\\n\nwait 5\n"
      .. "send 2024-01-02T03:04:06Z tw\nwait 5\nsend o\\r\\nlast\n")
    local log, got = connect():logs("web-1", { follow = true }), {}
    for line, stream, time in function() return log:recv() end do
      got[#got + 1] = { line, stream, time }
    end
    assert.same({ { "one", "stdout", 1704164645678 }, { "two", "stdout", 1704164646000 },
      { "last", "stdout" } }, got)
  end)
end)

describe("a Docker socket that", function()
  local function code_of(path)
    local ok, e = pcall(function() docker.connect { socket = path }:ping() end)
    assert.is_false(ok)
    return e.code, e.hint
  end

  it("does not exist, is a file or has no listener is docker_unreachable", function()
    local place = io.popen("mktemp -d"):read("l")
    assert.equal("docker_unreachable", code_of(place .. "/none"))
    io.open(place .. "/file", "w"):close()
    assert.equal("docker_unreachable", code_of(place .. "/file"))
    local code, hint = code_of(place)
    assert.equal("docker_unreachable", code)
    assert.matches("dockerd", hint)
    os.execute("rm -rf '" .. place .. "'")
  end)
end)
