-- answers.lua - what the proxies log of a canary's answers, read as it is written.
--
-- The file is the proxy's, which needs no reader and waits for none. What comes in a flood is not all
-- read: of more than MOST bytes between two looks, the last are.
--
--   answers.open(drivers) -> a         from now on; a driver has answers_log() -> path, whether we are to
--                                      keep the file short, and answer(line) -> host, release, status,
--                                      seconds
--   a:read(fn(host, release, status, ms))   each answer since the last look. Doesn't wait.
--   a:close()

local fs = require "fs"

local Answers = {}
Answers.__index = Answers

local MOST = 1 << 20
local LONG = 8 << 20 -- bytes, at which a file that nobody else keeps short is emptied

local answers = {}

-- Unbuffered, since what is read again may have changed.
local function open(log)
  log.file = io.open(log.path, "rb")
  if log.file then log.file:setvbuf "no" end
  return log.file
end

function answers.open(drivers)
  local self = setmetatable({ logs = {} }, Answers)
  for i, driver in ipairs(drivers) do
    local path, ours = driver:answers_log()
    local log = { driver = driver, path = path, ours = ours, rest = "" }
    log.at = open(log) and log.file:seek "end" or 0
    self.logs[i] = log
  end
  return self
end

-- Reads on from where it was. -> text
local function more(log)
  if not log.file and not open(log) then return "" end -- nothing was logged yet
  local size = log.file:seek "end"
  if size < log.at then log.at = 0 end -- it was emptied
  if size - log.at > MOST then
    log.at, log.rest = size - MOST, "?" -- the first line is none
  end
  log.file:seek("set", log.at)
  local text = log.file:read(size - log.at) or ""
  log.at = log.at + #text
  return text
end

-- A file that has taken the place of the one we read is shorter than that; an old one is read to its end.
local function renewed(log)
  local now = log.file and fs.stat(log.path)
  if not now or now.size >= log.at then return end
  log.file:close()
  log.file, log.at = nil, 0
end

local function shorten(log)
  if not log.ours or log.at < LONG then return end
  local file = io.open(log.path, "wb")
  if file then file:close() end
  log.at = 0
end

function Answers:read(fn)
  for _, log in ipairs(self.logs) do
    local text = log.rest .. more(log)
    local done = 1
    for line, after in text:gmatch "([^\n]*)\n()" do
      local host, release, status, seconds = log.driver:answer(line)
      if host and release and status and seconds then
        fn(host:lower():gsub(":%d+$", ""):gsub("%.$", ""), release, status, seconds * 1000)
      end
      done = after
    end
    log.rest = text:sub(done)
    renewed(log)
    shorten(log)
  end
end

function Answers:close()
  for _, log in ipairs(self.logs) do
    if log.file then log.file:close() end
    log.file = nil
  end
end

return answers
