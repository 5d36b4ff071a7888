# shellcheck shell=bash
# web.sh - npm packages that tests use: the linters of OpenAPI, the contract-checking proxy, age; source it after
# tests/lib.sh.
#
#   web_install                      installs what tests/web/package-lock.json names into build/web,
#                                    once; node and npm must be there (tests/run sees to it)
#   web_installed
#   contract_start LISTEN TO REPORT  starts the proxy (PORT or unix:PATH, both); sets CONTRACT_PID
#   contract_stop PID                stops it; its counters are at the end of REPORT.out
#   contract_kept PID REPORT         stops it, and checks that it found nothing to report
#   openapi_lint FILE                both linters, at their strictest

WEB_DIR=$ND_ROOT/build/web

web_installed() {
  cmp -s "$ND_ROOT/tests/web/package-lock.json" "$WEB_DIR/installed"
}

web_install() {
  web_installed && return 0
  command -v node >/dev/null && command -v npm >/dev/null || {
    printf 'node and npm are needed: apt-get install nodejs npm\n' >&2
    return 1
  }
  mkdir -p "$WEB_DIR" || return 1
  (
    flock 9
    web_installed && exit 0
    cp "$ND_ROOT/tests/web/package.json" "$ND_ROOT/tests/web/package-lock.json" "$WEB_DIR/" &&
      npm ci --prefix "$WEB_DIR" --ignore-scripts --no-audit --no-fund --no-update-notifier --prefer-offline \
        >"$WEB_DIR/install.log" 2>&1 &&
      cp "$WEB_DIR/package-lock.json" "$WEB_DIR/installed" ||
      { tail -n 20 "$WEB_DIR/install.log" >&2; exit 1; }
  ) 9>"$WEB_DIR/lock"
}

contract_start() {
  NODE_PATH=$WEB_DIR/node_modules node "$ND_ROOT/tests/web/contract_proxy.js" --listen "$1" --to "$2" --report "$3" \
    >"$3.out" 2>&1 </dev/null &
  CONTRACT_PID=$!
  at_exit stop_process "$CONTRACT_PID"
  until_true 20 grep -q listening "$3.out" || die "the contract proxy does not start: $(tail -n 5 "$3.out")"
}

contract_stop() {
  stop_process "$1"
  wait "$1" 2>/dev/null
}

contract_kept() {
  contract_stop "$1"
  expect "no request or answer broke the contract ($(awk '/^exchanges/ {print $2}' "$2.out") checked)" \
    '' "$(head -n 20 "$2")"
}

openapi_lint() {
  NODE_PATH=$WEB_DIR/node_modules node "$ND_ROOT/tests/web/lint_openapi.js" "$1" &&
    "$WEB_DIR/node_modules/.bin/spectral" lint --ruleset "$ND_ROOT/tests/web/spectral.yaml" \
      --fail-severity hint "$1"
}
