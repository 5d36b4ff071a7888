-- cli_debug_spec.lua - ndctl debug: what is well-formed goes through, what isn't is exit status 1.

local crypto = require "crypto"
local fs = require "fs"
local json = require "json"
local process = require "process"
local support = require "tests.lua.cli_support"

local function debug(words, stdin, options)
  local argv = { "debug", table.unpack(words) }
  options = options or {}
  options.stdin = stdin
  return support.ndctl(argv, options)
end

local function good(words, stdin, options)
  local r = debug(words, stdin, options)
  assert.equal(0, r.status, r.stderr)
  return r.stdout
end

local function bad(words, stdin, why)
  local r = debug(words, stdin)
  assert.equal(1, r.status, r.stdout)
  assert.matches(why, r.stderr)
end

-- A tar made by Python's tarfile; `lines` add members to `t`.
local function tar(lines)
  local r = process.run { timeout_ms = 10000, argv = { "python3", "-c", ([[
import io, sys, tarfile
t = tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT)
def add(name, kind=tarfile.REGTYPE, link="", data=b""):
    m = tarfile.TarInfo(name); m.type = kind; m.linkname = link; m.size = len(data)
    t.addfile(m, io.BytesIO(data))
%s
t.close()]]):format(lines) }, env = { PATH = os.getenv "PATH" } }
  assert.equal(0, r.status, r.stderr)
  return r.stdout
end

