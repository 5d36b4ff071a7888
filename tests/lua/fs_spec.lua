-- Files: atomic replacement, locks, and errors that name the path.
local fs = require "fs"
local process = require "process"
local task = require "task"

local here = debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$")
local spec = dofile(here .. "/lib/spec.lua")
local raised = spec.raised

describe("fs", function()
  local dir

  before_each(function()
    dir = spec.folder()
  end)

  after_each(function()
    fs.remove(dir, { recursive = true })
  end)

  it("writes a file as a whole, with its mode, and leaves nothing beside it", function()
    local path = dir .. "/f"
    fs.write(path, "one\0two", tonumber("640", 8))
    assert.equal("one\0two", fs.read(path))
    assert.equal(tonumber("640", 8), fs.stat(path).mode)
    fs.write(path, "")
    assert.equal("", fs.read(path))
    assert.equal(tonumber("600", 8), fs.stat(path).mode)
    assert.same({ "f" }, fs.list(dir))
  end)

  it("takes over what a crash left of a write, whatever it is", function()
    fs.write(dir .. "/f", "old")
    fs.write(dir .. "/f.new", ("half"):rep(1000), tonumber("444", 8))
    fs.write(dir .. "/f", "new")
    assert.equal("new", fs.read(dir .. "/f"))
    assert.same({ "f" }, fs.list(dir))
  end)

  it("never shows a reader half of a file", function()
    local path = dir .. "/f"
    local texts = { ("a"):rep(200000), ("b"):rep(200000) }
    fs.write(path, texts[1])
    local writer = task.spawn("writer", function()
      for i = 1, 30 do fs.write(path, texts[i % 2 + 1]) end
    end)
    while writer:alive() do
      local text = fs.read(path)
      assert.is_true(text == texts[1] or text == texts[2])
    end
    writer:join()
  end)

  it("is written by many at once, and then one of them", function()
    local path, writers, texts = dir .. "/f", {}, {}
    for i = 1, 20 do
      local text = string.char(64 + i):rep(i * 10000)
      texts[text] = true
      writers[i] = task.spawn("writer", fs.write, path, text)
    end
    for _, writer in ipairs(writers) do writer:join() end
    assert.is_true(texts[fs.read(path)])
    assert.same({ "f" }, fs.list(dir))
  end)

  it("keeps the old file when the disk is full", function()
    local small = dir .. "/small"
    fs.mkdir(small)
    local ok, err = pcall(fs.mount_tmpfs, small, { size = 65536, mode = tonumber("700", 8) })
    if not ok then
      assert.equal("fs_denied", err.code) -- not root
      return
    end
    local unmount <close> = setmetatable({}, { __close = function() fs.unmount(small) end })
    assert.are_not.equal(fs.stat(dir).device, fs.stat(small).device)
    fs.write(small .. "/f", "old")
    local full = raised(fs.write, small .. "/f", ("x"):rep(200000))
    assert.equal("fs_full", full.code)
    assert.matches(small .. "/f", full.message, 1, true)
    assert.equal("old", fs.read(small .. "/f"))
    assert.same({ "f" }, fs.list(small))
    assert.is_table(unmount)
  end)

  it("names what is missing, too long or not allowed", function()
    local err = raised(fs.read, dir .. "/no")
    assert.equal("fs_not_found", err.code)
    assert.equal("can't read " .. dir .. "/no: No such file or directory", err.message)
    assert.equal("fs_not_found", raised(fs.write, dir .. "/no/f", "x").code)
    assert.equal("fs_not_found", raised(fs.list, dir .. "/no").code)
    fs.write(dir .. "/f", "12345")
    assert.equal("12345", fs.read(dir .. "/f", 5))
    err = raised(fs.read, dir .. "/f", 4)
    assert.equal("fs_too_large", err.code)
    assert.equal(dir .. "/f is longer than 4 bytes", err.message)
    assert.equal("fs_io", raised(fs.read, dir).code)
    assert.equal("fs_exists", raised(fs.mkdir, dir .. "/f/sub").code)
    assert.equal("fs_exists", raised(fs.mkdir, dir .. "/f").code)
  end)

  it("makes directories with their parents, again and again", function()
    local deep = dir .. "/a/b/c"
    fs.mkdir(deep, tonumber("750", 8))
    fs.mkdir(deep)
    assert.equal("directory", fs.stat(deep).type)
    assert.equal(tonumber("750", 8), fs.stat(deep).mode)
    assert.is_nil(fs.stat(dir .. "/x"))
    assert.is_nil(fs.stat(dir .. "/x/y"))
  end)

  it("removes trees but does not follow links out of them", function()
    fs.mkdir(dir .. "/tree/sub")
    fs.mkdir(dir .. "/kept")
    fs.write(dir .. "/kept/f", "kept")
    fs.write(dir .. "/tree/sub/f", "x")
    process.run { argv = { "ln", "-s", dir .. "/kept", dir .. "/tree/sub/link" } }
    local err = raised(fs.remove, dir .. "/tree")
    assert.equal("fs_exists", err.code)
    assert.is_true(fs.remove(dir .. "/tree", { recursive = true }))
    assert.is_false(fs.exists(dir .. "/tree"))
    assert.equal("kept", fs.read(dir .. "/kept/f"))
    assert.is_false(fs.remove(dir .. "/tree", { recursive = true }))
    process.run { argv = { "ln", "-s", dir .. "/kept", dir .. "/link" } }
    assert.is_true(fs.remove(dir .. "/link", { recursive = true }))
    assert.is_true(fs.exists(dir .. "/kept/f"))
  end)

  it("changes the owner of a link, not of what it leads to", function()
    if fs.stat("/").uid ~= fs.stat(dir).uid then return end -- not root
    fs.mkdir(dir .. "/victim")
    process.run { argv = { "ln", "-s", "victim", dir .. "/link" } }
    fs.chown(dir .. "/link", 12345, 12345)
    assert.equal(0, fs.stat(dir .. "/victim").uid)
  end)

  it("lists names in order", function()
    for _, name in ipairs { "b", "a", ".hidden", "B" } do fs.write(dir .. "/" .. name, "") end
    assert.same({ ".hidden", "B", "a", "b" }, fs.list(dir))
  end)

  it("locks out a second one, and says who holds it", function()
    local path = dir .. "/lock"
    local lock = fs.lock(path)
    local pid = tonumber(fs.read(path))
    assert.is_true(pid > 1)
    local err = raised(fs.lock, path)
    assert.equal("locked", err.code)
    assert.equal(path .. " is locked by process " .. pid, err.message)
    lock:unlock()
    lock:unlock()
    do
      local again <close> = fs.lock(path)
      assert.equal("locked", raised(fs.lock, path).code)
      assert.is_userdata(again)
    end
    fs.lock(path):unlock()
    assert.equal("fs_not_found", raised(fs.lock, dir .. "/no/lock").code)
  end)

  it("knows the machine", function()
    assert.is_true(#fs.hostname() > 0)
    fs.write(dir .. "/id", "0123456789abcdef0123456789abcdef\n")
    assert.equal("0123456789abcdef0123456789abcdef", fs.machine_id(dir .. "/id"))
    assert.is_nil(fs.machine_id(dir .. "/no"))
  end)
end)
