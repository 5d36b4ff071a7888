-- nginx_config.lua - nginx's configuration: what all hosts share, and a file a host.
--
--   nginx.conf        the frame, and the server for hosts that nobody has
--   listen-*.conf     ports and addresses, included by each host's server
--   forward.conf      how a request goes to the app, included likewise
--   revision.conf     names the configuration, so that a reload can be seen to have happened
--   hosts/HOST.conf   where the host goes: the app's service address
--
-- Only the last ones come and go. Maintenance and pause are files that a request looks for
-- (<marks>/maintenance/HOST, <marks>/paused/HOST), since each reload costs the idle connections of
-- all clients. So is a host that moves to another proxy (<marks>/leaving.nginx/HOST): each answer ends
-- its connection then, and the next request comes to the proxy that has it now. And so is the share of a
-- canary (<marks>/share/HOST/xx: of whom draws a random number that begins with the hex digits xx), whose
-- host's answers are logged to <run>/answers.log with the release that gave them. What an ACME authority
-- asks a host for is in <run>/acme/.well-known/acme-challenge; what isn't there goes where all else does.
--
--   config.shared{ instance=, dir=, run=, marks=, address="", http_port=, https_port=, ipv6= }
--       -> {[file]=text}, revision.conf aside
--   config.revision(text) -> text of revision.conf
--   config.host{ host=, at="ip:port", tls=, canary={at=, new=, old=}|nil, certs=dir, bundle=file|nil,
--                serial=, marks=dir, run=dir, https_port= } -> text; without a bundle: certs/HOST.crt, .key
--   config.certified(text, certs, host, bundle, serial) -> a host's text with this certificate instead
-- Pure functions; nothing here waits.

local config = {}

config.ID = "/.nextdeploy/id" -- "INSTANCE REVISION sees|blind" (loopback only)

local TRIES = 4       -- connects that fail, at most a second each
local HOLD_TRIES = 60 -- half a second each, while paused

