-- context.lua - `ndctl context`: names for daemons, each with its token.

local contexts = require "ndctl.lib.contexts"
local fail = require "ndctl.lib.fail"
local json = require "json"
local out = require "ndctl.lib.out"
local tables = require "ndctl.lib.table"

-- What may be shown of one: everything but its token.
local function shown(stored, name)
  local context = stored.contexts[name]
  return { name = name, host = context.host, token = context.token ~= nil,
    person = context.session and context.session.email,
    project = context.project, environment = context.environment,
    ca = context.ca, pin = context.pin, cert = context.cert,
    current = stored.current == name }
end

local function list(ctx)
  local stored, rows = contexts.load(), json.array {}
  for i, name in ipairs(contexts.names(stored)) do rows[i] = shown(stored, name) end
  if ctx.options.json then return out.json(rows) end
  if #rows == 0 then
    return out.progress("No contexts: ndctl context add NAME --host URL --token TOKEN")
  end
  out.print(tables.render({
    { "", function(row) return row.current and "*" or " " end },
    { "CONTEXT", "name" },
    { "HOST", "host" },
    { "TOKEN", function(row) return row.token and "stored" or row.person end },
    { "PROJECT", "project" },
    { "ENVIRONMENT", "environment" },
  }, rows))
end

local function read_token()
  local line = io.stdin:read("l")
  line = line and line:gsub("%s+$", "")
  if not line or line == "" then fail.usage("--token-stdin: there is no token on stdin") end
  return line
end

-- A file by its whole path: a context is used from anywhere.
local function whole(path)
  if not path or path:sub(1, 1) == "/" then return path end
  return (os.getenv "PWD" or ".") .. "/" .. path
end

local function add(ctx)
  local o, name = ctx.options, ctx.args.name
  if not name:find("^[%w][%w._-]*$") or #name > 64 then
    fail.usage(("'%s' isn't a name for a context"):format(name),
      "a name is letters, digits, '.', '-' and '_'")
  end
  if not o.host then
    fail.usage("ndctl context add: --host is missing", "as in --host http://127.0.0.1:8371")
  end
  if o.token and o.token_stdin then fail.usage("--token and --token-stdin: which of them?") end
  require("ndctl.lib.client").parse_host(o.host) -- raises for what is no address
  if (not o.client_cert) ~= (not o.client_key) then fail.usage("--client-cert and --client-key come together") end
  local stored = contexts.load()
  if stored.contexts[name] and not o.replace then
    fail.raise("exists_conflict", ("there is a context '%s' already"):format(name),
      "add --replace to overwrite it")
  end
  stored.contexts[name] = { host = o.host, token = o.token_stdin and read_token() or o.token,
    project = o.project, environment = o.env, ca = whole(o.ca), pin = o.pin,
    cert = whole(o.client_cert), key = whole(o.client_key) }
  if o.use or not next(stored.contexts, next(stored.contexts)) then stored.current = name end
  contexts.save(stored)
  if o.json then return out.json(shown(stored, name)) end
  out.print(("context %s: %s%s"):format(name, o.host, stored.current == name and ", in use" or ""))
end

local function use(ctx)
  local stored, name = contexts.load(), ctx.args.name
  contexts.get(stored, name)
  stored.current = name
  contexts.save(stored)
  if ctx.options.json then return out.json(shown(stored, name)) end
  out.print(("context %s is in use"):format(name))
  if os.getenv("NDCTL_HOST") then
    out.progress("Note: NDCTL_HOST is set, and wins over the context.")
  end
end

local function remove(ctx)
  local stored, name = contexts.load(), ctx.args.name
  contexts.get(stored, name)
  local was = shown(stored, name)
  stored.contexts[name] = nil
  if stored.current == name then stored.current = nil end
  contexts.save(stored)
  if ctx.options.json then return out.json(was) end
  out.print(("context %s is removed"):format(name))
end

local function show(ctx)
  local name = ctx.args.name
  local chosen
  if name then
    local stored = contexts.load()
    contexts.get(stored, name)
    chosen = shown(stored, name)
  else
    local c = contexts.choose(ctx.options)
    chosen = { name = c.context, host = c.host, token = c.token ~= nil, from = c.from,
      project = c.project, environment = c.environment, ca = c.trust.ca, pin = c.trust.pin, cert = c.trust.cert }
  end
  if ctx.options.json then return out.json(chosen) end
  out.print(tables.pairs {
    { "context", chosen.name or "(none)" },
    { "host", chosen.host },
    { "from", chosen.from },
    { "trusts", chosen.pin or chosen.ca },
    { "client certificate", chosen.cert },
    { "token", chosen.token and "stored, not shown" or "none" },
    { "project", chosen.project },
    { "environment", chosen.environment },
  })
end

local shape = {
  type = "object", required = { "host", "token" },
  properties = { name = { type = "string" }, host = { type = "string" },
    token = { type = "boolean" }, person = { type = "string" },
    ca = { type = "string" }, pin = { type = "string" }, cert = { type = "string" }, project = { type = "string" },
    environment = { type = "string" }, current = { type = "boolean" }, from = { type = "string" } },
}

return {
  name = "context",
  summary = "Name the daemons that you talk to, and choose one.",
  notes = {
    "A command talks to what --host names, else --context, else NDCTL_HOST, else NDCTL_CONTEXT, "
      .. "else the context in use, else the socket on this machine. A context's token is sent to "
      .. "its own host only.",
    "Contexts are kept in ~/.config/ndctl/contexts.json, which only you may read.",
  },
  examples = { { "ndctl context list" } },
  commands = {
    {
      name = "list", also = { "ls" },
      summary = "List the contexts; the one in use has a star.",
      options = {}, permission = "local", json = { type = "array", items = shape },
      examples = { { "ndctl context list" }, { "ndctl context list --json" } },
      run = list,
    },
    {
      name = "add",
      summary = "Add a context: a daemon's address and token under a name.",
      args = { { "name" } },
      options = {
        { "token-stdin", type = "flag", doc = "read the token from stdin" },
        { "client-cert", value = "FILE", complete = "files",
          doc = "your certificate, in PEM, for a daemon that demands one (NDCTL_CLIENT_CERT)" },
        { "client-key", value = "FILE", complete = "files", doc = "its key (NDCTL_CLIENT_KEY)" },
        { "replace", type = "flag", doc = "overwrite the context of that name" },
        { "use", type = "flag", doc = "use it from now on (the first one is in any case)" },
      },
      notes = { "--host, --token, --ca, --pin, --project and --env are what it stands for." },
      permission = "local", json = shape,
      examples = {
        { "ndctl context add box --host http://127.0.0.1:8371 --token nd_secret" },
        { "ndctl context add box --host http://127.0.0.1:8371 --token-stdin --replace",
          "the token comes from a pipe, and into no shell's history", stdin = "nd_secret\n" },
      },
      run = add,
    },
    {
      name = "use",
      summary = "Use a context from now on.",
      args = { { "name", complete = "contexts" } },
      options = {}, permission = "local", json = shape,
      examples = { { "ndctl context use box" } },
      run = use,
    },
    {
      name = "remove", also = { "rm" },
      summary = "Forget a context and its token.",
      args = { { "name", complete = "contexts" } },
      options = {}, permission = "local", json = shape,
      examples = { { "ndctl context remove box" } },
      run = remove,
    },
    {
      name = "show",
      summary = "Show what a command would talk to, or one context.",
      args = { { "name", optional = true, complete = "contexts" } },
      options = {}, permission = "local", json = shape,
      examples = { { "ndctl context show" }, { "ndctl context show box --json" } },
      run = show,
    },
  },
}
