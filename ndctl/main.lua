-- main.lua - ndctl from its command line to its exit status.
--
-- Finds the command's row, reads the options, runs it, and turns whatever is raised into one
-- message with a hint and the exit status that lib/fail.lua gives it.

local args = require "ndctl.lib.args"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"

-- Splits the words into the row they name and what is left for it.
local function resolve(words)
  local help = require "ndctl.help"
  local row = help.find({ words[1] })
  local rest = table.move(words, 2, #words, 1, {})
  if not row.commands then return row, rest end
  -- `ndctl runs --json list`: options may stand before the second word.
  local first
  for at, word in ipairs(rest) do
    if not word:find("^%-") then
      first = at
      break
    end
  end
  if not first or row.run and not require("ndctl.lib.commands").child(row, rest[first]) then
    return row, rest -- as `ndctl run IMAGE` beside `ndctl run recipe`
  end
  local child = help.find({ words[1], rest[first] })
  table.remove(rest, first)
  return child, rest
end

local function context(row, options, named)
  local client
  return {
    row = row,
    options = options,
    args = named,
    -- Connects to nothing by itself: the first call does.
    client = function()
      client = client or require("ndctl.lib.client").new(options)
      return client
    end,
  }
end

local function traced(err)
  if type(err) == "table" then return err end
  return {
    code = "bug", message = debug.traceback(tostring(err), 2),
    hint = "this is a fault of ndctl, not yours",
  }
end

-- Of a --plan the exit status says 0 for nothing to do and 1 for changes, so every error has to be 2.
local function planned(run, ctx)
  local ok, result = xpcall(run, traced, ctx)
  if ok then return result end
  if fail.status(result) ~= 130 then result.exit = 2 end
  error(result, 0)
end

local function dispatch(argv)
  local before, words = args.leading(argv)
  if before.version then words = { "version" } end
  if #words == 0 then
    local lines = require("ndctl.help").overview()
    if before.help then return out.print(lines) end
    out.note(lines)
    return 2
  end
  local row, rest = resolve(words)
  if not row.run then
    local wants_help = before.help
    for _, word in ipairs(rest) do wants_help = wants_help or word == "-h" or word == "--help" end
    local lines = require("ndctl.help").of(row)
    if wants_help then return out.print(lines) end
    out.note(lines)
    return 2
  end
  local options, named = args.parse(row, rest, before)
  if options.help then return out.print(require("ndctl.help").of(row)) end
  if options.env and options.env:find("=", 1, true) then
    fail.usage(("--env names the environment, and '%s' isn't a name"):format(options.env),
      "a variable for the app is --env-var " .. options.env)
  end
  out.quiet = options.quiet or false
  if options.plan then return planned(row.run, context(row, options, named)) end
  return row.run(context(row, options, named))
end

-- Says what went wrong; in JSON too where that was asked for.
local function report(err, wants_json)
  local paint = out.painter(2)
  if wants_json and not err.shown_json then
    out.json(err.envelope or {
      success = false, code = err.code, message = err.message, hint = err.hint,
      payload = err.data,
    })
  end
  if err.shown then return end
  local text = require "ndctl.lib.text"
  out.note(paint("ndctl: ", "red") .. text.clean(err.message or err.code))
  if err.hint and err.hint ~= "" then out.note(paint("hint: ", "bold") .. text.clean(err.hint)) end
end

return function(argv)
  if argv[1] == "__complete" then return require("ndctl.lib.complete").run(argv) end
  local ok, result = xpcall(dispatch, traced, argv)
  if ok then return result or 0 end
  local wants_json = false
  for _, word in ipairs(argv) do wants_json = wants_json or word == "--json" end
  if result.code == "cancelled" and not result.http and not result.run then
    if not result.shown then out.note("", "ndctl: interrupted") end
    return 130
  end
  report(result, wants_json)
  return fail.status(result)
end
