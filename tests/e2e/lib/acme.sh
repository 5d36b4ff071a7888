# shellcheck shell=bash
# acme.sh - a certificate authority of the test's own: pebble; source it after tests/e2e/lib/daemon.sh.
#
#   acme_start NAME HTTP_PORT TLS_PORT [VARIABLE=VALUE...]   starts one that asks every name on 127.0.0.1 by
#              these ports; sets ACME_DIRECTORY and ACME_PID. ACME_LIFE: seconds that its certificates last
#   ACME_CA    file: the root of its own HTTPS
#   acme_root  prints the root of what the last one issues
#   dns_recipe   puts the recipe `dns` among the daemon's own: it makes and removes TXT records
#   certificate_at PORT HOST [OPENSSL-X509-OPTION...]   what is shown there: -issuer, -serial, ...
#
# Names lead to 127.0.0.1; PEBBLE_WFE_NONCEREJECT and the like are pebble's own.

ACME_LIFE=7776000

acme_ca() {
  ACME_CA=$DAEMON_DIR/acme.crt
  [[ -e $ACME_CA ]] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
    -subj '/CN=test CA door' -addext 'subjectAltName=DNS:localhost,IP:127.0.0.1' \
    -keyout "$DAEMON_DIR/acme.key" -out "$ACME_CA" 2>/dev/null
}

acme_dns() {
  [[ -z ${DNS_PORT:-} ]] || return 0
  DNS_PORT=$(free_port)
  DNS_ADMIN=$(free_port)
  pebble-challtestsrv -defaultIPv6 '' -defaultIPv4 127.0.0.1 -dns01 "127.0.0.1:$DNS_PORT" \
    -management "127.0.0.1:$DNS_ADMIN" -http01 '' -https01 '' -tlsalpn01 '' >"$DAEMON_DIR/dns.log" 2>&1 &
  at_exit kill $!
  until_true 10 curl -so /dev/null "http://127.0.0.1:$DNS_ADMIN/" || die 'no name server'
}

acme_start() {
  local name=$1 http=$2 tls=$3 port
  shift 3
  acme_ca
  acme_dns
  port=${ACME_PORT:-$(free_port)}
  ACME_ADMIN=$(free_port)
  jq -n --arg dir "$DAEMON_DIR" --arg at "127.0.0.1:$port" --arg admin "127.0.0.1:$ACME_ADMIN" \
    --argjson http "$http" --argjson tls "$tls" --argjson life "$ACME_LIFE" '{pebble: {listenAddress: $at,
    managementListenAddress: $admin, certificate: ($dir + "/acme.crt"), privateKey: ($dir + "/acme.key"),
    httpPort: $http, tlsPort: $tls, ocspResponderURL: "", certificateValidityPeriod: $life}}' \
    >"$DAEMON_DIR/acme.$name.json"
  env PEBBLE_VA_NOSLEEP=1 "$@" pebble -config "$DAEMON_DIR/acme.$name.json" -dnsserver "127.0.0.1:$DNS_PORT" \
    >>"$DAEMON_DIR/acme.$name.log" 2>&1 &
  ACME_PID=$!
  at_exit kill "$ACME_PID"
  ACME_DIRECTORY=https://127.0.0.1:$port/dir
  until_true 10 curl -sf --cacert "$ACME_CA" -o /dev/null "$ACME_DIRECTORY" || die 'no certificate authority'
}

acme_root() {
  curl -sf --cacert "$ACME_CA" "https://127.0.0.1:$ACME_ADMIN/roots/0"
}

dns_recipe() {
  mkdir -p "$DAEMON_DIR/recipes/dns"
  cat >"$DAEMON_DIR/recipes/dns/recipe.lua" <<END
return recipe {
  summary = "Make or remove a TXT record.",
  needs = { "http:127.0.0.1:$DNS_ADMIN" },
  params = {
    app = param.app {}, act = param.choice { "present", "remove" },
    name = param.string { required = true }, value = param.string { required = true },
  },
  run = function(p)
    local answer = http.request { method = "POST",
      url = "http://127.0.0.1:$DNS_ADMIN/" .. (p.act == "present" and "set-txt" or "clear-txt"),
      body = ('{"host": "%s.", "value": "%s"}'):format(p.name, p.value) }
    if answer.status ~= 200 then error { code = "dns_failed", message = answer.body } end
  end,
}
END
}

certificate_at() {
  local port=$1 host=$2
  shift 2
  openssl s_client -connect "127.0.0.1:$port" -servername "$host" </dev/null 2>/dev/null |
    openssl x509 -noout "${@:--issuer}" 2>&1
}