local frame = [[
# Written by nextdeployd; changes are lost.
pid $run/nginx.pid;
error_log $dir/error.log crit;
worker_processes auto;
worker_rlimit_nofile 16384;
events { worker_connections 8192; }
http {
  access_log off;
  server_tokens off;
  client_body_temp_path $run/body;
  proxy_temp_path $run/proxy;
  fastcgi_temp_path $run/fastcgi;
  uwsgi_temp_path $run/uwsgi;
  scgi_temp_path $run/scgi;
  server_names_hash_max_size 16384;
  server_names_hash_bucket_size 512;
  variables_hash_bucket_size 128;
  keepalive_requests 100000;
  client_header_timeout 10s;
  send_timeout 10m;
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_session_cache shared:nextdeploy:4m;

  # The app closes first, so that the proxy never runs out of ports; a WebSocket stays.
  map $$http_upgrade $$nd_upgrade { default $$http_upgrade; ~*^h2c ''; }
  map $$nd_upgrade $$nd_connection { default upgrade; '' close; }
  map $$request_id $$nd_draw { default ''; ~^(..) $$1; }
  map $$http_host $$nd_port { default ''; ~(:[0-9]+)$$ $$1; }
  geo $$nd_local { default 0; 127.0.0.0/8 1; ::1 1; $own }
  include revision.conf;

  server {
    $default_plain
    server_name _;
    default_type text/plain;
    location / {
      return 404 "404: no app serves $$host\nhint: give an app this domain (ndctl deploy --domain $$host)\n";
    }
    location = $id {
      if ($$nd_local = 0) { return 404; }
      set $$nd_sight blind;
      if (-d $marks/maintenance) { set $$nd_sight sees; }
      return 200 "$instance $$nd_revision $$nd_sight";
    }
  }
  server {
    $default_tls
    server_name _;
    ssl_reject_handshake on;
    default_type text/plain;
    return 404 "404: no app serves $$host over TLS\n";
  }
  include hosts/*.conf;
}
]]

local forward = [[
# Written by nextdeployd; changes are lost.
client_max_body_size 0;
proxy_request_buffering off;
proxy_buffering off;
proxy_buffer_size 32k;
proxy_buffers 8 32k;
proxy_http_version 1.1;
proxy_read_timeout 1d;
proxy_send_timeout 1d;
proxy_set_header Host $$host$$nd_port;
proxy_set_header Upgrade $$nd_upgrade;
proxy_set_header Connection $$nd_connection;
proxy_set_header X-Forwarded-For $$remote_addr;
proxy_set_header X-Forwarded-Proto $$scheme;
proxy_set_header X-Forwarded-Host $$host$$nd_port;
proxy_pass_header Server;
proxy_pass_header Date;

# A connect that fails is tried again, as is what nginx holds safe to repeat, for 3 seconds: never a
# POST that was sent, nor a request that timed out.
proxy_next_upstream error timeout;
proxy_connect_timeout 1s;
proxy_next_upstream_timeout 3s;

error_page 418 = @held;
error_page 419 = @leaving;
error_page 503 @maintenance;
error_page 502 504 @nothing;
if (-f $marks/maintenance/$$server_name) { return 503; }
location / {
  if (-f $marks/paused/$$server_name) { return 418; }
  if (-f $marks/leaving.nginx/$$server_name) { return 419; }
  proxy_pass http://app_$$nd_to$$server_name;
}
location @held {
  proxy_connect_timeout 500ms;
  proxy_next_upstream_timeout 30s;
  proxy_pass http://held_$$nd_to$$server_name;
}
location @leaving {
  keepalive_timeout 0;
  proxy_pass http://app_$$nd_to$$server_name;
}
location @maintenance {
  default_type text/plain;
  add_header Retry-After 60 always;
  add_header Cache-Control no-store always;
  return 503 "503: $$host is down for maintenance, and will be back soon\n";
}
location @nothing {
  default_type text/plain;
  return 502 "502: nothing answers for $$host right now\n";
}
]]

-- $name -> values.name, $$ -> $
local function fill(text, values)
  return (text:gsub("%$([%$%l_]?[%l_]*)", function(name)
    if name:sub(1, 1) == "$" then return name end
    return assert(values[name], name)
  end))
end

-- `listen` lines for one port: of the address, or of every one.
local function listen(o, port, more)
  if o.address ~= "" then return ("listen %s:%d%s;\n"):format(o.address, port, more) end
  return ("listen %d%s;\n"):format(port, more)
    .. (o.ipv6 and ("listen [::]:%d%s;\n"):format(port, more) or "")
end

function config.shared(o)
  local values = { run = o.run, dir = o.dir, marks = o.marks, id = config.ID, instance = o.instance,
    own = o.address ~= "" and not o.address:find("^127%.") and o.address .. " 1;" or "",
    default_plain = listen(o, o.http_port, " default_server"),
    default_tls = listen(o, o.https_port, " ssl http2 default_server") }
  return {
    ["nginx.conf"] = fill(frame, values),
    ["forward.conf"] = fill(forward, values),
    ["listen-plain.conf"] = listen(o, o.http_port, ""),
    ["listen-tls.conf"] = listen(o, o.https_port, " ssl http2"),
  }
end

function config.revision(text) return ("geo $nd_revision { default %s; }\n"):format(text) end

local upstreams = [[
upstream app_$to$host {
$tries}
upstream held_$to$host {
$hold_tries}
]]

local server = [[
server {
  include listen-$kind.conf;
  server_name $host;
$certificate  set $$nd_to '';
$canary  include forward.conf;
}
]]

-- The draw first, then the cookie, which overrules it. A header without a value isn't sent.
local canary = [[
  if (-f $marks/share/$host/$$nd_draw) { set $$nd_to canary_; }
  if ($$cookie_nextdeploy = $new-old) { set $$nd_to ''; }
  if ($$cookie_nextdeploy = $new-new) { set $$nd_to canary_; }
  set $$nd_release $old;
  set $$nd_side $new-old;
  if ($$nd_to) { set $$nd_release $new; set $$nd_side $new-new; }
  set $$nd_cookie "nextdeploy=$$nd_side; Path=/; HttpOnly; SameSite=Lax";
  if ($$cookie_nextdeploy = $$nd_side) { set $$nd_cookie ''; }
  add_header Set-Cookie $$nd_cookie always;
  add_header Nextdeploy-Release $$nd_release always;
  access_log $run/answers.log nd_$host;
]]

local redirect = [[
server {
  include listen-plain.conf;
  server_name $host;
  default_type text/plain;
  error_page 503 @maintenance;
  location ^~ /.well-known/acme-challenge/ {
    root $run/acme;
    try_files $$uri @https;
  }
  location / {
    if (-f $marks/maintenance/$host) { return 503; }
    return 308 https://$$host$port$$request_uri;
  }
  location @https {
    if (-f $marks/maintenance/$host) { return 503; }
    return 308 https://$$host$port$$request_uri;
  }
  location @maintenance {
    add_header Retry-After 60 always;
    return 503 "503: $$host is down for maintenance, and will be back soon\n";
  }
}
]]

local function upstreams_of(host, at, to)
  local line = ("  server %s max_fails=0;\n"):format(at)
  return fill(upstreams, { host = host, to = to, tries = line:rep(TRIES), hold_tries = line:rep(HOLD_TRIES) })
end

-- The mark is there so that another certificate is another text, and loaded.
local function certificate(certs, host, bundle, mark)
  local pem, key = bundle or certs .. "/" .. host .. ".crt", bundle or certs .. "/" .. host .. ".key"
  return ("  ssl_certificate %s; # %s\n  ssl_certificate_key %s;\n"):format(pem, mark or "-", key)
end

function config.certified(text, certs, host, bundle, mark)
  local first, last = text:find "  ssl_certificate [^\n]*\n  ssl_certificate_key [^\n]*\n"
  return text:sub(1, first - 1) .. certificate(certs, host, bundle, mark) .. text:sub(last + 1)
end

function config.host(o)
  local values = { host = o.host, kind = o.tls == "off" and "plain" or "tls", certificate = "", canary = "",
    marks = o.marks, run = o.run, port = o.https_port == 443 and "" or ":" .. o.https_port }
  local out = { upstreams_of(o.host, o.at, "") }
  if o.canary then
    values.new, values.old = tostring(o.canary.new), tostring(o.canary.old)
    values.canary = fill(canary, values)
    out[#out + 1] = upstreams_of(o.host, o.canary.at, "canary_")
    out[#out + 1] = ("log_format nd_%s '$server_name $nd_release $status $request_time';\n"):format(o.host)
  end
  if o.tls ~= "off" then
    out[#out + 1] = ("# tls %s\n"):format(o.tls)
    values.certificate = certificate(o.certs, o.host, o.bundle, o.mark)
    return table.concat(out) .. fill(server, values) .. fill(redirect, values)
  end
  return table.concat(out) .. fill(server, values)
end

return config
