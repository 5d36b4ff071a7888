-- certs.lua - `ndctl certs`: what hosts show, certificates of one's own, new ones before their time.

local clientlib = require "ndctl.lib.client"
local fail = require "ndctl.lib.fail"
local out = require "ndctl.lib.out"
local tables = require "ndctl.lib.table"

local sources = { own = "your own", acme = "ACME", caddy = "ACME, by Caddy", internal = "this host's authority" }

local function day(time) return time and time:match "^[^T]*" or "-" end

local function tell(c)
  out.print(("%s: %s, by %s, until %s"):format(c.domain, c.state, c.issuer or sources[c.source], day(c.expiry)))
end

local function warn(c)
  if c.message then out.note(("%s: %s"):format(c.domain, c.message), c.hint and "  hint: " .. c.hint) end
end

local function list(ctx)
  local payload = ctx.client():call("GET", "/certs")
  if ctx.options.json then return out.json(payload) end
  if #payload == 0 then
    return out.progress("No host has TLS yet: ndctl proxy set HOST --app APP --tls auto")
  end
  for _, c in ipairs(payload) do warn(c) end
  out.print(tables.render({
    { "DOMAIN", "domain" },
    { "PROXY", function(c) return c.proxy_type or "-" end },
    { "SOURCE", function(c) return sources[c.source] end },
    { "ISSUER", function(c) return c.issuer or "-" end },
    { "EXPIRES", function(c) return day(c.expiry) end },
    { "RENEWED", function(c) return day(c.renewal) end },
    { "STATE", "state" },
  }, payload))
end

local function show(ctx)
  local c = ctx.client():call("GET", "/certs/" .. clientlib.escape(ctx.args.domain))
  if ctx.options.json then return out.json(c) end
  warn(c)
  for _, row in ipairs {
    { "domain", c.domain }, { "names", table.concat(c.names, ", ") },
    { "shown by", #c.hosts > 0 and table.concat(c.hosts, ", ") or "no host" }, { "proxy", c.proxy_type },
    { "source", sources[c.source] }, { "subject", c.subject }, { "issuer", c.issuer }, { "serial", c.serial },
    { "expires", c.expiry }, { "next one", c.renewal }, { "state", c.state },
  } do
    if row[2] and row[2] ~= "" then out.print(("%-9s %s"):format(row[1], row[2])) end
  end
end

local function read(path, what)
  local file, why = io.open(path, "rb")
  if not file then fail.usage(("--%s: %s"):format(what, why)) end
  local content = file:read "a"
  file:close()
  if not content then fail.usage(("--%s: %s can't be read"):format(what, path)) end
  return content
end

local function import(ctx)
  local o = ctx.options
  local c = ctx.client():call("POST", "/certs/import", { timeout_ms = 60000, body = { domain = ctx.args.domain,
    certificate = read(o.cert, "cert"), key = read(o.key, "key") } })
  if o.json then return out.json(c) end
  tell(c)
  if #c.hosts == 0 then
    out.note("no host shows it yet", ("  hint: ndctl proxy set %s --app APP --tls auto"):format(
      (c.domain:gsub("^%*", "HOST"))))
  end
end

local function request(ctx)
  local client = ctx.client()
  local c = client:call("POST", "/certs/request", { timeout_ms = 300000, body = client:scoped {
    domain = ctx.args.domain, app_name = ctx.options.app, recipe = ctx.options.dns } })
  if ctx.options.json then return out.json(c) end
  tell(c)
end

local function rotate(ctx)
  local c = ctx.client():call("POST", "/certs/rotate", { timeout_ms = 300000, body = { domain = ctx.args.domain } })
  if ctx.options.json then return out.json(c) end
  out.print(("%s has a new certificate: serial %s, until %s"):format(c.domain, c.serial, day(c.expiry)))
end

local function remove(ctx)
  local c = ctx.client():call("DELETE", "/certs/" .. clientlib.escape(ctx.args.domain), { timeout_ms = 60000 })
  if ctx.options.json then return out.json(c) end
  out.print(("the certificate of %s is removed, with its key"):format(c.domain))
end

local domain = { "domain", complete = "certs" }

return {
  name = "certs",
  summary = "Certificates: what hosts show, your own, new ones before their time.",
  notes = {
    "A host with --tls auto shows a certificate of yours that covers it, else one from the ACME authority "
      .. "(acme_directory in the daemon's configuration), until then one by this host's own authority. All are "
      .. "renewed when a third of their life is left. Keys are files in the daemon's cert_dir, and nowhere else.",
  },
  examples = { { "ndctl certs list" } },
  commands = {
    {
      name = "list", also = { "ls" },
      summary = "List all certificates: whose, until when, when the next one is asked for.",
      options = {}, permission = "read", json = "Certificate[]",
      examples = { { "ndctl certs list" } },
      run = list,
    },
    {
      name = "show",
      summary = "Show one certificate.",
      args = { domain }, options = {}, permission = "read", json = "Certificate",
      examples = { { "ndctl certs show www.example.com" } },
      run = show,
    },
    {
      name = "import",
      summary = "Show a certificate of your own for the hosts that it covers.",
      args = { { "domain", complete = "domains" } },
      options = {
        { "cert", value = "FILE", required = true, doc = "PEM: the host's own, then those of its issuers" },
        { "key", value = "FILE", required = true, doc = "PEM: its private key, without a passphrase" },
      },
      notes = { "It is checked first. Caddy before 2.7 ends open WebSockets when it takes one." },
      permission = "admin", json = "Certificate",
      examples = { { "ndctl certs import www.example.com --cert www.crt --key www.key" } },
      run = import,
    },
    {
      name = "request",
      summary = "Get a certificate by a TXT record (dns-01), also for a wildcard.",
      args = { { "domain" } },
      options = {
        { "dns", value = "RECIPE", required = true, complete = "recipes", doc = "makes and removes the record" },
        { "app", short = "a", value = "NAME", required = true, complete = "apps", doc = "whose run it is" },
      },
      notes = {
        "The recipe gets app, act (present or remove), name (_acme-challenge.example.com) and value, and asks your "
          .. "DNS provider by http.request. It is run again for each renewal.",
      },
      permission = "admin", json = "Certificate",
      examples = {
        { "ndctl certs request '*.example.com' --dns dns --app web", skip = "an authority must be there to ask" },
      },
      run = request,
    },
    {
      name = "rotate",
      summary = "Have a new certificate made now.",
      args = { domain }, options = {}, permission = "admin", json = "Certificate",
      notes = { "The old one is shown until the new one is there; where there is none, it stays." },
      examples = { { "ndctl certs rotate www.example.com" } },
      run = rotate,
    },
    {
      name = "remove", also = { "rm" },
      summary = "Remove a certificate that is kept, and its key.",
      args = { domain }, options = {}, permission = "admin", json = "Certificate",
      examples = { { "ndctl certs rm www.example.com" } },
      run = remove,
    },
  },
}
