-- Commands inside a live instance, for `ndctl exec`: started by nd-init, so that they see the
-- environment and the secrets as the app does.

local fs = require "fs"
local json = require "json"
local process = require "process"
local task = require "task"
local container = require "nd.service.container"
local err = require "nd.error"

local TERM_MS = 2000

local Exec = {}
Exec.__index = Exec

function Exec.new(d) return setmetatable({ d = d }, Exec) end

-- The running instance of the live release that is meant: by its process and index.
function Exec:instance(app, name, index)
  local live = self.d.releases:live(app)
  if not live then
    err.raise("app_not_live", ("'%s' has no live release to run a command in"):format(app.name),
      "`ndctl status " .. app.name .. "`")
  end
  local there = {}
  for _, row in ipairs(self.d.releases:instances(live)) do
    if row.state == "running" and (not name or row.process == name) and (not index or row.position == index) then
      return row
    end
    there[#there + 1] = ("%s %d (%s)"):format(row.process, row.position, row.state)
  end
  err.raise("instance_not_found", ("'%s' has no running instance %s"):format(app.name,
    index and ("%s %d"):format(name or "", index) or name or ""), "it has " .. table.concat(there, ", "))
end

local Session = {}
Session.__index = Session

-- Starts the command (a list of texts). options: stdin, user.
function Exec:open(instance, command, options)
  local argv = json.array { container.init, "exec", "--" }
  table.move(command, 1, #command, #argv + 1, argv)
  local _, created = self.d.docker:call("POST", "/containers/" .. instance.container .. "/exec", {
    Cmd = argv, AttachStdout = true, AttachStderr = true, AttachStdin = options.stdin or false,
    User = options.user })
  local stream = self.d.docker:hijack("/exec/" .. created.Id .. "/start", { Detach = false, Tty = false })
  if not options.stdin then stream:finish() end
  local release = self.d.store:get("SELECT app FROM release WHERE id = ?", instance.release)
  return setmetatable({ d = self.d, id = created.Id, container = instance.container, stream = stream,
    redact = self.d.redaction:of(release and release.app), held = { stdout = "", stderr = "" } }, Session)
end

function Session:look()
  local _, found = self.d.docker:call("GET", "/exec/" .. self.id .. "/json")
  return found
end

-- What it prints, as it comes, without secrets: bytes, "stdout" | "stderr"; nil at its end. What may be the
-- beginning of one is held back until more comes.
function Session:recv()
  for data, name in function() return self.stream:recv() end do
    local clean
    clean, self.held[name] = self.redact:part(self.held[name] .. data, true)
    if clean ~= "" then return clean, name end
  end
  for name, rest in pairs(self.held) do
    self.held[name] = ""
    if rest ~= "" then return self.redact:text(rest), name end
  end
end
function Session:send(data) return self.stream:send(data) end
function Session:finish() return self.stream:finish() end

-- Docker may say that it runs for a moment after its output has ended.
function Session:exit_code()
  while true do
    local found = self:look()
    if not found.Running then return found.ExitCode end
    task.sleep(20)
  end
end

-- Is process `pid` one of the container's?
local function belongs(pid, id)
  local ok, cgroup = pcall(fs.read, ("/proc/%d/cgroup"):format(pid))
  return ok and cgroup:find(id, 1, true) ~= nil
end

-- Ends the command if it still runs: SIGTERM, two seconds, SIGKILL. (The API has no call for it.)
function Session:abort()
  self.stream:close()
  for _, signal in ipairs { "-TERM", "-KILL" } do
    local found = self:look()
    if not found.Running or not belongs(found.Pid, self.container) then return end
    process.run { argv = { "kill", signal, "--", "-" .. found.Pid } }
    local waited = 0
    while waited < TERM_MS and self:look().Running do
      task.sleep(50)
      waited = waited + 50
    end
  end
end

return Exec
