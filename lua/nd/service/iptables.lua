-- iptables.lua - runs iptables and ip, and finds out which of the two iptables Docker uses.
--
--   iptables.find([last]) -> backend    parks; raises netfilter_missing, netfilter_mixed; `last` is
--                                       taken where Docker's chains aren't there (yet)
--   backend.kind                        "nft" | "legacy"
--   backend:save() -> text              parks; every table, as iptables-save prints it
--   backend:restore(text)               parks; all of it or nothing (a table), nothing else touched
--   backend:owns(pids) -> boolean       were all of "12 34" restores of ours, in the last seconds?
--   iptables.ip(argument, ...) -> text  parks; iproute2's ip
--   iptables.sysctl(name[, value]) -> text|nil   net.ipv4 and net.netfilter, in this namespace
--
-- Two backends with rules in both would each see all packets, in an order nobody expects: refused.

local clock = require "clock"
local process = require "process"
local fs = require "fs"
local task = require "task"

local iptables = {}

local PATH = { PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" }
local TIMEOUT = 10000          -- ms; a restore of 10,000 rules takes 0.2 s here
local OWN_FOR = 5000           -- ms
local OUTPUT = 64 * 1024 * 1024

local function run(argv, stdin)
  return process.run { argv = argv, stdin = stdin, env = PATH, timeout_ms = TIMEOUT,
    max_output = OUTPUT }
end

-- The result, or nil where the program isn't there.
local function try(argv, stdin)
  local ok, result = pcall(run, argv, stdin)
  if ok then return result end
  if type(result) == "table" and result.code == "process_start" then return nil end
  error(result, 0)
end

local function last_line(text)
  return (text or ""):gsub("%s+$", ""):match("[^\n]*$")
end

local Backend = {}
Backend.__index = Backend

function Backend:save()
  local r = run { self.saver }
  if r.status ~= 0 then
    error(task.error {
      code = "netfilter_failed",
      message = self.saver .. " failed: " .. last_line(r.stderr),
      hint = "run it by hand as root; the daemon needs CAP_NET_ADMIN",
    }, 0)
  end
  return r.stdout
end

function Backend:restore(text)
  local argv = { self.restorer, "--noflush" }
  -- Only the legacy one has a lock to wait for; the nft one retries by itself.
  if self.kind == "legacy" then
    argv[#argv + 1] = "-w"
    argv[#argv + 1] = "5"
  end
  local r = run(argv, text)
  self.own[r.pid] = clock.monotonic()
  if r.status ~= 0 then
    local line = tonumber((r.stderr or ""):match("line:? (%d+)"))
    local at = 0
    for l in text:gmatch("[^\n]*") do
      at = at + 1
      if at == line then line = l end
    end
    error(task.error {
      code = "netfilter_failed",
      message = self.restorer .. " refused our rules: " .. last_line(r.stderr:gsub("%s*Try .*", ""))
        .. (type(line) == "string" and " (" .. line .. ")" or ""),
      hint = "`ndctl doctor` shows what is missing; a kernel module may be absent",
    }, 0)
  end
end

-- A process id means something for a moment only: another program gets it again.
function Backend:owns(pids)
  local now, all = clock.monotonic(), pids ~= ""
  for pid, at in pairs(self.own) do
    if now - at > OWN_FOR then self.own[pid] = nil end
  end
  for pid in pids:gmatch("%d+") do all = all and self.own[tonumber(pid)] ~= nil end
  return all
end

local function has_rules(text, table_name)
  local part = text:match("%*" .. table_name .. "\n(.-)COMMIT")
  return part ~= nil and part:find("\n%-A ") ~= nil
end

local function docker_is_in(text) return text:find("\n:DOCKER ", 1, true) ~= nil end

local function backend(kind, prefix)
  return setmetatable({ kind = kind, saver = prefix .. "-save", restorer = prefix .. "-restore",
    own = {} }, Backend)
end

function iptables.find(last)
  local nft, legacy = try { "iptables-nft-save" }, try { "iptables-legacy-save" }
  if not nft and not legacy then
    local plain = try { "iptables", "--version" }
    if not plain then
      error(task.error {
        code = "netfilter_missing",
        message = "no iptables on this host: traffic can't be switched",
        hint = "apt-get install iptables",
      }, 0)
    end
    return backend(plain.stdout:find("nf_tables", 1, true) and "nft" or "legacy", "iptables")
  end
  local in_nft = nft and nft.stdout or ""
  local in_legacy = legacy and legacy.stdout or ""
  for _, name in ipairs { "nat", "filter" } do
    if has_rules(in_nft, name) and has_rules(in_legacy, name) then
      error(task.error {
        code = "netfilter_mixed",
        message = "both iptables-nft and iptables-legacy hold rules in table " .. name,
        hint = "see `iptables-legacy-save` and `iptables-nft-save`; remove one side's rules "
          .. "(iptables-legacy -t " .. name .. " -F), and restart Docker",
      }, 0)
    end
  end
  if docker_is_in(in_legacy) then return backend("legacy", "iptables-legacy") end
  if docker_is_in(in_nft) then return backend("nft", "iptables-nft") end
  if last == "nft" and nft or last == "legacy" and legacy then
    return backend(last, "iptables-" .. last)
  end
  -- Docker hasn't run yet: it will take what is called iptables.
  local plain = try { "iptables", "--version" }
  if plain and not plain.stdout:find("nf_tables", 1, true) and legacy then
    return backend("legacy", "iptables-legacy")
  end
  return nft and backend("nft", "iptables-nft") or backend("legacy", "iptables-legacy")
end

function iptables.ip(...)
  local argv = { "ip", ... }
  local r = try(argv)
  if not r then
    error(task.error { code = "netfilter_missing", message = "no `ip` on this host",
      hint = "apt-get install iproute2" }, 0)
  end
  if r.status ~= 0 then
    error(task.error { code = "route_failed",
      message = table.concat(argv, " ") .. ": " .. last_line(r.stderr) }, 0)
  end
  return r.stdout
end

function iptables.sysctl(name, value)
  local path = "/proc/sys/" .. name:gsub("%.", "/")
  if value then
    -- Not fs.write, which would put a new file in its place.
    local file = io.open(path, "w")
    if not file then return nil end
    file:write(value)
    if not file:close() then return nil end
  end
  local ok, text = pcall(fs.read, path)
  return ok and text and (text:gsub("%s+$", "")) or nil
end

return iptables
