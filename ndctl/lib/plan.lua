-- lib/plan.lua - shows what a run would do, and asks whether to do it.

local changes = require "ndctl.lib.changes"
local fail = require "ndctl.lib.fail"
local text = require "ndctl.lib.text"
local term = require "term"

local plan = {}

-- Whether nothing would be another afterwards.
function plan.same(p)
  if p.same ~= nil then return p.same end
  return #(p.changes or {}) == 0 -- a daemon of the release before
end

-- A plan {recipe, app_name, lines, undos, changes, same} as lines.
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
  if plan.same(p) then
    lines[#lines + 1] = "Nothing would change: what is asked for is what there is."
    return lines
  end
  local list = changes.spread(p.changes)
  if #list > 0 then lines[#lines + 1] = "Changes:" end
  for _, line in ipairs(changes.lines(list)) do lines[#lines + 1] = "   " .. line end
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
