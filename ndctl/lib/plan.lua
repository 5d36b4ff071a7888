-- lib/plan.lua - shows what a run would do, and asks whether to do it.

local fail = require "ndctl.lib.fail"
local text = require "ndctl.lib.text"
local term = require "term"

local plan = {}

local function value_text(value)
  if value == nil or type(value) == "userdata" then return "(none)" end
  if type(value) == "table" then return require("json").encode(value) end
  return tostring(value)
end

-- Settings that come into being with nothing in them say nothing.
local function changes_of(p)
  local changes = {}
  for _, change in ipairs(p.changes or {}) do
    local to = change.to
    local nothing = change.from == nil and (to == nil or type(to) == "table" and next(to) == nil)
    if not nothing then changes[#changes + 1] = change end
  end
  return changes
end

-- A plan {recipe, app_name, lines, undos, changes} as lines.
function plan.lines(p)
  local lines = { ("Plan for %s by %s:"):format(p.app_name or "the host", p.recipe or "?") }
  for i, line in ipairs(p.lines or {}) do
    lines[#lines + 1] = ("  %2d. %s"):format(i, text.clean(line))
  end
  if #(p.lines or {}) == 0 then lines[#lines + 1] = "  nothing to do" end
  if #(p.undos or {}) > 0 then
    lines[#lines + 1] = "If it fails before the switch:"
    for _, line in ipairs(p.undos) do lines[#lines + 1] = "   -  " .. text.clean(line) end
  end
  local changes = changes_of(p)
  if #changes > 0 then
    lines[#lines + 1] = "Changes:"
    local width = 0
    for _, change in ipairs(changes) do width = math.max(width, #change.field) end
    for _, change in ipairs(changes) do
      lines[#lines + 1] = text.clean(("   %s  %s -> %s"):format(text.pad(change.field, width),
        value_text(change.from), value_text(change.to)))
    end
  end
  return lines
end

local function need_terminal(retry)
  if not term.isatty(0) then
    fail.usage("this asks for confirmation, and there is no terminal to ask on",
      "to go ahead without asking: " .. retry)
  end
end

-- Says `what` will happen and asks for `name` to be typed; raises `declined` on anything else.
-- `retry` is the command that needs no terminal.
function plan.confirm_name(name, what, retry)
  need_terminal(retry)
  local answer = term.ask(("%s\nType %s to go ahead: "):format(what, name))
  if not answer or answer:match("^%s*(.-)%s*$") ~= name then
    fail.raise("declined", "declined; nothing was changed")
  end
end

-- Asks `question` unless --yes was given; raises `declined` on anything but yes.
function plan.confirm(ctx, question, retry)
  if ctx.options.yes then return end
  need_terminal(retry)
  local answer = term.ask(question .. " [y/N] ")
  if not answer or not answer:lower():find("^%s*ye?s?%s*$") then
    fail.raise("declined", "declined; nothing was changed")
  end
end

return plan
