-- lib/man.lua - the manual pages, from the rows that make the help texts: ndctl(1) and a page for each
-- command, ndctl-deploy(1); a family's commands are sections of its page.
--
-- The macros are man(7)'s, those that groff and mandoc both know. Pages have no date, so that the same
-- sources give the same bytes.

local args = require "ndctl.lib.args"
local commands = require "ndctl.lib.commands"
local term = require "term"
local text = require "ndctl.lib.text"

local man = {}

-- Text as troff shows it unchanged: its own characters escaped, no line beginning with a macro.
local function plain(s)
  s = s:find("\n", 1, true) and s or table.concat(text.wrap(s, 70), "\n")
  s = s:gsub("\\", "\\e"):gsub("-", "\\-"):gsub("`([^`]*)`", "\\fB%1\\fR")
  return (("\n" .. s):gsub("\n([.'])", "\n\\&%1"):sub(2))
end

-- The same inside an argument of a macro.
local function quoted(s) return '"' .. plain(s):gsub("\n", " "):gsub('"', "\\(dq") .. '"' end

local Page = {}
Page.__index = Page

local function page(name, summary)
  local p = setmetatable({}, Page)
  p:add((".TH %s 1 \"\" %s NextDeploy"):format(quoted(name:upper()), quoted("ndctl " .. term.version)))
  p:add ".SH NAME"
  p:add(("%s \\- %s"):format(plain(name), plain(summary)))
  return p
end

-- A section begins with a paragraph anyway.
function Page:add(...)
  for _, line in ipairs { ... } do
    if line ~= ".PP" or not (self[#self] or ""):find("^%.S") then self[#self + 1] = line end
  end
end

function Page:synopsis(row)
  for i, line in ipairs(args.usage(row)) do
    if i > 1 then self:add ".br" end
    self:add((".B %s"):format((plain(line):gsub("\n", " "))))
  end
end

function Page:paragraph(s) self:add(".PP", plain(s)) end

function Page:options(list)
  for _, option in ipairs(list) do
    local value = option.type == "map" and "NAME=VALUE" or option.type ~= "flag"
      and (option.value or option.choices and table.concat(option.choices, "|")
        or (option.type or "value"):upper()) or nil
    local name = "--" .. (option.negatable and "[no-]" or "") .. option[1]
    self:add ".TP"
    self:add(("%s\\fB%s\\fR%s"):format(option.short and ("\\fB\\-%s\\fR, "):format(option.short) or "",
      plain(name), value and " \\fI" .. plain(value) .. "\\fR" or ""))
    local doc = option.doc
    if option.default ~= nil and option.default ~= false and option.type ~= "flag" then
      doc = ("%s (default %s)"):format(doc, tostring(option.default))
    end
    self:add(plain(doc))
  end
end

function Page:examples(list)
  for _, example in ipairs(list or {}) do
    self:add(".PP")
    if example[2] then self:add(plain((example[2]:gsub("^%l", string.upper))) .. ":", ".PP") end
    self:add(".RS 4", ".nf", (plain(example[1]):gsub("\n", " \\e\n    ")), ".fi", ".RE")
  end
end

local roles = { read = "viewer", deploy = "deployer", admin = "admin", people = "admin", audit = "admin" }

-- What a command is, takes and needs; `level` is the macro of its sections.
function Page:command(row, level)
  for _, note in ipairs(row.notes or {}) do self:paragraph(note) end
  if roles[row.permission] then
    self:paragraph(("Over TCP it needs a token of the role %s."):format(roles[row.permission]))
  end
  if row.options and #row.options > 0 then
    self:add(level .. " Options")
    self:options(row.options)
  end
end

local statuses = {
  { "0", "done" }, { "1", "failed, or declined at the prompt" }, { "2", "usage" },
  { "3", "not allowed" }, { "4", "not found" }, { "5", "conflict: another run is live" },
  { "6", "unhealthy or timed out" }, { "7", "daemon unreachable" }, { "130", "interrupted" },
}

function Page:exit_status(row)
  self:add ".SH EXIT STATUS"
  if row and row.exit_status then return self:paragraph(row.exit_status) end
  for _, status in ipairs(statuses) do
    self:add(".TP", (".B %s"):format(status[1]), plain(status[2]))
  end
end

-- The page of a command: its name without ".1", and its text.
function man.of(row)
  local name = "ndctl-" .. row.name
  local p = page(name, (row.summary:gsub("%.$", "")))
  p:add ".SH SYNOPSIS"
  p:synopsis(row)
  p:add(".SH DESCRIPTION", plain(row.summary))
  p:command(row, ".SS")
  for _, child in ipairs(row.commands or {}) do
    p:add((".SH %s"):format(quoted(("ndctl " .. child.path):upper())), plain(child.summary), ".PP")
    p:synopsis(child)
    p:command(child, ".SS")
    p:add ".SS Examples"
    p:examples(child.examples)
  end
  p:add ".SH EXAMPLES"
  p:examples(row.examples)
  p:exit_status(row)
  p:add(".SH SEE ALSO", ".BR ndctl (1),", "which has the options that every command takes.")
  return name, table.concat(p, "\n") .. "\n"
end

local variables = {
  { "NDCTL_HOST", "the daemon, where --host and --context don't say" },
  { "NDCTL_TOKEN", "the token, where --token doesn't say" },
  { "NDCTL_CONTEXT", "the context, where neither --context nor NDCTL_HOST says" },
  { "XDG_CONFIG_HOME", "where ndctl/ is, with the contexts; ~/.config by default" },
  { "NO_COLOR", "no colours on a terminal either" },
}

-- ndctl(1).
function man.overview()
  local p = page("ndctl", "deploy containers through nextdeployd")
  p:add(".SH SYNOPSIS", ".B ndctl", plain "[options] COMMAND [arguments]", ".SH DESCRIPTION",
    plain "ndctl is the person's end of NextDeploy: it asks nextdeployd, the daemon on the host, and "
      .. "shows what comes of it. Results go to stdout, everything else to stderr.")
  for _, group in ipairs(commands.groups) do
    p:add((".SS %s"):format(quoted(group[1])))
    for _, name in ipairs(group[2]) do
      p:add(".TP", (".BR ndctl\\-%s (1)"):format(plain(name)), plain(commands.get(name).summary))
    end
  end
  p:add ".SH OPTIONS"
  p:options(args.globals)
  p:add ".SH ENVIRONMENT"
  for _, variable in ipairs(variables) do
    p:add(".TP", (".B %s"):format(variable[1]), plain(variable[2]))
  end
  p:add(".SH FILES", ".TP", ".I \\(ti/.config/ndctl/contexts.json", "the contexts and their tokens", ".TP",
    ".I ./nextdeploy.lua", "what an app is, beside its source")
  p:exit_status()
  return "ndctl", table.concat(p, "\n") .. "\n"
end

-- Writes all pages into `dir`; returns their paths.
function man.write(dir)
  local fs = require "fs"
  local paths = {}
  fs.mkdir(dir)
  local function put(name, content)
    paths[#paths + 1] = ("%s/%s.1"):format(dir, name)
    fs.write(paths[#paths], content, 420) -- rw-r--r--
  end
  put(man.overview())
  for _, name in ipairs(commands.names()) do put(man.of(commands.get(name))) end
  return paths
end

return man
