-- lib/commands.lua - which commands there are; a command is one file, read when it is needed.
--
-- ndctl/NAME.lua returns its row: {name, summary, args?, options?, examples, notes?, run(ctx)} or,
-- for a family, `commands = {row, ...}` instead of `run`. From the rows come the parsing, the help
-- texts and the tests of the examples. `path` ("runs list") is filled in here.

local commands = {}

-- The order in which `ndctl help` shows them.
commands.groups = {
  { "Deploy", { "deploy", "run", "swap", "rollback", "restart", "stop", "destroy" } },
  { "Watch", { "status", "ps", "logs", "events", "runs" } },
  { "Set up", { "recipe", "token", "doctor", "version", "help" } },
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
