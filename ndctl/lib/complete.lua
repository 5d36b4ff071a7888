-- lib/complete.lua - what may come next on a command line that is being typed.
--
-- `ndctl __complete SHELL WORD... LAST` is what the scripts of `ndctl completion` call: it prints a
-- line for each candidate for LAST, "VALUE<tab>DESCRIPTION", or the one line ":files" where a file's
-- name is wanted. The rows of the commands say what is wanted: `complete = KIND` of an argument or
-- option, else its name (by_name below). Names that only the daemon knows are asked of it, for a
-- second at most; whatever goes wrong is silence, since somebody is in the middle of a line.

local args = require "ndctl.lib.args"
local commands = require "ndctl.lib.commands"

local complete = {}

local CONNECT_MS, ANSWER_MS = 300, 1000
local MOST = 1000 -- apps whose names are offered

-- What an argument or option of that name takes, where its row doesn't say.
local by_name = {
  app = "apps", context = "contexts", recipe = "recipes", strategy = "recipes", file = "files",
  path = "files", role = "roles", email = "people", project = "projects",
  env = "environments", environment = "environments",
}

-- ---- candidates by kind: function(state) -> list of {value, description} ----

local function ask(state, path, query)
  local client = require("ndctl.lib.client").new(state.options)
  client.skew_checked = true
  return client:call("GET", path, { query = client:scoped(query or {}),
    timeout_ms = ANSWER_MS, connect_timeout_ms = CONNECT_MS })
end

local function first_sentence(summary)
  return summary and (summary:match("^(.-)[.:;]%s") or summary:gsub("%.$", ""))
end

