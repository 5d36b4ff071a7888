-- Digests and text forms against the vectors of their standards; identifiers in order.
local crypto = require "crypto"
local clock = require "clock"

describe("crypto", function()
  it("hashes as FIPS 180-4 says", function()
    assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
      crypto.sha256(""))
    assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
      crypto.sha256("abc"))
  end)

  it("signs as RFC 4231 says", function()
    assert.equal("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
      crypto.hmac(("\x0b"):rep(20), "Hi There"))
    assert.equal("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
      crypto.hmac(("\xaa"):rep(131), "Test Using Larger Than Block-Size Key - Hash Key First"))
    assert.equal("b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad",
      crypto.hmac("", ""))
  end)

  it("signs as RFC 8032 says, and tells what isn't signed", function()
    local seed = crypto.unhex "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"
    local key = crypto.unhex "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    local signature = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
      .. "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    assert.equal(crypto.hex(key), crypto.hex(crypto.sign_public(seed)))
    assert.equal(signature, crypto.hex(crypto.sign(seed, "\x72")))
    signature = crypto.unhex(signature)
    assert.is_true(crypto.signed(key, "\x72", signature))
    assert.is_false(crypto.signed(key, "\x73", signature))
    assert.is_false(crypto.signed(key, "\x72", signature:sub(1, 63)))
    assert.is_false(crypto.signed(key, "\x72", ("\0"):rep(64)))
    assert.is_false(crypto.signed(("\xff"):rep(32), "\x72", signature))
    assert.has_error(function() crypto.signed("short", "x", signature) end)
    local empty = crypto.sign(crypto.unhex "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", "")
    assert.equal("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
      .. "d25bf5f0595bbe24655141438e7a100b", crypto.hex(empty))
  end)

  it("compares", function()
    assert.is_true(crypto.equal("", ""))
    assert.is_true(crypto.equal("a\0b", "a\0b"))
    assert.is_false(crypto.equal("a\0b", "a\0c"))
    assert.is_false(crypto.equal("a", "ab"))
  end)

  it("writes base64 as RFC 4648 says, and reads only that", function()
    local vectors = { [""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foob = "Zm9vYg==",
      fooba = "Zm9vYmE=", foobar = "Zm9vYmFy" }
    for plain, text in pairs(vectors) do
      assert.equal(text, crypto.base64(plain))
      assert.equal(plain, crypto.unbase64(text))
      local short = text:gsub("=", "")
      assert.equal(short, crypto.base64url(plain))
      assert.equal(plain, crypto.unbase64url(short))
    end
    assert.equal("-_8", crypto.base64url("\xfb\xff"))
    assert.equal("+/8=", crypto.base64("\xfb\xff"))
    for _, bad in ipairs { "Z", "Zg", "Zg=", "Zh==", "Zm9=", "Z===", "====", "Zg==Zg==", "Zm9v\n",
      "Zm 9v", "-_8=", "Zg=a", "\0\0\0\0" } do
      assert.is_nil(crypto.unbase64(bad), bad)
    end
    for _, bad in ipairs { "Z", "Zg==", "Zh", "Zm9", "+/8" } do
      assert.is_nil(crypto.unbase64url(bad), bad)
    end
  end)

  it("unseals what it sealed, for the same key and purpose only", function()
    local key, other = ("k"):rep(32), ("K"):rep(32)
    for _, plain in ipairs { "", "s", ("\0\xff"):rep(5000) } do
      local seal = crypto.seal(key, "registry a", plain)
      assert.equal(#plain + 29, #seal)
      assert.are_not.equal(seal, crypto.seal(key, "registry a", plain))
      assert.equal(plain, crypto.unseal(key, "registry a", seal))
      assert.is_nil(crypto.unseal(other, "registry a", seal))
      assert.is_nil(crypto.unseal(key, "registry b", seal))
      for at = 1, math.min(#seal, 40) do
        local byte = string.char(seal:byte(at) ~ 1)
        assert.is_nil(crypto.unseal(key, "registry a", seal:sub(1, at - 1) .. byte .. seal:sub(at + 1)))
      end
      for length = 0, math.min(#seal - 1, 40) do
        assert.is_nil(crypto.unseal(key, "registry a", seal:sub(1, length)))
      end
    end
    -- AES-256-GCM itself: test case 14 of its specification (McGrew and Viega).
    assert.equal(("\0"):rep(16), crypto.unseal(("\0"):rep(32), "", "\1" .. ("\0"):rep(12)
      .. crypto.unhex "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"))
    assert.has_error(function() crypto.seal("short", "", "") end)
  end)

  it("writes and reads hex", function()
    assert.equal("00ff10", crypto.hex("\0\xff\x10"))
    assert.equal("\0\xff\x10", crypto.unhex("00FF10"))
    for _, bad in ipairs { "0", "0g", " 0", "0x" } do
      assert.is_nil(crypto.unhex(bad))
    end
  end)

  it("brings everything through each text form", function()
    for n = 0, 70 do
      local bytes = crypto.random(n)
      assert.equal(n, #bytes)
      assert.equal(bytes, crypto.unhex(crypto.hex(bytes)))
      assert.equal(bytes, crypto.unbase64(crypto.base64(bytes)))
      assert.equal(bytes, crypto.unbase64url(crypto.base64url(bytes)))
    end
    assert.are_not.equal(crypto.random(16), crypto.random(16))
    assert.has_error(function() crypto.random(-1) end)
  end)

  it("makes version 7 identifiers that carry the time and sort by it", function()
    local before = clock.now()
    local seen, last = {}, ""
    for _ = 1, 2000 do
      local id = crypto.uuid()
      assert.matches("^%x%x%x%x%x%x%x%x%-%x%x%x%x%-7%x%x%x%-[89ab]%x%x%x%-%x+$", id)
      assert.equal(36, #id)
      assert.is_nil(seen[id])
      seen[id] = true
      -- 18 characters hold the time; within 244 ns the order is left to chance
      assert.is_true(id:sub(1, 18) >= last)
      last = id:sub(1, 18)
    end
    local ms = tonumber(last:sub(1, 8) .. last:sub(10, 13), 16)
    assert.is_true(ms >= before and ms <= clock.now())
  end)
end)

describe("clock", function()
  it("formats as RFC 3339 in UTC", function()
    assert.equal("1970-01-01T00:00:00.000Z", clock.format(0))
    assert.equal("2026-01-31T12:34:56.789Z", clock.format(1769862896789))
    assert.equal("9999-12-31T23:59:59.999Z", clock.format(253402300799999))
    assert.has_error(function() clock.format(-1) end)
  end)

  it("can be shifted by tests", function()
    local now = clock.now()
    clock.shift(3600000)
    assert.is_true(clock.now() >= now + 3600000)
    clock.shift(0)
    assert.is_true(clock.now() < now + 3600000)
    assert.is_true(clock.monotonic() <= clock.monotonic())
  end)
end)
