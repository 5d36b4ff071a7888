-- lib/out.lua - what ndctl writes: results to stdout, everything else to stderr.
--
-- Colour and cursor control only on a terminal, and colour not under NO_COLOR; marks outside ASCII
-- only in a UTF-8 locale. A reader that went away (`ndctl logs app | head`) ends ndctl by SIGPIPE,
-- as it ends other programs.

local term = require "term"

local out = { quiet = false }

local function locale_is_utf8()
  local name = os.getenv("LC_ALL")
  if not name or name == "" then name = os.getenv("LC_CTYPE") end
  if not name or name == "" then name = os.getenv("LANG") end
  return (name or ""):lower():find("utf%-?8") ~= nil
end

out.utf8 = locale_is_utf8()

local function put(stream, s)
  local done, _, number = stream:write(s)
  if done then done, _, number = stream:flush() end
  if not done then term.broken_pipe(number or 0) end
end

-- From now on ends ndctl as soon as nobody reads stdout any more, and not only at the next line:
-- for what follows and may have nothing to say for long.
function out.end_with_reader()
  require("task").spawn("stdout", function()
    if term.output_closed() then term.broken_pipe(32) end -- EPIPE
  end)
end

-- A line, or several, to stdout.
function out.print(...)
  local lines = { ... }
  if type(lines[1]) == "table" then lines = lines[1] end
  if #lines > 0 then put(io.stdout, table.concat(lines, "\n") .. "\n") end
end

-- A line, or several, to stderr: progress, notes, prompts, errors.
function out.note(...)
  local lines = { ... }
  if type(lines[1]) == "table" then lines = lines[1] end
  if #lines > 0 then put(io.stderr, table.concat(lines, "\n") .. "\n") end
end

function out.raw_note(s)
  put(io.stderr, s)
end

-- A note that --quiet leaves out.
function out.progress(...)
  if not out.quiet then out.note(...) end
end

function out.json(value)
  put(io.stdout, require("json").encode(value, true) .. "\n")
end

local function coloured(fd)
  local no = os.getenv("NO_COLOR")
  return term.isatty(fd) and not (no and no ~= "") and os.getenv("TERM") ~= "dumb"
end

-- A function (s, "red"|"green"|"yellow"|"bold"|"dim") -> s for the stream `fd` (1 or 2).
function out.painter(fd)
  if not coloured(fd) then
    return function(s) return s end
  end
  local codes = { red = "31", green = "32", yellow = "33", bold = "1", dim = "2" }
  return function(s, name) return ("\27[%sm%s\27[0m"):format(codes[name], s) end
end

return out