local function distinct(state, field)
  local seen, found = {}, {}
  local client = require("ndctl.lib.client").new(state.options)
  for _, app in ipairs(client:call("GET", "/apps", { query = { limit = MOST }, timeout_ms = ANSWER_MS,
    connect_timeout_ms = CONNECT_MS })) do
    local value = app[field]
    if not seen[value] then
      seen[value] = true
      found[#found + 1] = { value }
    end
  end
  return found
end

local kinds = {}

function kinds.apps(state)
  local found = {}
  for i, app in ipairs(ask(state, "/apps", { limit = MOST })) do
    found[i] = { app.app_name, ("%s, %s"):format(app.status, app.image) }
  end
  return found
end

function kinds.domains(state)
  local found = {}
  for i, route in ipairs(ask(state, "/proxy").routes) do
    found[i] = { route.domain, ("%s, %s"):format(route.app_name, route.proxy_type) }
  end
  return found
end

function kinds.certs(state)
  local found = {}
  for i, c in ipairs(ask(state, "/certs")) do found[i] = { c.domain, c.state } end
  return found
end

function kinds.runs(state)
  local found = {}
  for i, run in ipairs(ask(state, "/runs", { limit = 30 })) do
    found[i] = { run.id, ("%s of %s, %s"):format(run.recipe, run.app, run.state) }
  end
  return found
end

function kinds.secrets(state)
  local found = {}
  for i, row in ipairs(ask(state, "/secrets")) do
    found[i] = { row.name, ("version %d, for %s"):format(row.version, row.app or "all apps") }
  end
  return found
end

function kinds.recipes(state)
  local found = {}
  for i, recipe in ipairs(ask(state, "/recipes")) do
    found[i] = { recipe.name, first_sentence(recipe.summary or "") }
  end
  return found
end

-- Of the app that the line names.
function kinds.releases(state)
  local app = state.options.app or state.words[1]
  local escape, found = require("ndctl.lib.client").escape, {}
  for i, release in ipairs(ask(state, "/apps/" .. escape(app)).releases) do
    found[i] = { tostring(release.number), ("%s, %s"):format(release.state, release.image) }
  end
  return found
end

function kinds.tokens(state)
  local found = {}
  for i, token in ipairs(ask(state, "/tokens")) do found[i] = { token.name, token.role } end
  return found
end

function kinds.people(state)
  local found = {}
  for i, person in ipairs(ask(state, "/team")) do found[i] = { person.email, person.role } end
  return found
end

function kinds.roles(state)
  local found = {}
  for i, role in ipairs(ask(state, "/roles")) do found[i] = { role.name, table.concat(role.permissions, ", ") } end
  return found
end

function kinds.jobs(state)
  local found = {}
  for i, job in ipairs(ask(state, "/jobs", { limit = 30 })) do
    found[i] = { tostring(job.id), ("%s of %s, %s"):format(job.process, job.app, job.state) }
  end
  return found
end

function kinds.registries(state)
  local found = {}
  for i, row in ipairs(ask(state, "/registries")) do found[i] = { row.host, row.username } end
  return found
end

function kinds.projects(state) return distinct(state, "project") end

function kinds.environments(state) return distinct(state, "environment") end

function kinds.contexts()
  local contexts, found = require "ndctl.lib.contexts", {}
  local stored = contexts.load()
  for i, name in ipairs(contexts.names(stored)) do
    found[i] = { name, stored.contexts[name].host }
  end
  return found
end

local function described(rows)
  local found = {}
  for i, row in ipairs(rows) do found[i] = { row.name, first_sentence(row.summary) } end
  return found
end

-- Of ndctl itself: the first word of a line, or the words of `ndctl help`.
function kinds.commands(state)
  local family = state.words[1] and commands.get(state.words[1])
  if family then return described(family.commands or {}) end
  local rows = {}
  for i, name in ipairs(commands.names()) do rows[i] = commands.get(name) end
  return described(rows)
end

-- ---- the line ----

local function options_of(row)
  local all = {}
  for _, list in ipairs { row and row.options or {}, args.globals } do
    table.move(list, 1, #list, #all + 1, all)
  end
  return all
end

local function find_option(row, word)
  local name = word:match("^%-%-([^=]+)")
  for _, option in ipairs(options_of(row)) do
    if name and (option[1] == name or option.negatable and "no-" .. option[1] == name)
      or not name and "-" .. (option.short or "") == word then
      return option
    end
    for _, other in ipairs(option.spellings or {}) do
      if other == name then return option end
    end
  end
end

-- Bash breaks words at "=": puts them together again.
local function join_broken(words)
  local joined = {}
  for i, word in ipairs(words) do
    local before = joined[#joined]
    if (word == "=" or words[i - 1] == "=" and i > 2) and before and before:find("^%-%-") then
      joined[#joined] = before .. word
    else
      joined[#joined + 1] = word
    end
  end
  return joined
end

-- Reads the words before the last one: {row, words (arguments so far), options, used, wants (the
-- option whose value comes next), ended (by --)}.
local function read(words)
  local state = { words = {}, options = {}, used = {} }
  for i = 1, #words - 1 do
    local word = words[i]
    if state.wants then
      state.options[state.wants.key or (state.wants[1]:gsub("-", "_"))] = word
      state.wants = nil
    elseif state.ended or not word:find("^%-.") then
      local child = state.row and state.row.commands and commands.child(state.row, word)
      if not state.row then
        state.row = commands.get(word)
        if not state.row then return nil end
      elseif child then
        state.row = child
      else
        state.words[#state.words + 1] = word
      end
    elseif word == "--" then
      state.ended = true
    else
      local option = find_option(state.row, word)
      local value = word:match("^%-%-[^=]+=(.*)$")
      if option then state.used[option[1]] = true end
      if option and value then
        state.options[option.key or (option[1]:gsub("-", "_"))] = value
      elseif option and option.type ~= "flag" then
        state.wants = option
      end
    end
  end
  return state
end

-- The candidates for a value of `spec`, an argument or an option; nil and true for a file's name.
local function values(state, spec)
  if spec.choices then
    local found = {}
    for i, choice in ipairs(spec.choices) do found[i] = { choice } end
    return found
  end
  local kind = spec.complete or by_name[spec[1]]
  if kind == "files" then return nil, true end
  return kinds[kind] and kinds[kind](state) or {}
end

local function option_names(state)
  local found = {}
  for _, option in ipairs(options_of(state.row)) do
    local repeated = option.type == "list" or option.type == "map"
    if not state.used[option[1]] or repeated then
      found[#found + 1] = { "--" .. option[1], option.doc }
      if option.negatable then found[#found + 1] = { "--no-" .. option[1], "not " .. option.doc } end
    end
  end
  if state.row and state.row.free and state.words[1] then -- a recipe's own parameters
    local escape = require("ndctl.lib.client").escape
    local ok, recipe = pcall(ask, state, "/recipes/" .. escape(state.words[1]))
    for _, param in ipairs(ok and recipe.params or {}) do
      if param.name ~= "app" then
        found[#found + 1] = { "--" .. param.name, param.doc or param.type }
      end
    end
  end
  return found
end

local function argument(state)
  local row = state.row
  if not row then return kinds.commands(state) end
  if row.commands then return described(row.commands) end
  local specs = row.args or {}
  local spec = specs[#state.words + 1] or specs[#specs]
  if not spec or #state.words >= #specs and not spec.many then return {} end
  return values(state, spec)
end

-- Returns the candidates that begin as the last word does, or nil and true where a file is wanted.
function complete.candidates(shell, words)
  if shell == "bash" then words = join_broken(words) end
  local last = words[#words] or ""
  local state = read(words)
  if not state then return {} end
  local prefix, stem, found, files = "", last
  local option = not state.wants and not state.ended and last:find("^%-%-[^=]+=")
    and find_option(state.row, last)
  if state.wants then
    found, files = values(state, state.wants)
  elseif option then
    prefix, stem = last:match("^([^=]+=)(.*)$")
    if shell == "bash" then prefix = "" end -- to bash the word begins after "="
    found, files = values(state, option)
  elseif last:find("^%-") and not state.ended then
    found = option_names(state)
  else
    found, files = argument(state)
  end
  if files then return nil, true end
  local fitting = {}
  for _, candidate in ipairs(found) do
    if candidate[1]:sub(1, #stem) == stem then
      fitting[#fitting + 1] = { prefix .. candidate[1], candidate[2] }
    end
  end
  return fitting
end

-- `ndctl __complete SHELL WORD...`
function complete.run(argv)
  local ok, found, files = pcall(complete.candidates, argv[2], table.move(argv, 3, #argv, 1, {}))
  if not ok then return 1 end
  local clean = require("ndctl.lib.text").clean
  local lines = {}
  for i, candidate in ipairs(found or {}) do
    lines[i] = candidate[2] and clean(candidate[1]) .. "\t" .. clean(candidate[2])
      or clean(candidate[1])
  end
  if files then lines[1] = ":files" end
  require("ndctl.lib.out").print(lines)
  return 0
end

return complete
