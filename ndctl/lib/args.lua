-- lib/args.lua - the command line, read by a command's row.
--
-- A row's `options` are {"name", short = "n", type = ..., value = "NAME", default =, doc =, ...}:
--   string (the default), flag (`negatable` adds --no-name), int, duration ("30s", kept as text),
--   choice (`choices`, and `aliases` for other spellings), list (repeated), map (K=V, repeated).
-- A row's `args` are {"name", optional = true?, many = true?, choices = {...}?}. A row with `free = "params"` takes
-- every other --name value too, into options.params (what recipes' parameters are).
-- A row with `signed = true` takes words such as -team-a for arguments, where no option begins so.
-- Options may stand anywhere; `--` ends them. The result's keys have `_` for `-`.

local fail = require "ndctl.lib.fail"
local text = require "ndctl.lib.text"

local args = {}

-- Options of every command.
args.globals = {
  { "host", value = "URL", doc = "the daemon: unix:///PATH, https://HOST:PORT or http://127.0.0.1:PORT (NDCTL_HOST)" },
  { "context", value = "NAME", complete = "contexts",
    doc = "the daemon of that name, see ndctl context (NDCTL_CONTEXT)" },
  { "token", value = "TOKEN", doc = "bearer token for a daemon on TCP (NDCTL_TOKEN)" },
  { "ca", value = "FILE", complete = "files",
    doc = "trust a daemon's https by this certificate authority, and not by the system's (NDCTL_CA)" },
  { "pin", value = "PIN", doc = "trust it by this key alone, as the daemon's log says it: sha256//... (NDCTL_PIN)" },
  { "env", value = "NAME", doc = "the environment, where it isn't production" },
  { "project", value = "NAME", doc = "the project, where it isn't the default one" },
  { "json", type = "flag", doc = "print the API's answer as JSON" },
  { "quiet", short = "q", type = "flag", doc = "print results and errors only" },
  { "yes", short = "y", type = "flag", doc = "don't ask for confirmation" },
  { "help", short = "h", type = "flag", doc = "show this help" },
}

local function key_of(option)
  return option.key or (option[1]:gsub("-", "_"))
end

-- Makes the lookup by spelling: long["no-wait"] = option, negated.
local function index(row)
  local long, short, names = {}, {}, {}
  for _, list in ipairs { args.globals, row.options or {} } do
    for _, option in ipairs(list) do
      long[option[1]] = { option = option }
      names[#names + 1] = "--" .. option[1]
      if option.negatable then
        long["no-" .. option[1]] = { option = option, negated = true }
        names[#names + 1] = "--no-" .. option[1]
      end
      for _, other in ipairs(option.spellings or {}) do long[other] = { option = option } end
      if option.short then short[option.short] = { option = option } end
    end
  end
  return long, short, names
end

local function choose(option, given, value)
  local chosen = (option.aliases or {})[value] or value
  for _, choice in ipairs(option.choices) do
    if choice == chosen then return chosen end
  end
  local near = text.nearest(value, option.choices)
  fail.usage(("%s is one of %s, not '%s'"):format(given, table.concat(option.choices, ", "), value),
    near and ("did you mean %s?"):format(near))
end

local function convert(option, given, value)
  local kind = option.type or "string"
  if kind == "int" then
    local n = math.tointeger(tonumber(value))
    if not n or not value:find("^%-?%d+$") then
      fail.usage(("%s takes a whole number, not '%s'"):format(given, value))
    end
    if n < (option.least or 0) or n > (option.most or math.maxinteger) then
      fail.usage(("%s takes a number from %d%s, not %d"):format(given, option.least or 0,
        option.most and " to " .. option.most or " up", n))
    end
    return n
  elseif kind == "duration" then
    if not text.parse_duration(value) then
      fail.usage(("%s takes a duration, not '%s'"):format(given, value),
        "write it as 500ms, 30s, 5m or 1h30m")
    end
  elseif kind == "choice" then
    return choose(option, given, value)
  end
  if value == "" and not option.empty then fail.usage(given .. " is empty") end
  return value
end

local function store(result, option, given, value)
  local key = key_of(option)
  if option.type == "list" then
    result[key] = result[key] or {}
    table.insert(result[key], convert(option, given, value))
  elseif option.type == "map" then
    local name, rest = value:match("^([^=]+)=(.*)$")
    if not name then
      fail.usage(("%s takes NAME=VALUE, not '%s'"):format(given, value))
    end
    result[key] = result[key] or {}
    result[key][name] = rest
  else
    result[key] = convert(option, given, value)
  end
end

local function unknown(row, given, names)
  local near = text.nearest(given, names)
  local of = row.path and " of ndctl " .. row.path or ""
  fail.usage(("unknown option %s%s"):format(given, of), near and ("did you mean %s?"):format(near)
    or ("ndctl %s--help lists them"):format(row.path and row.path .. " " or ""))
end

-- A parameter of a recipe: --name value, --name=value; a bare --name is true.
local function store_free(result, key, name, value)
  local params = result[key]
  if params[name] == nil then
    params[name] = value
  elseif type(params[name]) == "table" then
    table.insert(params[name], value)
  else
    params[name] = { params[name], value }
  end
end

local Reader = {}
Reader.__index = Reader

function Reader:next_value(given)
  local value = self.argv[self.at + 1]
  if value == nil or value:find("^%-%-%w") then
    fail.usage(given .. " needs a value", ("%s VALUE, or %s=VALUE where it begins with --")
      :format(given, given))
  end
  self.at = self.at + 1
  return value
end

function Reader:long(word)
  local name, value = word:match("^%-%-([^=]+)=(.*)$")
  name = name or word:sub(3)
  local given = "--" .. name
  local found = self.by_long[name]
  if not found then
    if not self.row.free then unknown(self.row, given, self.names) end
    if value == nil then
      local following = self.argv[self.at + 1]
      if following == nil or following:find("^%-%-") then
        value = true
      else
        value = self:next_value(given)
      end
    end
    return store_free(self.result, self.row.free, name, value)
  end
  if found.option.type == "flag" then
    if value then fail.usage(given .. " takes no value") end
    self.result[key_of(found.option)] = not found.negated
  else
    store(self.result, found.option, given, value or self:next_value(given))
  end
end

function Reader:short(word)
  local at = 2
  if self.row.signed and not self.by_short[word:sub(2, 2)] then
    self.words[#self.words + 1] = word -- -NAME, of `ndctl tag`
    return
  end
  while at <= #word do
    local given = "-" .. word:sub(at, at)
    local found = self.by_short[word:sub(at, at)]
    if not found then unknown(self.row, given, self.names) end
    at = at + 1
    if found.option.type == "flag" then
      self.result[key_of(found.option)] = true
    else
      local value = at <= #word and word:sub(at) or self:next_value(given)
      store(self.result, found.option, given, value)
      return
    end
  end
end

local function reader(row, argv)
  local r = setmetatable({ row = row, argv = argv, at = 0, result = {} }, Reader)
  r.by_long, r.by_short, r.names = index(row)
  if row.free then r.result[row.free] = {} end
  return r
end

-- Reads the global options before the command's name; returns them and the words left.
function args.leading(argv)
  local r = reader({ options = { { "version", type = "flag" } } }, argv)
  r.at = 1
  while r.at <= #argv do
    local word = argv[r.at]
    if word == "--" or not word:find("^%-.") then break end
    if word:sub(1, 2) == "--" then r:long(word) else r:short(word) end
    r.at = r.at + 1
  end
  return r.result, table.move(argv, r.at, #argv, 1, {})
end

local function place(row, words)
  local named, specs = {}, row.args or {}
  local at = 1
  for _, spec in ipairs(specs) do
    if spec.many then
      named[spec[1]] = table.move(words, at, #words, 1, {})
      at = #words + 1
    else
      named[spec[1]] = words[at]
      at = at + 1
    end
    local value = named[spec[1]]
    if not spec.optional and (value == nil or (spec.many and #value == 0)) then
      fail.usage(("ndctl %s: %s is missing"):format(row.path, spec[1]:upper()),
        "usage: " .. args.usage(row)[1])
    end
    if value == "" and not spec.empty then fail.usage(spec[1]:upper() .. " is empty") end
    if value and spec.choices then choose(spec, spec[1]:upper(), value) end
  end
  if at <= #words then
    fail.usage(("ndctl %s: '%s' is one argument too many"):format(row.path, words[at]),
      "usage: " .. args.usage(row)[1])
  end
  return named
end

-- Reads a command's words: options (defaults filled in) and arguments by name. With --help given,
-- nothing is missed.
function args.parse(row, argv, before)
  local r = reader(row, argv)
  for key, value in pairs(before or {}) do r.result[key] = value end
  local words = {}
  r.words = words
  r.at = 1
  while r.at <= #argv do
    local word = argv[r.at]
    if word == "--" then
      table.move(argv, r.at + 1, #argv, #words + 1, words)
      break
    elseif word:sub(1, 2) == "--" then
      r:long(word)
    elseif word:find("^%-.") then
      r:short(word)
    else
      words[#words + 1] = word
    end
    r.at = r.at + 1
  end
  if r.result.help then return r.result, {} end
  for _, option in ipairs(row.options or {}) do
    local key = key_of(option)
    if r.result[key] == nil then r.result[key] = option.default end
    if option.required and r.result[key] == nil then
      fail.usage(("ndctl %s: --%s is missing"):format(row.path, option[1]),
        "usage: " .. args.usage(row)[1])
    end
  end
  return r.result, place(row, words)
end

-- The usage lines of a command.
function args.usage(row)
  if row.usage then
    local lines = {}
    for i, line in ipairs(row.usage) do lines[i] = "ndctl " .. line end
    return lines
  end
  local parts = { "ndctl " .. row.path }
  if row.commands then parts[#parts + 1] = "COMMAND" end
  for _, spec in ipairs(row.args or {}) do
    local name = spec[1]:upper() .. (spec.many and "..." or "")
    parts[#parts + 1] = spec.optional and "[" .. name .. "]" or name
  end
  for _, option in ipairs(row.options or {}) do
    if option.required then
      parts[#parts + 1] = ("--%s %s"):format(option[1], option.value or "VALUE")
    end
  end
  if row.options and #row.options > 0 then parts[#parts + 1] = "[options]" end
  return { table.concat(parts, " ") }
end

return args
