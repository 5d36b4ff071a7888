-- debug.lua - `ndctl debug`: the daemon's parsers and rules, for scripts: stdin to stdout, and an exit
-- status: 0 what was given is well-formed, 1 it isn't (stderr says where), 2 usage.

local fail = require "ndctl.lib.fail"
local json = require "json"
local out = require "ndctl.lib.out"
local text = require "ndctl.lib.text"

local INPUT_MOST = 64 * 1024 * 1024

local function read_all()
  local input = io.stdin:read(INPUT_MOST) or ""
  if io.stdin:read(0) then fail.usage("stdin brings more than 64 MiB") end
  return input
end

-- What was given is wrong, whatever code says so: that is exit status 1.
local function judge(fn, ...)
  local results = table.pack(pcall(fn, ...))
  if results[1] then return table.unpack(results, 2, results.n) end
  local e = results[2]
  if type(e) == "table" and e.code ~= "usage" and e.code ~= "cancelled" then e.exit = 1 end
  error(e, 0)
end

local function debug_json(ctx)
  local value = judge(json.decode, read_all())
  if ctx.options.check then return end
  out.print(json.encode(value, ctx.options.pretty))
end

-- Headers and the query are lists of pairs; bytes that aren't UTF-8 can't be JSON.
local function debug_http()
  local requests, failure = require("parsers").http(read_all())
  for _, request in ipairs(requests) do
    for _, key in ipairs { "headers", "query" } do json.array(request[key]) end
    for _, pair in ipairs(request.headers) do json.array(pair) end
    for _, pair in ipairs(request.query) do json.array(pair) end
    if not utf8.len(request.body) then
      request.body_base64, request.body = require("crypto").base64(request.body), nil
    end
    out.print(json.encode(request))
  end
  if failure then
    local e = fail.new(failure.code, failure.status > 0
      and ("refused with %d: %s"):format(failure.status, failure.message) or failure.message)
    e.exit = 1
    error(e, 0)
  end
  if #requests == 0 then fail.usage("there is no request on stdin") end
end

