-- lib/tar.lua - reads a tar stream and says what is in it, and what in it must never be unpacked.
--
-- ustar, pax (x, g) and GNU's long names (L, K) and base-256 numbers. `tar.each(read, visit)` calls
-- visit(entry) for each member; an entry is {name, type, size, mode, uid, gid, mtime, link?,
-- problem?}. Problems: a name or link that leaves the root, a member below a symbolic link of the
-- archive, a device, a name given twice. A stream that isn't a tar raises {code = "bad_tar"}.
-- `read(n)` returns at most n bytes, or nil at the end; nothing is kept but names.

local fail = require "ndctl.lib.fail"

local tar = {}

local BLOCK = 512
local TEXT_MOST = 1024 * 1024 -- bytes of a pax header or a long name
local ENTRIES_MOST = 1000000

local types = {
  ["0"] = "file", ["\0"] = "file", ["7"] = "file", ["1"] = "hardlink", ["2"] = "symlink",
  ["3"] = "character device", ["4"] = "block device", ["5"] = "directory", ["6"] = "fifo",
}

local function bad(at, message)
  fail.raise("bad_tar", ("at byte %d: %s"):format(at, message))
end

-- ---- the stream ----

local Stream = {}
Stream.__index = Stream

-- Exactly n bytes; nil at a clean end.
function Stream:take(n)
  local parts, have = {}, 0
  while have < n do
    local part = self.read(n - have)
    if not part or part == "" then break end
    parts[#parts + 1] = part
    have = have + #part
  end
  if have == 0 and n > 0 then return nil end
  if have < n then bad(self.at + have, "the archive is cut off") end
  self.at = self.at + n
  return #parts == 1 and parts[1] or table.concat(parts)
end

function Stream:skip(n)
  while n > 0 do
    local part = self:take(math.min(n, 65536))
    if not part then bad(self.at, "the archive is cut off") end
    n = n - #part
  end
end

local function padded(n) return (n + BLOCK - 1) // BLOCK * BLOCK end

function Stream:text(size)
  if size > TEXT_MOST then bad(self.at, "a header of more than 1 MiB") end
  local text = self:take(padded(size)) or (size > 0 and bad(self.at, "the archive is cut off")) or ""
  return text:sub(1, size)
end

-- ---- a header ----

local function number(header, from, length, at)
  local field = header:sub(from, from + length - 1)
  local first = field:byte()
  if first >= 0x80 then -- base-256, big-endian; the top bit is the mark
    local value = first & 0x7f
    for i = 2, length do
      if value >> 55 ~= 0 then bad(at, "a number that is too large") end
      value = value << 8 | field:byte(i)
    end
    return value
  end
  local digits = field:match("^[ ]*([0-7]*)[ %z]*$")
  if not digits then bad(at, "a number that isn't octal") end
  return digits == "" and 0 or tonumber(digits, 8)
end

local function check_sum(header, at)
  local sum = 8 * 32 -- the field itself counts as blanks
  for i = 1, BLOCK do
    if i < 149 or i > 156 then sum = sum + header:byte(i) end
  end
  if number(header, 149, 8, at) ~= sum then bad(at, "the header's checksum is wrong: not a tar, or damaged") end
end

local function text_field(header, from, length)
  return header:sub(from, from + length - 1):match("^[^%z]*")
end

local function parse(header, at)
  check_sum(header, at)
  local name = text_field(header, 1, 100)
  local prefix = header:sub(258, 262) == "ustar" and header:sub(258, 263) == "ustar\0"
    and text_field(header, 346, 155) or ""
  return {
    name = prefix ~= "" and prefix .. "/" .. name or name, mode = number(header, 101, 8, at),
    uid = number(header, 109, 8, at), gid = number(header, 117, 8, at),
    size = number(header, 125, 12, at), mtime = number(header, 137, 12, at),
    flag = header:sub(157, 157), link = text_field(header, 158, 100),
  }
end

-- The records of a pax header: "LENGTH NAME=VALUE\n".
local function pax(text, into, at)
  local from = 1
  while from <= #text do
    local length, name = text:match("^(%d+) ([^=\n]+)=", from)
    length = math.tointeger(tonumber(length))
    if not length or text:sub(from + length - 1, from + length - 1) ~= "\n" then
      bad(at, "a pax record that doesn't add up")
    end
    local record = text:sub(from, from + length - 2)
    into[name] = record:sub(record:find("=", 1, true) + 1)
    from = from + length
  end
end

-- ---- what mustn't be unpacked ----

-- The parts of a path below the root, "" and "." left out; nil where it leaves it.
local function resolve(path, from)
  local parts = table.move(from or {}, 1, #(from or {}), 1, {})
  if path:sub(1, 1) == "/" then return nil end
  for part in path:gmatch("[^/]+") do
    if part == ".." then
      if #parts == 0 then return nil end
      parts[#parts] = nil
    elseif part ~= "." then
      parts[#parts + 1] = part
    end
  end
  return parts
end

local function below_link(parts, seen)
  for i = 1, #parts - 1 do
    if seen[table.concat(parts, "/", 1, i)] == "symlink" then return true end
  end
end

local function problem_of(entry, seen)
  if entry.name == "" then return "it has no name" end
  if entry.name:find("%z") or (entry.link or ""):find("%z") then return "its name has a NUL" end
  for part in entry.name:gmatch("[^/]+") do
    if part == ".." then return "its name has '..'" end
  end
  local parts = resolve(entry.name)
  if not parts then return "its name is absolute" end
  if below_link(parts, seen) then return "it lies below a symbolic link of the archive" end
  if not entry.type then return "it is of an unknown type" end
  if entry.type:find("device") or entry.type == "fifo" then return "it is a " .. entry.type end
  local path = table.concat(parts, "/")
  if entry.type == "symlink" then
    if not resolve(entry.link, table.move(parts, 1, #parts - 1, 1, {})) then return "it links out of the root" end
  elseif entry.type == "hardlink" then
    local target = resolve(entry.link)
    if not target then return "it links out of the root" end
    if not seen[table.concat(target, "/")] then return "it links to what isn't in the archive before it" end
    if below_link(target, seen) then return "it links through a symbolic link" end
  end
  if seen[path] and not (seen[path] == "directory" and entry.type == "directory") then
    return "its name was there before"
  end
  seen[path] = entry.type
end

-- ---- all of it ----

local Reader = {}
Reader.__index = Reader

-- Headers that are about the next member; true where this was one.
function Reader:about_next(entry)
  local flag, stream = entry.flag, self.stream
  if flag == "x" or flag == "g" then
    pax(stream:text(entry.size), flag == "g" and self.always or self.next, stream.at)
  elseif flag == "L" or flag == "K" then
    self.next[flag == "L" and "path" or "linkpath"] = stream:text(entry.size):match("^[^%z]*")
  else
    return false
  end
  return true
end

local function complete(self, entry, at)
  local said = setmetatable(self.next, { __index = self.always })
  entry.name, entry.link = said.path or entry.name, said.linkpath or entry.link
  if said.size then
    entry.size = math.tointeger(tonumber(said.size)) or bad(at, "a pax size that is no number")
  end
  if said.mtime then entry.mtime = math.floor(tonumber(said.mtime) or 0) end
  if said["GNU.sparse.major"] or said["GNU.sparse.size"] or entry.flag == "S" then
    bad(at, "a sparse file, which isn't understood")
  end
  entry.type = types[entry.flag]
  if entry.type == "file" and entry.name:sub(-1) == "/" then entry.type = "directory" end
  if entry.type ~= "symlink" and entry.type ~= "hardlink" then entry.link = nil end
  entry.flag, self.next = nil, {}
  return entry
end

function tar.each(read, visit)
  local stream = setmetatable({ read = read, at = 0 }, Stream)
  local self = setmetatable({ stream = stream, always = {}, next = {} }, Reader)
  local seen, count = {}, 0
  while true do
    local at = stream.at
    local header = stream:take(BLOCK)
    if not header then bad(at, "the archive has no end mark: it is cut off") end
    if header == ("\0"):rep(BLOCK) then return count end
    local entry = parse(header, at)
    if not self:about_next(entry) then
      entry = complete(self, entry, at)
      entry.problem = problem_of(entry, seen)
      local has_data = entry.type == "file" or not entry.type
      visit(entry)
      if has_data then stream:skip(padded(entry.size)) end
      count = count + 1
      if count > ENTRIES_MOST then bad(at, "more than 1,000,000 members") end
    end
  end
end

return tar
