-- Certificates as the daemon reads, checks and makes them, with OpenSSL's own program as the judge.

local cert = require "cert"
local fs = require "fs"
local process = require "process"

local DAY = 24 * 3600 * 1000
local NOW = 1767225600000 -- 2026-01-01

local function openssl(...)
  local r = process.run { argv = { "openssl", ... }, timeout_ms = 10000 }
  assert(r.status == 0, r.stderr)
  return r.stdout
end

describe("certificates", function()
  local dir, root, root_key

  local function make(names, more)
    local o = { common_name = names[1], names = names, not_before = NOW, not_after = NOW + 90 * DAY,
      issuer = root, issuer_key = root_key }
    for k, v in pairs(more or {}) do o[k] = v end
    return cert.make(o)
  end

  local function code_of(fn, ...)
    local ok, e = pcall(fn, ...)
    assert.is_false(ok)
    return e.code, e
  end

  setup(function()
    dir = os.tmpname()
    os.remove(dir)
    fs.mkdir(dir, 448)
    root, root_key = cert.make { common_name = "Root of a test", authority = true, not_before = NOW,
      not_after = NOW + 3650 * DAY }
  end)

  teardown(function() fs.remove(dir, { recursive = true }) end)

  it("that are made are what was asked for, and OpenSSL trusts them", function()
    local leaf, key = make { "a.test", "*.b.test" }
    local list = cert.read(leaf .. root)
    assert.equal(2, #list)
    assert.same({ "a.test", "*.b.test" }, list[1].names)
    assert.equal("CN=a.test", list[1].subject)
    assert.equal("Root of a test", list[1].issuer_name)
    assert.equal("EC 256", list[1].key)
    assert.equal(NOW, list[1].not_before)
    assert.equal(NOW + 90 * DAY, list[1].not_after)
    assert.is_true(list[1].issued_by_next)
    assert.is_false(list[1].authority)
    assert.is_true(list[2].authority)
    assert.is_true(list[2].self_signed)
    assert.is_nil(list[1].weak)
    assert.is_nil(cert.fits(leaf, key))
    fs.write(dir .. "/root", root)
    fs.write(dir .. "/leaf", leaf)
    assert.truthy(openssl("verify", "-CAfile", dir .. "/root", "-attime", tostring(NOW // 1000 + 60),
      "-verify_hostname", "x.b.test", dir .. "/leaf"):find "OK")
  end)

  it("of another issuer's name or key aren't taken for a chain", function()
    local leaf = make { "a.test" }
    local other = cert.make { common_name = "Root of a test", authority = true, not_before = NOW,
      not_after = NOW + DAY }
    assert.is_false(cert.read(leaf .. other)[1].issued_by_next)
    assert.is_false(cert.read(root .. leaf)[1].issued_by_next)
  end)

  it("whose key is another's are refused, and so is a key with a passphrase", function()
    local leaf = make { "a.test" }
    local _, other = make { "a.test" }
    assert.equal("bad_key", code_of(cert.fits, leaf, other))
    assert.equal("bad_key", code_of(cert.fits, leaf, "nothing"))
    local locked = openssl("genrsa", "-aes128", "-passout", "pass:secret", "2048")
    local code, e = code_of(cert.fits, leaf, locked)
    assert.equal("bad_key", code)
    assert.truthy(e.message:find "passphrase")
    assert.equal("bad_certificate", code_of(cert.fits, "nothing", other))
  end)

  it("that are none are refused with a reason", function()
    local leaf = make { "a.test" }
    for _, text in ipairs { "", "hello", leaf:sub(1, 200), (leaf:gsub("M", "!", 5)),
      "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", leaf:rep(17) } do
      local code, e = code_of(cert.read, text)
      assert.equal("bad_certificate", code, text:sub(1, 50))
      assert.truthy(#e.message > 10)
    end
    assert.equal(16, #cert.read(leaf:rep(16)))
  end)

  it("that browsers refuse are told for weak", function()
    openssl("req", "-x509", "-newkey", "rsa:1024", "-nodes", "-subj", "/CN=weak.test", "-keyout", dir .. "/key",
      "-out", dir .. "/weak")
    assert.truthy(cert.read(fs.read(dir .. "/weak"))[1].weak:find "2048")
    fs.write(dir .. "/root", root)
    fs.write(dir .. "/root_key", root_key)
    openssl("req", "-x509", "-newkey", "rsa:2048", "-sha1", "-nodes", "-subj", "/CN=weak.test", "-keyout",
      dir .. "/key", "-out", dir .. "/weak", "-CA", dir .. "/root", "-CAkey", dir .. "/root_key")
    local info = cert.read(fs.read(dir .. "/weak"))[1]
    assert.truthy(info.weak:find "SHA%-1")
    assert.same({}, info.names)
    assert.is_nil(cert.fits(fs.read(dir .. "/weak"), fs.read(dir .. "/key")))
    openssl("req", "-x509", "-newkey", "rsa:2048", "-sha1", "-nodes", "-subj", "/CN=root.test", "-keyout",
      dir .. "/key", "-out", dir .. "/weak")
    assert.is_nil(cert.read(fs.read(dir .. "/weak"))[1].weak) -- a root is trusted for itself
  end)

  it("with a key that a proxy or a browser can't read are told for weak", function()
    local function weak_of(...)
      openssl("req", "-x509", "-nodes", "-subj", "/CN=a.test", "-keyout", dir .. "/key", "-out", dir .. "/curve", ...)
      return cert.read(fs.read(dir .. "/curve"))[1].weak
    end
    for curve, good in pairs { ["P-256"] = true, ["P-384"] = true, ["P-521"] = true, secp256k1 = false,
      brainpoolP256r1 = false, ["P-224"] = false } do
      local weak = weak_of("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:" .. curve)
      assert.equal(good, weak == nil, curve)
      assert.truthy(good or weak:find "P%-256")
    end
    assert.truthy(weak_of("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt",
      "ec_param_enc:explicit"):find "P%-256")
    assert.truthy(weak_of("-newkey", "ed25519"):find "neither RSA nor EC")
    assert.truthy(weak_of("-newkey", "rsa-pss"):find "neither RSA nor EC")
  end)

  it("are asked for by a request with the names, and no others", function()
    local request, key = cert.request { names = { "a.test", "*.a.test" } }
    fs.write(dir .. "/csr", request)
    local text = openssl("req", "-in", dir .. "/csr", "-noout", "-text", "-verify")
    assert.truthy(text:find("DNS:a.test, DNS:*.a.test", 1, true), text)
    assert.truthy(key:find "BEGIN EC PRIVATE KEY")
    assert.is_false(pcall(cert.request, { names = { "a.test,IP:127.0.0.1" } }))
    assert.is_false(pcall(cert.make, { common_name = ("a"):rep(65), names = {} }))
  end)
end)
