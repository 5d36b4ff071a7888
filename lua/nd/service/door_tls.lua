-- The certificate of the TCP door: one that was given, or one of the daemon's own, made once and kept
-- in state_dir/tls. It is read again when its files change and on SIGHUP; connections that are there
-- keep the one they began with.

local fs = require "fs"
local log = require "log"
local task = require "task"
local tls = require "tls"

local LOOK_MS = 2000

local DoorTls = {}
DoorTls.__index = DoorTls

-- What people may call this host by, where the door is on all of its addresses.
local function names(o)
  local list = { "localhost" }
  local host = fs.hostname()
  if host:find "^[%w][%w.-]*$" and host ~= "localhost" then list[#list + 1] = host end
  if o.address ~= "0.0.0.0" and o.address ~= "::" then list[#list + 1] = o.address end
  return list
end

local M = {}

function M.new(o)
  local self = setmetatable({ files = { cert = o.tls_cert, key = o.tls_key, ca = o.tls_client_ca } }, DoorTls)
  if not self.files.cert then
    local dir = o.state_dir .. "/tls"
    self.files.cert, self.files.key = dir .. "/cert.pem", dir .. "/key.pem"
    if not (fs.exists(self.files.cert) and fs.exists(self.files.key)) then
      fs.mkdir(dir, 448) -- 0700
      tls.self_signed { cert = self.files.cert, key = self.files.key, names = names(o) }
    end
  end
  return self
end

-- When the files were written, as one text.
function DoorTls:written()
  local times = {}
  for _, name in ipairs { "cert", "key", "ca" } do
    local st = self.files[name] and fs.stat(self.files[name])
    times[#times + 1] = st and ("%d %d"):format(st.mtime, st.size) or "-"
  end
  return table.concat(times, " ")
end

-- A certificate that can't be used is said, and the one before goes on.
function DoorTls:reload()
  self.seen = self:written()
  local ok, e = pcall(self.door.set_tls, self.door, self.files)
  if ok then
    log.info(("the door's certificate was read again; pin %s"):format(tls.pin(self.files.cert)))
  else
    log.error(("the door's new certificate is not used: %s%s"):format(e.message or e,
      e.hint and " - " .. e.hint or ""))
  end
end

function DoorTls:watch(door)
  self.door, self.seen = door, self:written()
  log.info(("the door's certificate is %s, pin %s"):format(self.files.cert, tls.pin(self.files.cert)))
  task.spawn("certificate of the door", function()
    local before = self.seen
    while true do
      task.sleep(LOOK_MS)
      local now = self:written()
      -- Certificate and key are two files: both have to be there before they are read.
      if now ~= self.seen and now == before then self:reload() end
      before = now
    end
  end)
end

return M
