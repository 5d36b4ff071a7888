# shellcheck shell=bash
# daemon.sh - a nextdeployd of the test's own, and a Caddy for it; source it after tests/lib.sh.
#
#   daemon_new NUMBER           picks directories, ports and a range of its own (10.NUMBER.0.0/16);
#                               all of it is removed at exit, also after a failure
#   daemon_start [OPTION...]    starts it and waits until it answers; sets DAEMON_PID
#   daemon_stop | daemon_kill   SIGTERM and wait | SIGKILL and wait
#   caddy_start                 starts Caddy with the configuration the daemon wrote
#   ndctl ARGS...               ndctl against this daemon
#   api METHOD PATH [CURL...]   the HTTP API by the unix socket
#   edge_get HOST [PATH]        a request through the proxy
#
# Where the linters and node modules are installed (tests/run, web.sh), ndctl and api ask through a
# proxy that checks every request, answer and frame against /openapi.json; `finish` fails on a breach.
# ND_CONTRACT=0 leaves it out.
#
# DAEMON_WRAP, an array, is put before the commands: to run in another network namespace.

DAEMON_WRAP=()
source "$ND_ROOT/tests/e2e/lib/web.sh"

daemon_new() {
  DAEMON_DIR=$(mktemp -d "${TMPDIR:-/tmp}/nd-test-XXXXXX")
  DAEMON_CIDR=10.$1.0.0/16
  DAEMON_PORT=$(free_port)
  EDGE_PORT=$(free_port)
  EDGE_TLS_PORT=$(free_port)
  mkdir -p "$DAEMON_DIR/recipes"
  DAEMON_SOCKET=$DAEMON_DIR/run/nextdeployd.sock
  export NDCTL_HOST=unix://$DAEMON_SOCKET
  at_exit daemon_remove
}

daemon_contract() {
  if [[ ${ND_CONTRACT:-1} == 0 || $DAEMON_SOCKET == *contract* ]] || ! web_installed; then return; fi
  contract_start "unix:$DAEMON_DIR/contract.sock" "unix:$DAEMON_SOCKET" "$DAEMON_DIR/breaches"
  DAEMON_SOCKET=$DAEMON_DIR/contract.sock
  export NDCTL_HOST=unix://$DAEMON_SOCKET
  at_finish contract_kept "$CONTRACT_PID" "$DAEMON_DIR/breaches"
}

daemon_options() {
  printf '%s\n' --state-dir "$DAEMON_DIR/state" --run-dir "$DAEMON_DIR/run" \
    --listen "127.0.0.1:$DAEMON_PORT" --service-cidr "$DAEMON_CIDR" --http-port "$EDGE_PORT" \
    --https-port "$EDGE_TLS_PORT" --recipe-dir "$DAEMON_DIR/recipes" \
    --cert-dir "$DAEMON_DIR/certs" --docker-host "$DOCKER_HOST"
}

daemon_answers() {
  [[ $(api GET /healthz) == *'"success":true'* ]]
}

daemon_start() {
  local options
  mapfile -t options < <(daemon_options)
  "${DAEMON_WRAP[@]}" "$ND_BIN_DIR/nextdeployd" "${options[@]}" "$@" >>"$DAEMON_DIR/log" 2>&1 </dev/null &
  DAEMON_PID=$!
  until_true 30 daemon_answers || {
    tail -20 "$DAEMON_DIR/log" >&2
    die "the daemon does not answer"
  }
  daemon_contract
}

daemon_stop() {
  [[ -n ${DAEMON_PID:-} ]] || return 0
  stop_process "$DAEMON_PID" 15
  wait "$DAEMON_PID" 2>/dev/null
  DAEMON_PID=
}

daemon_kill() {
  kill -9 "$DAEMON_PID" 2>/dev/null
  wait "$DAEMON_PID" 2>/dev/null
  DAEMON_PID=
}

caddy_start() {
  "${DAEMON_WRAP[@]}" env HOME="$DAEMON_DIR" XDG_DATA_HOME="$DAEMON_DIR/caddy" XDG_CONFIG_HOME="$DAEMON_DIR/caddy" \
    caddy run --config "$DAEMON_DIR/state/proxy/caddy.json" >>"$DAEMON_DIR/caddy.log" 2>&1 </dev/null &
  CADDY_PID=$!
  until_true 10 edge_get nobody.test || die "Caddy does not answer: $(tail -3 "$DAEMON_DIR/caddy.log")"
}

ndctl() {
  "$ND_BIN_DIR/ndctl" "$@"
}

api() {
  local method=$1 path=$2
  shift 2
  curl -sS --max-time 120 --unix-socket "$DAEMON_SOCKET" -X "$method" \
    -H 'Content-Type: application/json' "http://localhost$path" "$@"
}

edge_get() {
  "${DAEMON_WRAP[@]}" curl -sS --max-time 10 -H "Host: $1" "http://127.0.0.1:$EDGE_PORT${2:-/}"
}

daemon_containers() {
  docker_api GET "/containers/json?all=1&filters=%7B%22label%22%3A%5B%22nextdeploy.instance%3D$1%22%5D%7D" |
    json '.[].Id'
}

daemon_remove() {
  local instance id options
  instance=$(sqlite3 "$DAEMON_DIR/state/nextdeploy.db" "SELECT value FROM meta WHERE key = 'instance'" 2>/dev/null)
  daemon_stop
  [[ -z ${CADDY_PID:-} ]] || stop_process "$CADDY_PID"
  if [[ -n $instance ]]; then
    for id in $(daemon_containers "$instance"); do container_remove "$id"; done
    mapfile -t options < <(daemon_options)
    "${DAEMON_WRAP[@]}" "$ND_BIN_DIR/nextdeployd" "${options[@]}" --remove-network >>"$DAEMON_DIR/log" 2>&1
  fi
  umount "$DAEMON_DIR/run/secrets" 2>/dev/null
  rm -rf "$DAEMON_DIR"
}
