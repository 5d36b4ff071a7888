-- Encrypting to recipients as age-encryption.org/v1 says: round trips at the edges of a chunk, and
-- everything that isn't as it was written refused with its reason, no byte of plaintext with it.
local age = require "age"

local function code(fn, ...)
  local ok, e = pcall(fn, ...)
  assert.is_false(ok)
  assert.truthy(e.message and #e.message > 0)
  return e.code
end

local CHUNK = 65536
local identity, recipient = age.keygen()

-- What is written between the header and the payload's nonce, and where the payload begins.
local function payload_at(text) return select(2, text:find("\n%-%-%- [%w+/]+\n")) + 17 end

describe("age", function()
  it("makes pairs whose texts are those of the format", function()
    assert.truthy(identity:find("^AGE%-SECRET%-KEY%-1[02-9AC-HJ-NP-Z]+$"))
    assert.equal(74, #identity)
    assert.truthy(recipient:find("^age1[02-9ac-hj-np-z]+$"))
    assert.equal(62, #recipient)
    assert.equal(recipient, age.recipient(identity))
    assert.not_equal(identity, (age.keygen()))
    -- of `age-keygen`
    assert.equal("age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef",
      age.recipient "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0")
  end)

  it("gives back what was encrypted, at every edge of a chunk, armored or not", function()
    for _, length in ipairs { 0, 1, 15, 47, 48, 49, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 1000003 } do
      local plain = ("\0\1secret\255\n"):rep(length // 10 + 1):sub(1, length)
      for _, armor in ipairs { false, true } do
        local text = age.encrypt({ recipient }, plain, { armor = armor })
        assert.equal(armor, text:find("^%-%-%-%-%-BEGIN") ~= nil)
        assert.is_true(age.decrypt({ identity }, text) == plain, length .. " bytes")
      end
    end
  end)

  it("encrypts to several, each of whom can read it, and to nobody else", function()
    local identities, recipients = {}, {}
    for i = 1, 20 do identities[i], recipients[i] = age.keygen() end
    local text = age.encrypt(recipients, "for twenty")
    for i = 1, 20 do assert.equal("for twenty", age.decrypt({ identities[i] }, text)) end
    assert.equal("for twenty", age.decrypt({ identity, identities[20] }, text))
    assert.equal("age_wrong_recipient", code(age.decrypt, { identity }, text))
    assert.equal("age_wrong_recipient", code(age.decrypt, {}, text))
  end)

  it("writes nothing twice the same", function()
    assert.not_equal(age.encrypt({ recipient }, "x"), age.encrypt({ recipient }, "x"))
  end)

  it("refuses what is no recipient", function()
    local bad = { "", "age1", recipient:upper(), recipient:sub(1, -2), recipient .. "q",
      recipient:sub(1, -2) .. (recipient:sub(-1) == "q" and "p" or "q"), " " .. recipient, recipient .. "\n",
      "age1" .. recipient:sub(5):gsub("%l", string.upper, 1), identity, "x\0y" }
    for _, text in ipairs(bad) do
      assert.equal("age_bad_recipient", code(age.encrypt, { text }, "x"), text)
      assert.equal("age_bad_recipient", code(age.check, text), text)
    end
    assert.equal("age_bad_recipient", code(age.encrypt, {}, "x"))
    assert.equal("age_unsupported", code(age.check, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA"))
    assert.equal("age_unsupported", code(age.check, "age1pq1" .. ("q"):rep(100)))
    age.check(recipient)
    assert.is_false((pcall(age.encrypt, { 1 }, "x")))
  end)

  it("refuses what is no identity, and never repeats it", function()
    local bad = { "", identity:lower(), identity:sub(1, -2), identity .. "Q", recipient, identity:sub(1, 30),
      identity:sub(1, -2) .. (identity:sub(-1) == "Q" and "P" or "Q"), identity:sub(1, 40) .. identity:sub(41):lower() }
    for _, text in ipairs(bad) do
      assert.equal("age_bad_identity", code(age.decrypt, { text }, "x"), text)
      local _, e = pcall(age.recipient, text)
      assert.equal("age_bad_identity", e.code)
      assert.is_nil(e.message:find(identity:sub(20, 30), 1, true))
    end
    assert.equal("age_unsupported", code(age.recipient, "AGE-SECRET-KEY-PQ-1QQQQ"))
    assert.equal("age_unsupported", code(age.recipient, "AGE-PLUGIN-YUBIKEY-1QQQQ"))
  end)

  it("finds every change of a byte, and every cut", function()
    local text = age.encrypt({ recipient }, "attack at dawn")
    local codes = {}
    for i = 1, #text do
      local changed = text:sub(1, i - 1) .. string.char(text:byte(i) ~ 1) .. text:sub(i + 1)
      codes[code(age.decrypt, { identity }, changed)] = true
      local cut = code(age.decrypt, { identity }, text:sub(1, i - 1))
      assert.truthy(cut == "age_truncated" or cut == "age_tampered" or i == 1 and cut == "age_bad_header", cut)
    end
    for _, name in ipairs { "age_bad_header", "age_wrong_recipient", "age_tampered", "age_truncated",
      "age_unsupported" } do
      codes[name] = nil
    end
    assert.same({}, codes)
    for _, more in ipairs { "\0", "\n", text } do
      assert.equal("age_tampered", code(age.decrypt, { identity }, text .. more))
    end
  end)

  it("finds chunks that are missing, exchanged or repeated", function()
    local text = age.encrypt({ recipient }, ("x"):rep(3 * CHUNK))
    local at = payload_at(text)
    local head, chunk = text:sub(1, at - 1), {}
    for i = 1, 3 do chunk[i] = text:sub(at + (i - 1) * (CHUNK + 16), at + i * (CHUNK + 16) - 1) end
    local function try(...)
      local order = { ... }
      for i, n in ipairs(order) do order[i] = chunk[n] end
      return code(age.decrypt, { identity }, head .. table.concat(order))
    end
    assert.equal(3 * CHUNK, #age.decrypt({ identity }, head .. table.concat(chunk)))
    assert.equal("age_truncated", try(1, 2))
    assert.equal("age_truncated", try(1))
    assert.equal("age_truncated", try())
    assert.equal("age_tampered", try(1, 3))
    assert.equal("age_tampered", try(2, 1, 3))
    assert.equal("age_tampered", try(1, 1, 3))
    assert.equal("age_tampered", try(1, 2, 3, 3))
  end)

  it("refuses a recipient that would let everybody read", function()
    -- the point 0: 32 zero bytes in Bech32
    assert.equal("age_bad_recipient", code(age.encrypt,
      { "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z" }, "x"))
  end)

  it("says what is wrong with armor", function()
    local text = age.encrypt({ recipient }, "hello", { armor = true })
    assert.equal("hello", age.decrypt({ identity }, "\r\n \t\n" .. text:gsub("\n", "\r\n") .. "\n\n"))
    assert.equal("hello", age.decrypt({ identity }, (text:gsub("\n$", ""))))
    assert.equal("age_truncated", code(age.decrypt, { identity }, (text:gsub("%-%-%-%-%-END.*", ""))))
    for _, bad in ipairs { (text:gsub("BEGIN AGE", "BEGIN PGP")), text .. "x", "  " .. text,
      (text:gsub("\n", "\n\n", 2)), (text:gsub("\n", " \n", 2)), ("\n"):rep(1025) .. text } do
      assert.equal("age_bad_armor", code(age.decrypt, { identity }, bad), bad)
    end
  end)
end)
