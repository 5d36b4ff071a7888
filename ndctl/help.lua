-- help.lua - `ndctl help [command]` and `--help`, written from the commands' rows.

local args = require "ndctl.lib.args"
local commands = require "ndctl.lib.commands"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local text = require "ndctl.lib.text"

local help = {
  name = "help",
  summary = "Explain ndctl, or one command, with examples.",
  args = { { "command", many = true, optional = true, complete = "commands" } },
  options = {
    { "man", type = "flag", doc = "as a manual page, for man -l -" },
    { "output", value = "DIR", doc = "with --man: write the pages of all commands there" },
  },
  permission = "local", json = false,
  examples = {
    { "ndctl help deploy", "all options of deploy" },
    { "ndctl help runs watch", "one command of a family" },
    { "ndctl help --man deploy", "the text of ndctl-deploy(1)" },
  },
}

local function option_left(option)
  local kind = option.type or "string"
  local left = option.short and ("-%s, "):format(option.short) or "    "
  left = left .. "--" .. (option.negatable and "[no-]" or "") .. option[1]
  if kind == "choice" then
    left = left .. " " .. (option.value or table.concat(option.choices, "|"))
  elseif kind == "map" then
    left = left .. " " .. (option.value or "NAME=VALUE")
  elseif kind ~= "flag" then
    left = left .. " " .. (option.value or kind:upper())
  end
  return left
end

local function add_options(lines, title, options)
  if #options == 0 then return end
  lines[#lines + 1] = ""
  lines[#lines + 1] = title
  local width = 0
  for _, option in ipairs(options) do width = math.max(width, #option_left(option)) end
  width = math.min(width, 32)
  for _, option in ipairs(options) do
    local doc = option.doc or ""
    if option.default ~= nil and option.default ~= false and option.type ~= "flag" then
      doc = ("%s (default %s)"):format(doc, tostring(option.default))
    end
    local left = option_left(option)
    local wrapped = text.wrap(doc, 88 - width - 4)
    if #left > width then
      lines[#lines + 1] = "  " .. left
      left = ""
    end
    for i, part in ipairs(wrapped) do
      lines[#lines + 1] = ("  %s  %s"):format(text.pad(i == 1 and left or "", width), part)
    end
  end
end

local function add_examples(lines, examples)
  if not examples or #examples == 0 then return end
  lines[#lines + 1] = ""
  lines[#lines + 1] = "Examples:"
  for _, example in ipairs(examples) do
    lines[#lines + 1] = "  " .. example[1]
    if example[2] then lines[#lines + 1] = "      " .. example[2] end
  end
end

-- The help of one command, as lines.
function help.of(row)
  local lines = text.wrap(row.summary, 88)
  lines[#lines + 1] = ""
  for i, line in ipairs(args.usage(row)) do
    lines[#lines + 1] = (i == 1 and "Usage: " or "       ") .. line
  end
  if row.commands then
    lines[#lines + 1] = ""
    lines[#lines + 1] = "Commands:"
    local width = 0
    for _, child in ipairs(row.commands) do width = math.max(width, #child.name) end
    for _, child in ipairs(row.commands) do
      lines[#lines + 1] = ("  %s  %s"):format(text.pad(child.name, width), child.summary)
    end
  end
  for _, note in ipairs(row.notes or {}) do
    lines[#lines + 1] = ""
    table.move(text.wrap(note, 88), 1, #text.wrap(note, 88), #lines + 1, lines)
  end
  add_options(lines, "Options:", row.options or {})
  add_examples(lines, row.examples)
  lines[#lines + 1] = ""
  lines[#lines + 1] = row.commands
    and ("`ndctl help %s COMMAND` explains one; `ndctl help` lists what every command takes.")
      :format(row.path)
    or "`ndctl help` lists the options that every command takes."
  return lines
end

-- The overview, as lines.
function help.overview()
  local lines = {
    "ndctl deploys containers through nextdeployd, the daemon on the host.",
    "",
    "Usage: ndctl [options] COMMAND [arguments]",
  }
  local width = 0
  for _, name in ipairs(commands.names()) do width = math.max(width, #name) end
  for _, group in ipairs(commands.groups) do
    lines[#lines + 1] = ""
    lines[#lines + 1] = group[1] .. ":"
    for _, name in ipairs(group[2]) do
      lines[#lines + 1] = ("  %s  %s"):format(text.pad(name, width), commands.get(name).summary)
    end
  end
  add_options(lines, "Options of every command:", args.globals)
  add_examples(lines, {
    { "ndctl deploy nginx:1.27 --app web --port 80", "the first version of an app" },
    { "ndctl run recipe bluegreen --app web --image nginx:1.28", "the next, by a recipe" },
    { "ndctl rollback web", "back to the one before" },
  })
  table.move({
    "",
    "Exit status: 0 done, 1 failed, 2 usage, 3 not allowed, 4 not found, 5 conflict (another run",
    "is live), 6 unhealthy or timed out, 7 daemon unreachable, 130 interrupted.",
    "`ndctl help COMMAND` explains one command.",
  }, 1, 4, #lines + 1, lines)
  return lines
end

-- "cancel" -> "runs cancel or ndctl job cancel"; nil where no family has such a command.
local function parents_of(word)
  local paths = {}
  for _, name in ipairs(commands.names()) do
    local row = commands.get(name)
    local child = row.commands and commands.child(row, word)
    if child then paths[#paths + 1] = child.path end
  end
  return #paths > 0 and table.concat(paths, " or ndctl ") or nil
end

-- Finds the row for {"runs", "list"}; raises a usage error naming the nearest one.
function help.find(words)
  local row = commands.get(words[1])
  if not row then
    local near = parents_of(words[1]) or text.nearest(words[1], commands.names())
    fail.usage(("there is no command '%s'"):format(words[1]),
      near and ("did you mean ndctl %s?"):format(near) or "ndctl help lists the commands")
  end
  if words[2] then
    local child = row.commands and commands.child(row, words[2])
    if not child then
      local near = row.commands and text.nearest(words[2], commands.child_names(row))
      fail.usage(("there is no command '%s %s'"):format(row.path, words[2]),
        near and ("did you mean ndctl %s %s?"):format(row.path, near)
          or ("ndctl help %s"):format(row.path))
    end
    row = child
  end
  return row
end

function help.run(ctx)
  local words = ctx.args.command or {}
  local man = (ctx.options.man or ctx.options.output) and require "ndctl.lib.man"
  if ctx.options.output then
    out.progress(man.write(ctx.options.output))
  elseif man then
    local _, page
    if words[1] then _, page = man.of(help.find { words[1] }) else _, page = man.overview() end
    out.print((page:gsub("\n$", "")))
  elseif #words == 0 then
    out.print(help.overview())
  else
    out.print(help.of(help.find(words)))
  end
end

return help
