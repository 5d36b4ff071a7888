-- lib/dotenv.lua - NAME=VALUE lines as .env files have them.
--
-- Blank lines and # comments, `export ` before a name, values bare (blanks around them and a # after a
-- blank end them), in single quotes (as they stand) or double quotes (\n \r \t \" \\ \$ mean what they
-- do elsewhere); a quoted value may go over several lines. Nothing is expanded: $HOME stays $HOME.

local fail = require "ndctl.lib.fail"

local dotenv = {}

local escapes = { n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["$"] = "$" }

local function line_of(source, at) return select(2, source:sub(1, at):gsub("\n", "")) + 1 end

-- Where the double quote at `from` ends, past escaped ones.
local function closing(source, from)
  local at = from + 1
  while at <= #source do
    local c = source:sub(at, at)
    if c == '"' then return at end
    at = at + (c == "\\" and 2 or 1)
  end
end

-- The value that begins at `at`, and where it ends.
local function value_at(source, at, bad)
  local quote = source:match("^['\"]", at)
  if not quote then
    local line, stop = source:match("^([^\n]*)()", at)
    line = line:gsub("%s#.*$", ""):gsub("^#.*$", "")
    return line:match("^%s*(.-)%s*$"), stop
  end
  local stop = quote == "'" and source:find("'", at + 1, true) or quote == '"' and closing(source, at)
  if not stop then bad(at, "has no closing quote") end
  local inner = source:sub(at + 1, stop - 1)
  if quote == '"' then inner = inner:gsub("\\(.)", function(c) return escapes[c] end) end
  local rest, after = source:match("^([^\n]*)()", stop + 1)
  if not rest:find("^%s*$") and not rest:find("^%s+#") then bad(stop, "has something after its closing quote") end
  return inner, after
end

-- Text of a file -> {NAME = value}, list of names in its order. Raises config, naming `where` and the line.
function dotenv.parse(source, where)
  local values, names, at = {}, {}, 1
  local function bad(pos, what)
    fail.raise("config", ("%s:%d: %s"):format(where, line_of(source, pos - 1), what), "a line is NAME=VALUE")
  end
  source = source:gsub("^\239\187\191", ""):gsub("\r\n", "\n")
  while at <= #source do
    local line, next_line = source:match("^([^\n]*)\n?()", at)
    if line:find("^%s*$") or line:find("^%s*#") then
      at = next_line
    else
      local name, from = source:match("^%s*([%a_][%w_]*)[ \t]*=[ \t]*()", at)
      if not name then name, from = source:match("^%s*export[ \t]+([%a_][%w_]*)[ \t]*=[ \t]*()", at) end
      if not name then bad(at, "isn't NAME=VALUE, with a NAME of letters, digits and _") end
      if values[name] == nil then names[#names + 1] = name end
      local stop
      values[name], stop = value_at(source, from, bad)
      at = (source:match("^\n?()", stop))
    end
  end
  return values, names
end

return dotenv
