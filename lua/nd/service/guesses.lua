-- How often strangers may guess: at passwords, at invitations, at tokens.
--
-- Passwords first, since each guess costs a hash: it is paid for from three purses, before anything is
-- computed. One for the address and the person, one for the address, and one for all addresses, the last part
-- of which is only for those that haven't failed lately. So whoever fails shuts out himself: a right password
-- from another address goes in, and what is right is paid back. From an address where a person signed in
-- before, the purse of all doesn't count. A flood from many addresses may keep out who comes from a new one,
-- until his Retry-After has passed; the unix socket is never asked.
--
-- The rest (256 bits) can't be guessed and costs nothing to look up: what is right is always taken, and who
-- was wrong too often is told 429 where he would have been told 401.
--
--   guesses:pay(request, name, familiar) -> purses     of a password's guess; raises too_many_guesses
--   guesses:repay(purses)                              it was right
--   guesses:missed(request)                            notes a wrong token; raises too_many_guesses
--   guesses.source(address) -> text                    who is one source: an IPv4 address, an IPv6 /64

local clock = require "clock"
local err = require "nd.error"

-- {most, ms until one more is there}
local PAIR, SOURCE, ALL, TOKEN = { 5, 60000 }, { 10, 30000 }, { 40, 60000 }, { 20, 3000 }
local RESERVE = 20   -- of ALL, for sources that haven't failed
local SOURCES = 10000

local Guesses = {}
Guesses.__index = Guesses

function Guesses.new() return setmetatable({ purses = {}, count = 0 }, Guesses) end

-- Groups of an IPv6 address as it is written: "2001:db8::1" -> {"2001", "db8", "0", ...}
local function groups(address)
  local head, tail = address:match "^(.-)::(.*)$"
  local out, rest = {}, {}
  for part in (head or address):gmatch "[^:]+" do out[#out + 1] = part end
  for part in (tail or ""):gmatch "[^:]+" do rest[#rest + 1] = part end
  while head and #out + #rest < 8 do out[#out + 1] = "0" end
  return table.move(rest, 1, #rest, #out + 1, out)
end

function Guesses.source(address)
  local v4 = address:match "^::[fF][fF][fF][fF]:(%d+%.%d+%.%d+%.%d+)$"
  if v4 or not address:find(":", 1, true) then return v4 or address end
  return table.concat(groups(address), ":", 1, 4)
end

-- Those that are full again say nothing that a new one wouldn't.
local function prune(self, now)
  self.count = 0
  for key, purse in pairs(self.purses) do
    if purse.level + (now - purse.at) / purse.kind[2] >= purse.kind[1] then
      self.purses[key] = nil
    else
      self.count = self.count + 1
    end
  end
  if self.count >= SOURCES then self.purses, self.count = { all = self.purses.all }, 0 end
end

local function purse_of(self, key, kind)
  local now = clock.monotonic()
  local purse = self.purses[key]
  if not purse then
    if self.count >= SOURCES then prune(self, now) end
    purse = { kind = kind, level = kind[1], at = now }
    self.purses[key], self.count = purse, self.count + 1
  end
  purse.level = math.min(kind[1], purse.level + (now - purse.at) / kind[2])
  purse.at = now
  return purse
end

local function refuse(ms)
  local seconds = math.max(1, math.ceil(ms / 1000))
  err.raise("too_many_guesses", ("too many wrong guesses came from this address; try again in %d s"):format(seconds),
    "the unix socket on the daemon's host is never limited", { retry_after = seconds })
end

-- Takes one of each, or raises and takes none. list: {purse, what has to be left}
local function take(list)
  local wait
  for _, entry in ipairs(list) do
    local purse, left = entry[1], entry[2] or 0
    if purse.level < left + 1 then
      wait = math.max(wait or 0, (left + 1 - purse.level) * purse.kind[2])
    end
  end
  if wait then refuse(wait) end
  for _, entry in ipairs(list) do entry[1].level = entry[1].level - 1 end
end

function Guesses:pay(request, name, familiar)
  if request.peer.kind == "unix" then return {} end
  local source = Guesses.source(request.peer.address)
  local list = { { purse_of(self, "pair " .. source .. " " .. name, PAIR) } }
  if not familiar then
    local own = purse_of(self, "source " .. source, SOURCE)
    list[2] = { own }
    list[3] = { purse_of(self, "all", ALL), own.level < SOURCE[1] and RESERVE or 0 }
  end
  take(list)
  return list
end

function Guesses.repay(_, list)
  for _, entry in ipairs(list) do entry[1].level = math.min(entry[1].kind[1], entry[1].level + 1) end
end

function Guesses:missed(request)
  if request.peer.kind == "unix" then return end
  take { { purse_of(self, "token " .. Guesses.source(request.peer.address), TOKEN) } }
end

return Guesses
