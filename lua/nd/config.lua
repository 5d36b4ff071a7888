-- The daemon's options: defaults, then /etc/nextdeploy/nextdeployd.lua, then the command line.
-- The file is a Lua table evaluated in an empty environment; an unknown key is an error that names
-- the nearest known one.

local fs = require "fs"
local duration = require "nd.duration"
local err = require "nd.error"

local M = {}

-- name, default, what it is. On the command line with dashes: --state-dir.
M.options = {
  { "config", "/etc/nextdeploy/nextdeployd.lua", "FILE", "read options from here" },
  { "state_dir", "/var/lib/nextdeploy", "DIR", "the database, rules and proxy files" },
  { "run_dir", "/run/nextdeploy", "DIR", "sockets and secrets, in memory" },
  { "listen", "127.0.0.1:8371", "ADDR:PORT", "TCP door; a token is always needed" },
  { "tls_cert", nil, "FILE", "certificate of the TCP door, a chain in PEM (default: one of its own, beyond loopback)" },
  { "tls_key", nil, "FILE", "its key" },
  { "tls_client_ca", nil, "FILE", "clients need a certificate signed by one of these" },
  { "socket", nil, "PATH", "unix door (default: RUN_DIR/nextdeployd.sock)" },
  { "docker_host", "unix:///var/run/docker.sock", "unix://PATH", "Docker's socket" },
  { "proc_root", "/proc", "DIR", "where /proc is" },
  { "sys_root", "/sys", "DIR", "where /sys is" },
  { "recipe_dir", "/etc/nextdeploy/recipes", "DIR", "recipes of your own" },
  { "service_cidr", "10.201.0.0/16", "CIDR", "range of service addresses and containers" },
  { "proxy", "caddy", "NAME", "the proxy of routes that name none: caddy, nginx, or none" },
  { "http_port", 80, "PORT", "the proxy's HTTP port" },
  { "https_port", 443, "PORT", "the proxy's HTTPS port" },
  { "nginx_http_port", 0, "PORT", "nginx's, where Caddy has the other (default: the same)" },
  { "nginx_https_port", 0, "PORT", "the same for HTTPS" },
  { "proxy_address", nil, "ADDR", "the address the proxy listens on (default: every one)" },
  { "cert_dir", "/etc/nextdeploy/certs", "DIR", "certificates and their keys" },
  { "acme_directory", "https://acme-v02.api.letsencrypt.org/directory", "URL", "who gives certificates (RFC 8555)" },
  { "acme_email", nil, "ADDRESS", "whom the authority may write to" },
  { "acme_ca", nil, "FILE", "roots to trust the authority's own HTTPS by (default: the host's)" },
  { "acme_retry", "1m", "TIME", "how long to wait after a failure, doubled with each: up to 12h" },
  { "log_format", "text", "text|json", "how the log is written" },
  { "log_bytes", "64M", "SIZE", "how much is kept of what an app prints: 500K, 64M, 2G" },
  { "disk_budget", "20G", "SIZE", "what images, build cache, logs and the database may take before gc" },
  { "keep_releases", "5", "N", "earlier releases of an app whose images gc leaves alone" },
  { "audit_keep", "365", "DAYS", "rows of the audit log that are older are sealed in files beside it" },
  { "log_level", "info", "LEVEL", "debug, info, warn or error" },
}
M.flags = {
  { "check", "tell whether the daemon could start on this state and configuration, and exit" },
  { "restore_network", "apply the recorded rules and exit: at boot, before Docker and the proxy" },
  { "remove_network", "remove this instance's chains, routes and networks and exit" },
  { "test_endpoints", "add /_test/echo, for protocol tests only" },
  { "help", "show this" },
  { "version", "show the version" },
}

