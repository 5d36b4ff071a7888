-- lib/commands.lua - which commands there are; a command is one file, read when it is needed.
--
-- ndctl/NAME.lua returns its row: {name, summary, args?, options?, examples, notes?, run(ctx)} or,
-- for a family, `commands = {row, ...}` instead of `run`. From the rows come the parsing, the help
-- texts, the manual pages, the completion and tests/e2e/test_commands, which runs the examples and
-- tries every way to fail. `path` ("runs list") is filled in here. For the last three a row says
--
--   permission   what the daemon asks for (lua/nd/permission.lua), or "self" (anybody that it knows);
--                "local" needs none
--   json         the shape of its --json: the name of a schema in /openapi.json ("Run", "Run[]" for a
--                list, "Event lines" for one a line), a JSON Schema (lines = true), or false
--   plan         the same for its --plan, where that isn't "Plan"
--   conflict     true: refused with exit status 5 while another run of the app is live
--   errors       {name = N}: the exit status for a name that there isn't, where that isn't 4
--   complete     of an argument or option: the kind of name it takes (lib/complete.lua)
--   examples     {line, what it does, and for the tests: status = its exit status if not 0, stdin =
--                its bytes, file = the file that they are in,
--                answer = what is typed when it asks, project = true if it needs a ./nextdeploy.lua,
--                follows = true if it ends only when interrupted, skip = why it can't be run}

local commands = {}

-- The order in which `ndctl help` shows them.
commands.groups = {
  { "Deploy", { "deploy", "scale", "run", "exec", "swap", "rollback", "restart", "stop", "tag", "destroy",
    "diff" } },
  { "Watch", { "status", "apps", "ps", "logs", "events", "runs", "job", "metrics", "top" } },
  { "People", { "login", "logout", "whoami", "password", "team", "role", "token", "audit" } },
  { "Set up", { "proxy", "secrets", "certs", "recipe", "registry", "context", "config", "completion", "doctor", "gc",
    "upgrade", "version", "help" } },
  { "For scripts", { "cron", "crypt", "debug" } },
}

function commands.names()
  local names = {}
  for _, group in ipairs(commands.groups) do
    table.move(group[2], 1, #group[2], #names + 1, names)
  end
  return names
end

local function name_paths(row, path)
  row.path = path
  for _, child in ipairs(row.commands or {}) do name_paths(child, path .. " " .. child.name) end
  return row
end

-- The row of a top-level command, or nil.
function commands.get(name)
  for _, known in ipairs(commands.names()) do
    if known == name then
      local row = require("ndctl." .. name)
      return row.path and row or name_paths(row, name)
    end
  end
end

function commands.child(row, name)
  for _, child in ipairs(row.commands or {}) do
    if child.name == name then return child end
    for _, other in ipairs(child.also or {}) do
      if other == name then return child end
    end
  end
end

function commands.child_names(row)
  local names = {}
  for i, child in ipairs(row.commands) do names[i] = child.name end
  return names
end

-- Calls visit(row) for every command and subcommand.
function commands.each(visit)
  for _, name in ipairs(commands.names()) do
    local row = commands.get(name)
    visit(row)
    for _, child in ipairs(row.commands or {}) do visit(child) end
  end
end

return commands