local function debug_stdcopy(ctx)
  local frames, failure = require("parsers").stdcopy(read_all())
  local only = ctx.options.stream
  for _, frame in ipairs(frames) do
    if ctx.options.json then
      local row = { stream = frame.stream, length = #frame.data }
      if utf8.len(frame.data) then row.data = frame.data else row.base64 = require("crypto").base64(frame.data) end
      out.print(json.encode(row))
    elseif (only == nil or only == frame.stream) then
      (frame.stream == "stderr" and not only and io.stderr or io.stdout):write(frame.data)
    end
  end
  if failure then
    local e = fail.new(failure.code, failure.message)
    e.exit = 1
    error(e, 0)
  end
end

local function debug_metrics(ctx)
  local families = judge(require("ndctl.lib.exposition").parse, read_all())
  if ctx.options.json then
    for _, family in ipairs(families) do
      json.array(family.samples)
      for _, sample in ipairs(family.samples) do
        if sample.value ~= sample.value or math.abs(sample.value) == math.huge then
          sample.value = tostring(sample.value)
        end
      end
      out.print(json.encode(family))
    end
    return
  end
  local samples = 0
  for _, family in ipairs(families) do samples = samples + #family.samples end
  out.print(("%s in %s"):format(text.plural(samples, "sample"), text.plural(#families, "metric")))
end

local function mode_text(mode)
  local letters, s = "rwxrwxrwx", ""
  for i = 1, 9 do s = s .. (mode >> (9 - i) & 1 == 1 and letters:sub(i, i) or "-") end
  return s
end

local function debug_tar(ctx)
  local problems = 0
  local function read(n) return io.stdin:read(n) end
  judge(require("ndctl.lib.tar").each, read, function(entry)
    if entry.problem then problems = problems + 1 end
    if ctx.options.json then return out.print(json.encode(entry)) end
    out.print(("%s %d/%d %10d %s%s"):format(mode_text(entry.mode), entry.uid, entry.gid, entry.size,
      text.clean(entry.name), entry.link and " -> " .. text.clean(entry.link) or ""))
    if entry.problem then out.note(("%s: %s"):format(text.clean(entry.name), entry.problem)) end
  end)
  if problems > 0 then
    local e = fail.new("unsafe_tar", ("%s must not be unpacked"):format(text.plural(problems, "member")))
    e.exit = 1
    error(e, 0)
  end
end

local function debug_jwt(ctx)
  local jwt, o = require "nd.jwt", ctx.options
  local token = judge(jwt.decode, (read_all():gsub("%s+$", "")))
  local now = (o.at and text.parse_time(o.at) or require("clock").now()) // 1000
  if o.key_file then
    local key = require("fs").read(o.key_file, 65536):gsub("\r?\n$", "")
    judge(jwt.verify, token, key, now)
  end
  out.json { header = token.header, claims = token.claims, verified = o.key_file ~= nil }
end

-- One expression a line; `#` begins a comment.
local function debug_cron(ctx)
  local cron, count = require "cron", 0
  for line in (read_all():gsub("\n?$", "\n")):gmatch("([^\n]*)\n") do
    local expression = line:match("^%s*(.-)%s*$")
    if expression ~= "" and expression:sub(1, 1) ~= "#" then
      count = count + 1
      local parsed = judge(cron.parse, expression)
      parsed.expression = expression
      if not ctx.options.check then out.print(json.encode(parsed)) end
    end
  end
  if count == 0 then fail.usage("there is no expression on stdin") end
end

local function debug_sigv4()
  local request = judge(json.decode, read_all())
  if type(request) ~= "table" then fail.usage("a request is a JSON object") end
  for _, name in ipairs { "method", "host", "region", "service", "access_key", "secret_key", "time" } do
    if type(request[name]) ~= "string" or request[name] == "" then
      fail.usage(("the request's '%s' is missing"):format(name))
    end
  end
  if not request.time:find("^%d%d%d%d%d%d%d%dT%d%d%d%d%d%dZ$") then
    fail.usage("the request's 'time' is written 20130524T000000Z")
  end
  out.json(require("nd.sigv4").sign(request))
end

local any_object, object_lines = { type = "object" }, { lines = true, type = "object" }

local function tool(row)
  row.permission = "local"
  row.options = row.options or {}
  return row
end

local http_request = "GET /a%20b?x=1 HTTP/1.1\r\nHost: example.com\r\n\r\n"
local sigv4_request = [[{"method": "GET", "host": "examplebucket.s3.amazonaws.com",
  "path": "/test.txt", "region": "us-east-1", "service": "s3", "time": "20130524T000000Z",
  "access_key": "AKIAIOSFODNN7EXAMPLE", "headers": {"Range": "bytes=0-9"},
  "secret_key": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}]]

return {
  name = "debug",
  summary = "Tools for scripts: the daemon's parsers and rules, stdin to stdout.",
  notes = { "Exit status 0: what was given is well-formed. 1: it isn't, and stderr says where." },
  exit_status = "0 what was given is well-formed, 1 it isn't, 2 usage.",
  examples = { { "ndctl debug json", stdin = "{}" } },
  commands = {
    tool {
      name = "json", json = {},
      summary = "Read JSON by the daemon's strict rules and write it canonically.",
      options = {
        { "pretty", type = "flag", doc = "on several lines" },
        { "check", type = "flag", doc = "write nothing" },
      },
      notes = { "RFC 8259, no name twice; names sorted, no blanks: equal values give equal bytes." },
      examples = { { "ndctl debug json", "of stdin", stdin = '{"b": 1, "a": [1.0, "\\u00fc"]}' } },
      run = debug_json,
    },
    tool {
      name = "jwt", json = any_object,
      summary = "Take a JSON Web Token apart; with a key, verify it.",
      options = {
        { "key-file", value = "PATH", complete = "files", doc = "the shared secret of HS256" },
        { "at", value = "TIME", doc = "verify as of then, and not now" },
      },
      examples = { { "ndctl debug jwt", "of stdin",
        stdin = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln\n" } },
      run = debug_jwt,
    },
    tool {
      name = "http", json = { lines = true, type = "object", required = { "method", "path", "headers" } },
      summary = "Parse HTTP requests as the daemon's doors do; one JSON object for each.",
      examples = { { "ndctl debug http", "of stdin", stdin = http_request } },
      run = debug_http,
    },
    tool {
      name = "tar", json = object_lines,
      summary = "List a tar stream, and what in it must never be unpacked.",
      examples = { { "ndctl debug tar", "of stdin", file = "archive.tar" } },
      run = debug_tar,
    },
    tool {
      name = "stdcopy", json = object_lines,
      summary = "Take Docker's multiplexed stream of logs and attach apart.",
      options = {
        { "stream", type = "choice", choices = { "stdout", "stderr" }, doc = "write this one alone" },
      },
      notes = { "What was written to stderr goes to stderr; --json prints a line for each frame." },
      examples = { { "ndctl debug stdcopy", "of stdin", stdin = "\1\0\0\0\0\0\0\3hi\n" } },
      run = debug_stdcopy,
    },
    tool {
      name = "cron", json = object_lines,
      summary = "Check cron expressions, one a line; print what each stands for.",
      options = { { "check", type = "flag", doc = "write nothing" } },
      notes = { "`ndctl cron next` says when one is due." },
      examples = { { "ndctl debug cron", "of stdin", stdin = "*/15 9-17 * * mon-fri\n@daily\n" } },
      run = debug_cron,
    },
    tool {
      name = "metrics", json = object_lines,
      summary = "Check a Prometheus exposition; --json prints a line for each metric.",
      examples = { { "ndctl debug metrics", "of stdin", stdin = "# TYPE up gauge\nup 1\n" } },
      run = debug_metrics,
    },
    tool {
      name = "sigv4", json = any_object,
      summary = "Sign a request by AWS Signature Version 4.",
      notes = { "The request is a JSON object: method, host, path, query, headers, body or "
        .. "body_sha256, region, service, access_key, secret_key, session_token, time." },
      examples = { { "ndctl debug sigv4", "of stdin", stdin = sigv4_request } },
      run = debug_sigv4,
    },
  },
}