local function known_names()
  local names = {}
  for _, o in ipairs(M.options) do names[#names + 1] = o[1] end
  for _, f in ipairs(M.flags) do names[#names + 1] = f[1] end
  return names
end

local function find(name)
  for _, o in ipairs(M.options) do if o[1] == name then return o end end
  for _, f in ipairs(M.flags) do if f[1] == name then return f, true end end
end

local function unknown(what, name, dashed)
  local near = err.nearest(name, known_names())
  if near and dashed then near = "--" .. near:gsub("_", "-") end
  err.raise("bad_config", ("%s: unknown option '%s'"):format(what, dashed and "--" .. name:gsub("_", "-") or name),
    near and ("did you mean %s?"):format(near) or "nextdeployd --help lists all")
end

local function set(out, what, option, value)
  if type(option[2]) == "number" then
    local number = math.tointeger(tonumber(value))
    if not number or number < 1 or number > 65535 then
      err.raise("bad_config", ("%s: %s must be a port, got '%s'"):format(what, option[1], tostring(value)))
    end
    value = number
  elseif type(value) ~= "string" then
    err.raise("bad_config", ("%s: %s must be a text"):format(what, option[1]))
  end
  out[option[1]] = value
end

function M.parse(argv)
  local out, i = {}, 1
  while argv[i] do
    local name, value = argv[i]:match "^%-%-([%w-]+)=(.*)$"
    name = name or argv[i]:match "^%-%-([%w-]+)$"
    if not name then unknown("command line", argv[i]) end
    name = name:gsub("-", "_")
    local option, is_flag = find(name)
    if not option then unknown("command line", name, true) end
    if is_flag then
      out[name] = true
    else
      if not value then
        i = i + 1
        value = argv[i]
      end
      if not value then err.raise("bad_config", ("command line: --%s needs a value"):format(name:gsub("_", "-"))) end
      set(out, "command line", option, value)
    end
    i = i + 1
  end
  return out
end

local function read_file(path, needed)
  if not fs.exists(path) then
    if not needed then return {} end
    err.raise("bad_config", ("there is no configuration file %s"):format(path), "leave --config out for the defaults")
  end
  local chunk, why = load(fs.read(path, 1024 * 1024), "@" .. path, "t", {})
  if not chunk then err.raise("bad_config", why, "the file is a Lua table: return { listen = \"127.0.0.1:8371\" }") end
  local ok, values = pcall(chunk)
  if not ok or type(values) ~= "table" then
    err.raise("bad_config", ok and ("%s must return a table"):format(path) or tostring(values))
  end
  local out = {}
  for name, value in pairs(values) do
    local option, is_flag = find(name)
    if not option or is_flag or name == "config" then unknown(path, tostring(name)) end
    set(out, path, option, value)
  end
  return out
end

-- "64M", "20GB" -> bytes
local function size_of(out, name)
  local size, unit = out[name]:match "^(%d+)([KMGT]?)B?$"
  if not size then
    err.raise("bad_config", ("%s: '%s' is not a size"):format(name, out[name]), "as in 500K, 64M, 20G")
  end
  return math.tointeger(size) << 10 * ((" KMGT"):find(unit == "" and " " or unit, 1, true) - 1)
end

-- argv -> options
function M.load(argv)
  local given = M.parse(argv)
  local file = given.help and {} or read_file(given.config or M.options[1][2], given.config ~= nil)
  local out = {}
  for _, o in ipairs(M.options) do
    local name = o[1]
    out[name] = given[name]
    if out[name] == nil then out[name] = file[name] end
    if out[name] == nil then out[name] = o[2] end
  end
  for _, f in ipairs(M.flags) do out[f[1]] = given[f[1]] end
  out.socket = out.socket or out.run_dir .. "/nextdeployd.sock"
  out.address, out.tcp_port = out.listen:match "^%[?([%x.:]*)%]?:(%d+)$"
  out.tcp_port = math.tointeger(tonumber(out.tcp_port))
  if not out.tcp_port then
    err.raise("bad_config", ("listen: '%s' is not ADDR:PORT"):format(out.listen), "as in 127.0.0.1:8371")
  end
  if (not out.tls_cert) ~= (not out.tls_key) then
    err.raise("bad_config", "tls_cert and tls_key come together, and only one of them is given",
      "give both, or neither: a door beyond loopback then makes its own")
  end
  local loopback = out.address:find "^127%.%d+%.%d+%.%d+$" or out.address == "::1"
  if out.tls_client_ca and loopback and not out.tls_cert then
    err.raise("bad_config", "tls_client_ca needs TLS, and this door is on loopback without it",
      "give tls_cert and tls_key")
  end
  out.tls = out.tls_cert ~= nil or not loopback
  if out.nginx_http_port == 0 then out.nginx_http_port = out.http_port end
  if out.nginx_https_port == 0 then out.nginx_https_port = out.https_port end
  if out.proxy ~= "caddy" and out.proxy ~= "nginx" and out.proxy ~= "none" then
    err.raise("bad_config", ("proxy: must be caddy, nginx or none, got '%s'"):format(out.proxy))
  end
  if not out.acme_directory:find "^https://[%w.-]+:?%d*/?[%w%-._~/]*$" then
    err.raise("bad_config", ("acme_directory: '%s' is no https:// address"):format(out.acme_directory),
      "as in https://acme-v02.api.letsencrypt.org/directory")
  end
  for _, name in ipairs { "acme_email", "acme_ca" } do
    if out[name] == "" then out[name] = nil end
  end
  if out.acme_email and not out.acme_email:find "^[^%s@]+@[^%s@]+$" then
    err.raise("bad_config", ("acme_email: '%s' is no address"):format(out.acme_email), "as in admin@example.com")
  end
  out.acme_retry = duration.ms("acme_retry", out.acme_retry)
  out.log_bytes, out.disk_budget = size_of(out, "log_bytes"), size_of(out, "disk_budget")
  out.keep_releases = out.keep_releases:match "^%d%d?%d?$" and math.tointeger(out.keep_releases)
    or err.raise("bad_config", ("keep_releases: '%s' is not a number of releases"):format(out.keep_releases),
      "from 0 to 999")
  out.audit_keep = out.audit_keep:match "^%d%d?%d?%d?$" and math.tointeger(out.audit_keep)
    or err.raise("bad_config", ("audit_keep: '%s' is not a number of days"):format(out.audit_keep), "from 0 to 9999")
  if out.log_format ~= "text" and out.log_format ~= "json" then
    err.raise("bad_config", ("log_format: must be text or json, got '%s'"):format(out.log_format))
  end
  return out
end

function M.help()
  local lines = { "usage: nextdeployd [options]", "" }
  for _, o in ipairs(M.options) do
    lines[#lines + 1] = ("  --%-24s %s%s"):format(o[1]:gsub("_", "-") .. " " .. o[3], o[4],
      o[2] and o[2] ~= 0 and (" (%s)"):format(o[2]) or "")
  end
  for _, f in ipairs(M.flags) do lines[#lines + 1] = ("  --%-24s %s"):format(f[1]:gsub("_", "-"), f[2]) end
  return table.concat(lines, "\n")
end

return M
