-- AWS Signature Version 4 against the examples that Amazon publishes: of S3's documentation and of
-- the signing process's test suite.

local sigv4 = require "nd.sigv4"

local function s3(more)
  local request = { method = "GET", host = "examplebucket.s3.amazonaws.com", path = "/", region = "us-east-1",
    service = "s3", access_key = "AKIAIOSFODNN7EXAMPLE", time = "20130524T000000Z",
    secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY" }
  for name, value in pairs(more) do request[name] = value end
  return sigv4.sign(request).signature
end

local function suite(more)
  local request = { method = "GET", host = "example.amazonaws.com", path = "/", region = "us-east-1",
    service = "service", access_key = "AKIDEXAMPLE", time = "20150830T123600Z",
    secret_key = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY" }
  for name, value in pairs(more) do request[name] = value end
  return sigv4.sign(request)
end

describe("sigv4", function()
  it("signs S3's documented requests", function()
    assert.equal("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
      s3 { path = "/test.txt", headers = { Range = "bytes=0-9" } })
    assert.equal("98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
      s3 { method = "PUT", path = "/test$file.text", body = "Welcome to Amazon S3.",
        headers = { Date = "Fri, 24 May 2013 00:00:00 GMT", ["x-amz-storage-class"] = "REDUCED_REDUNDANCY" } })
    assert.equal("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543", s3 { query = "lifecycle" })
    assert.equal("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
      s3 { query = { ["max-keys"] = 2, prefix = "J" } })
  end)

  it("signs other services' requests", function()
    local signed = suite {}
    assert.equal("5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31", signed.signature)
    assert.equal("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
      .. "SignedHeaders=host;x-amz-date, Signature=" .. signed.signature, signed.authorization)
    assert.equal("b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
      suite({ query = "Param2=value2&Param1=value1" }).signature)
    assert.equal("5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
      suite({ method = "POST" }).signature)
    assert.equal("5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
      suite({ host = "iam.amazonaws.com", service = "iam", query = "Action=ListUsers&Version=2010-05-08",
        headers = { ["Content-Type"] = "application/x-www-form-urlencoded; charset=utf-8" } }).signature)
  end)

  it("encodes an object's path once and another's twice", function()
    assert.matches("^GET\n/a%%20b/%%C3%%BC\n", (sigv4.sign { method = "GET", host = "h", path = "/a%20b/ü",
      region = "r", service = "s3", access_key = "a", secret_key = "s", time = "20130524T000000Z" }).canonical_request)
    assert.matches("^GET\n/a%%2520b/c/\n", suite({ path = "/x/../a%20b/./c/" }).canonical_request)
  end)
end)