describe("ndctl debug", function()
  it("writes JSON canonically, and refuses what isn't JSON", function()
    assert.equal('{"a":[1,"ü"],"b":{}}\n', good({ "json" }, ' {"b": {}, "a": [1, "\\u00fc"]} '))
    assert.equal("", good({ "json", "--check" }, "[]"))
    for _, text in ipairs { "", "{", '{"a":1,"a":2}', "[1,]", "nul", "01", '"\1"', "[] []", "'a'" } do
      bad({ "json" }, text, "JSON")
    end
  end)

  it("parses HTTP as the doors do", function()
    local r = json.decode(good({ "http" }, "POST /a%20b/../c?x=%31&y HTTP/1.1\r\nHost: h\r\n"
      .. "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
    assert.same({ "POST", "/c", "abc", "HTTP/1.1", true }, { r.method, r.path, r.body, r.version, r.keep_alive })
    assert.same({ { "x", "1" }, { "y", "" } }, r.query)
    assert.same({ "host", "h" }, r.headers[1])
    local two = ("GET / HTTP/1.1\r\nHost: h\r\n\r\n"):rep(2)
    assert.equal(2, select(2, good({ "http" }, two):gsub("\n", "")))
    bad({ "http" }, "GET / HTTP/1.1\r\n\r\n", "refused with 400")
    bad({ "http" }, "GET / HTTP/1.1\nHost: h\n\n", "refused with 400")
    bad({ "http" }, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      "refused with 400")
    bad({ "http" }, "GET /../x HTTP/1.1\r\nHost: h\r\n\r\n", "refused with 400")
    bad({ "http" }, "GET / HTTP/1.1\r\nHo", "in the middle of its head")
    assert.equal(2, debug({ "http" }, "").status)
  end)

  it("takes Docker's frames apart", function()
    local stream = "\1\0\0\0\0\0\0\3out\2\0\0\0\0\0\0\4err\n\1\0\0\0\0\0\0\1\n"
    local r = debug({ "stdcopy" }, stream)
    assert.same({ "out\n", "err\n" }, { r.stdout, r.stderr })
    assert.equal("err\n", good({ "stdcopy", "--stream", "stderr" }, stream))
    assert.matches('{"data":"out","length":3,"stream":"stdout"}', good({ "stdcopy", "--json" }, stream))
    bad({ "stdcopy" }, "\1\0\0\0\0\0\0\9out", ".")
    bad({ "stdcopy" }, "\9\0\0\0\0\0\0\1x", ".")
  end)

  it("reads expositions strictly", function()
    local exposition = '# HELP a All.\n# TYPE a counter\na{x="q\\"\\n",y="2"} 1 1700000000000\na{x="z"} 2e3\n'
      .. '# TYPE h histogram\nh_bucket{le="1"} 1\nh_bucket{le="+Inf"} 2\nh_sum 3\nh_count 2\nuntyped NaN\n'
    assert.equal("7 samples in 3 metrics\n", good({ "metrics" }, exposition))
    local first = json.decode(good({ "metrics", "--json" }, exposition):match("^[^\n]*"))
    assert.same({ 'q"\n', "counter", "All." }, { first.samples[1].labels.x, first.type, first.help })
    for text, why in pairs {
      ["a 1"] = "line 1: the last line has no end", ["a x\n"] = "isn't a number",
      ["a{x=1} 1\n"] = "labels are", ["a 1\nb 1\na 2\n"] = "line 3: a isn't in one piece",
      ["a 1\na 1\n"] = "was there before", ["a 1\n# TYPE a gauge\n"] = "after its samples",
      ["# TYPE a rate\n"] = "isn't a type", ["# TYPE a counter\na -1\n"] = "below zero",
      ['# TYPE h histogram\nh_bucket{le="1"} 1\n'] = "end with %+Inf",
      ['# TYPE h histogram\nh_bucket{le="1"} 2\nh_bucket{le="2"} 1\n'] = "don't grow",
      ['a{x="\\t"} 1\n'] = "isn't an escape", ["1a 1\n"] = "a comment or a sample",
      ["# TYPE h histogram\nh 1\n"] = "has no sample",
    } do bad({ "metrics" }, text, why) end
  end)

  it("lists a tar and names what must not be unpacked", function()
    local long = ("d/"):rep(80) .. "file"
    assert.matches("rw%-r%-%-r%-%- 0/0 +3 " .. long, good({ "tar" }, tar('add("' .. long .. '", data=b"abc")')))
    assert.equal("", good({ "tar" }, ("\0"):rep(1024)))
    good({ "tar" }, tar [[
add("a/", tarfile.DIRTYPE); add("a/f", data=b"x" * 5000); add("a/l", tarfile.SYMTYPE, "../a/f")
add("a/h", tarfile.LNKTYPE, "a/f"); add("a/", tarfile.DIRTYPE)]])
    for lines, why in pairs {
      ['add("/etc/passwd")'] = "absolute", ['add("a/../../b")'] = "'%.%.'",
      ['add("l", tarfile.SYMTYPE, "/etc")'] = "links out", ['add("d/l", tarfile.SYMTYPE, "../../x")'] = "links out",
      ['add("l", tarfile.SYMTYPE, "d"); add("l/x")'] = "below a symbolic link",
      ['add("h", tarfile.LNKTYPE, "nothing")'] = "isn't in the archive", ['add("n", tarfile.CHRTYPE)'] = "device",
      ['add("p", tarfile.FIFOTYPE)'] = "fifo", ['add("a"); add("./a")'] = "before",
    } do bad({ "tar" }, tar(lines), why) end
    local archive = tar 'add("a", data=b"abc")'
    bad({ "tar" }, archive:sub(1, 700), "cut off")
    bad({ "tar" }, archive:sub(1, 512 * 2), "no end mark")
    bad({ "tar" }, "b" .. archive:sub(2), "checksum")
    bad({ "tar" }, ("x"):rep(512), "octal")
  end)

  it("takes a JWT apart and holds it against a key", function()
    local dir = support.dir()
    fs.write(dir .. "/key", "secret\n")
    local function token(header, claims, key)
      local signed = crypto.base64url(json.encode(header)) .. "." .. crypto.base64url(json.encode(claims))
      return signed .. "." .. crypto.base64url(crypto.unhex(crypto.hmac(key or "secret", signed)))
    end
    local verify = { "jwt", "--key-file", dir .. "/key", "--at", "2026-01-01T00:00:00Z" }
    local at = 1767225600
    local seen = json.decode(good(verify, token({ alg = "HS256" }, { sub = "a", exp = at + 10, nbf = at })))
    assert.same({ "a", true }, { seen.claims.sub, seen.verified })
    assert.is_false(json.decode(good({ "jwt" }, token({ alg = "none" }, {}, "x"))).verified)
    bad(verify, token({ alg = "HS256" }, {}, "other"), "isn't this key's")
    bad(verify, token({ alg = "none" }, {}), "only HS256")
    bad(verify, token({ alg = "HS256" }, { exp = at - 61 }), "expired")
    bad(verify, token({ alg = "HS256" }, { nbf = at + 61 }), "isn't valid yet")
    bad(verify, token({ alg = "HS256", crit = { "x" } }, {}), "critical")
    bad({ "jwt" }, "a.b", "three parts")
    bad({ "jwt" }, "e30.bm8.", "payload isn't JSON")
    fs.remove(dir, { recursive = true })
  end)

  it("reads cron expressions, and says when they are due", function()
    assert.same({ 0, 30 }, json.decode(good({ "cron" }, "# twice an hour\n*/30 * * * *\n")).minutes)
    bad({ "cron" }, "60 * * * *\n", "minute")
    bad({ "cron" }, "@dayly\n", ".")
    assert.equal(2, debug({ "cron" }, "\n").status)
    local r = support.ndctl { "cron", "next", "30 2 * * *", "--tz", "Europe/Berlin", "-n", "3",
      "--from", "2026-03-28T00:00:00Z" }
    assert.equal("2026-03-28T01:30:00.000Z\n2026-03-29T01:00:00.000Z\n2026-03-30T00:30:00.000Z\n", r.stdout)
    for _, words in ipairs { { "* * *" }, { "0 0 30 2 *" }, { "@daily", "--tz", "Mars/Olympus" },
      { "@daily", "--from", "noon" } } do
      assert.equal(2, support.ndctl({ "cron", "next", table.unpack(words) }).status, words[1])
    end
  end)

  it("signs requests for S3", function()
    local r = json.decode(good({ "sigv4" }, json.encode { method = "GET", host = "examplebucket.s3.amazonaws.com",
      path = "/test.txt", region = "us-east-1", service = "s3", time = "20130524T000000Z",
      access_key = "AKIAIOSFODNN7EXAMPLE", headers = { Range = "bytes=0-9" },
      secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" }))
    assert.equal("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41", r.signature)
    assert.equal(2, debug({ "sigv4" }, "{}").status)
    bad({ "sigv4" }, "{", "JSON")
  end)
end)
