# shellcheck shell=bash
# crash.sh - a run whose daemon, worker, dockerd or proxy is killed at a named point. Source it after
# tests/lib.sh, daemon.sh and second_host.sh; it brings scenes.sh (what is run) and invariants.sh (what must
# hold afterwards).
#
#   crash_new NAME NUMBER       a Docker host of its own with daemon, Caddy, images, and version 1 of
#                               the app `shop` live; all of it is removed at exit
#   crash_trace SCENE           plays the scene undisturbed; the array crash_points gets the points that it
#                               passed ("effect.app.start.asked:1"), crash_asked the effects of its run
#   crash_case WHO POINT SCENE  plays the scene with one kill; prints a row, and counts in crash_kills and
#                               crash_violations. crash_struck is empty where the point was not passed
#
# WHO dies:   daemon     SIGKILL at the point, then it is started again
#             term       SIGTERM at the point, then it is started again
#             damaged    SIGKILL at the point, and the run's journal can't be read when it is started again
#             thrice     SIGKILL at the point three times, after which the run is given up as stuck
#             worker     killed at the point
#             dockerd    SIGKILL at the point, started again
#             restarted  dockerd, SIGTERM at the point, started again
#             starting   dockerd, a moment after the point
#             away       dockerd at the point, started again only after a few seconds
#             proxy      Caddy, SIGKILL at the point, started again
#             cancel     nobody, but the run is cancelled at the point
#             random     the daemon, POINT milliseconds after the run was asked for
#             randomly   dockerd, likewise

source "$ND_ROOT/tests/e2e/lib/scenes.sh"
source "$ND_ROOT/tests/e2e/lib/invariants.sh"

# Polling is most of what a case does: without a process for each look at the clock.
exec {nap_pipe}<> <(:)
nap() { read -rt "${1:-0.02}" -u "$nap_pipe" || :; }

crash_kills=0
crash_failed_requests=0
crash_failed=-
crash_points=()
crash_asked=()

crash_new() {
  ND_CONTRACT=0 # its proxy would stand between
  CRASH_HOST=$1
  at_exit host_down "$1"
  host_up "$1" || die "no second Docker host"
  docker_socket=$HOST_SOCKET
  DOCKER_HOST=unix://$HOST_SOCKET
  local version
  for version in v1 v2; do
    image_build "nd-crash:$version" "ENV VERSION=$version PORT=8080" || die "no image"
  done
  image_build nd-crash:bad 'ENV CRASH=1 EXIT_CODE=3 VERSION=bad PORT=8080' || die "no image"
  daemon_new "$2"
  at_exit crash_continue
  DAEMON_WRAP=(nsenter "--net=/run/netns/$1" --)
  crash_daemon
  crash_caddy
  crash_deployed shop
  crash_instance=$(crash_sql "SELECT value FROM meta WHERE key = 'instance'")
  crash_watch_docker &
  crash_watcher=$!
  disown
  at_exit kill "$crash_watcher"
}

# crash_deployed APP [FIELDS]: version 1 of an app, live; FIELDS are more of the request, as JSON
crash_deployed() {
  local request
  request=$(jq -cn --arg app "$1" --argjson more "${2:-{\}}" '{app_name: $app, image: "nd-crash:v1", port: 8080,
    domain: ($app + ".test"), health_check: {path: "/health", interval: "100ms"}} + $more')
  api POST '/deploy?wait=true' -d "$request" >"$DAEMON_DIR/out"
  [[ $(json .success "$DAEMON_DIR/out") == true ]] || die "the first deploy of $1 failed: $(<"$DAEMON_DIR/out")"
}

# The shell is not to tell of what was killed on purpose.
crash_daemon() {
  daemon_start "$@"
  disown "$DAEMON_PID"
}

crash_caddy() {
  caddy_start
  disown "$CADDY_PID"
}

crash_gone() { until_true "${1:-30}" process_ended "$DAEMON_PID"; }

crash_sql() {
  sqlite3 -cmd '.timeout 5000' "$DAEMON_DIR/state/nextdeploy.db" "$1"
}

# Every start of a container, across deaths of dockerd: "key name id" lines.
crash_watch_docker() {
  while :; do
    curl -sN --unix-socket "$docker_socket" \
      'http://docker/events?since=1&filters=%7B%22type%22%3A%5B%22container%22%5D%2C%22event%22%3A%5B%22start%22%5D%7D' |
      jq --unbuffered -r '.Actor | "\(.Attributes["nextdeploy.key"]) \(.Attributes.name) \(.ID)"' \
        >>"$DAEMON_DIR/starts" 2>/dev/null
    nap
  done
}

crash_last_run() { crash_sql 'SELECT id FROM run ORDER BY rowid DESC LIMIT 1'; }

crash_mark_log() { crash_log_from=$(($(wc -l <"$DAEMON_DIR/log") + 1)); }

crash_log() { tail -n +"$crash_log_from" "$DAEMON_DIR/log"; }

# ---- points ----

# Each name with the number of its pass: "app.start" -> "app.start:1".
crash_passes() { awk '{ print $1 ":" ++n[$1] }'; }

crash_trace() {
  local before
  crash_set_scene "$1"
  daemon_stop
  crash_mark_log
  ND_FAULT=trace crash_daemon
  before=$(crash_log | grep -c '^fault: ')
  crash_ask wait >"$DAEMON_DIR/out"
  crash_run=$(crash_last_run)
  until_true 20 crash_settled || die "undisturbed, $1 does not settle: $(<"$DAEMON_DIR/out")"
  mapfile -t crash_points < <(crash_log | sed -n 's/^fault: //p' | crash_passes | tail -n +$((before + 1)))
  mapfile -t crash_asked < <(crash_sql "SELECT DISTINCT name FROM effect WHERE run = '$crash_run'")
  ((${#crash_points[@]} > 0)) || die "$1 passes no point: $(<"$DAEMON_DIR/out")"
  crash_scene_over
}

# ---- kills ----

crash_stopped() { [[ $(process_state "$DAEMON_PID") == T ]]; }

crash_worker_killed() { grep -q 'fault: the worker is killed' <(crash_log); }

crash_worker_seen() { crash_worker_killed || crash_no_worker; }

# A run that sleeps or goes back has none.
crash_no_worker() { grep -q 'fault: there is no worker' <(crash_log); }

crash_continue() { kill -CONT "$DAEMON_PID"; }

# Starts the daemon, which goes on with the run and dies at the same point.
crash_die_again() {
  local options
  mapfile -t options < <(daemon_options)
  ND_FAULT=$crash_point:kill "${DAEMON_WRAP[@]}" "$ND_BIN_DIR/nextdeployd" "${options[@]}" \
    >>"$DAEMON_DIR/log" 2>&1 </dev/null &
  DAEMON_PID=$!
  disown
  crash_gone 10
}

crash_kill_caddy() {
  kill -KILL "$CADDY_PID"
  until_true 10 process_ended "$CADDY_PID"
}

# Waits for the point. 1 when it wasn't passed.
crash_reach() {
  case $1 in
    random*) nap "$(printf '%d.%03d' $((crash_point / 1000)) $((crash_point % 1000)))" ;;
    daemon | damaged | thrice) until_true 30 crash_is_over process_ended "$DAEMON_PID" && process_ended "$DAEMON_PID" ;;
    worker) until_true 30 crash_is_over crash_worker_seen && crash_worker_killed ;;
    *) until_true 30 crash_is_over crash_stopped && crash_stopped ;;
  esac
}

# Undisturbed, the run has come to its end.
crash_passed() { process_ended "$crash_request" && crash_settled; }

# The point was reached, or nobody will reach it any more.
crash_is_over() { "$@" || crash_passed; }

# Kills, and starts again what was killed.
crash_strike() {
  case $1 in
    daemon) crash_daemon ;;
    damaged)
      crash_sql "UPDATE effect SET args = '[', result = '{', checksum = 0 WHERE run = (SELECT id FROM run ORDER BY rowid DESC LIMIT 1)"
      crash_daemon
      ;;
    thrice) crash_die_again && crash_die_again && crash_daemon ;;
    term)
      kill -TERM "$DAEMON_PID"
      kill -CONT "$DAEMON_PID"
      crash_gone 10 || crash_problem "SIGTERM does not end it"
      crash_daemon
      ;;
    cancel)
      (api POST "/runs/$(crash_last_run)/cancel" >"$DAEMON_DIR/cancelled" 2>&1 || :) &
      nap 0.1 # its request waits at the socket
      crash_continue
      ;;
    random)
      kill -KILL "$DAEMON_PID"
      crash_gone
      crash_daemon
      ;;
    dockerd | restarted | away | randomly)
      host_kill_dockerd "$CRASH_HOST" "$([[ $1 == restarted ]] && echo TERM || echo KILL)"
      crash_continue
      [[ $1 != away ]] || nap 4
      host_dockerd "$CRASH_HOST"
      ;;
    starting)
      crash_continue
      nap 0.08
      host_kill_dockerd "$CRASH_HOST" KILL
      host_dockerd "$CRASH_HOST"
      ;;
    proxy)
      crash_kill_caddy
      crash_continue
      crash_caddy
      ;;
  esac
}

# ---- one case ----

crash_load_start() {
  "${DAEMON_WRAP[@]}" "$ND_BIN_DIR/nd-load" --url "http://127.0.0.1:$EDGE_PORT/" --host shop.test --get 1 --new 1 \
    --rate 40 --seconds "${1:-150}" --json >"$DAEMON_DIR/load" &
  crash_loader=$!
}

crash_load_stop() {
  kill "$crash_loader"
  wait "$crash_loader"
  crash_failed=$(json .failed "$DAEMON_DIR/load")
  crash_failed_requests=$((crash_failed_requests + crash_failed))
  json '.versions[].version' "$DAEMON_DIR/load" | grep -q bad && crash_problem "the bad release answered"
}

crash_seconds() {
  printf '%d.%02d' $(($1 / 1000)) $(($1 % 1000 / 10))
}

crash_case() {
  local who=$1 action=kill before=$crash_violations
  crash_point=$2 crash_struck='' crash_state='' crash_defined_s=- crash_ended_s=-
  case $who in
    worker) action=fail ;;
    dockerd | restarted | starting | away | proxy | term | cancel) action=stop ;;
  esac
  crash_set_scene "$3"
  crash_before=$(crash_last_run)
  daemon_stop
  crash_mark_log
  ND_FAULT=$crash_point:$action crash_daemon
  crash_load_start
  (crash_ask >"$DAEMON_DIR/out" 2>&1 || :) &
  crash_request=$!
  if crash_reach "$who"; then
    crash_kills=$((crash_kills + 1))
    crash_struck=$(now_ms)
    crash_strike "$who"
    crash_await
  else
    crash_continue 2>/dev/null
    until_true 30 crash_passed # where there was no worker to kill, it goes on
  fi
  crash_load_stop
  if [[ -n $crash_struck ]]; then
    crash_row "$who" "$3"
    crash_check
    case $who in
      damaged) [[ -n $crash_fails ]] || crash_same "why it failed" journal_damaged "$(crash_error_code)" ;;
      thrice) crash_same "why it failed" stuck "$(crash_error_code)" ;;
    esac
  fi
  ((crash_violations == before)) || crash_tell
  crash_scene_over
}

crash_error_code() { api GET "/runs/$crash_run" | json .payload.error.code; }

# Waits for a defined state, the run's end, and what is drained and removed after it.
crash_await() {
  if until_true 10 crash_defined; then crash_defined_s=$(crash_seconds $(($(now_ms) - crash_struck))); fi
  if until_true 60 crash_ended; then crash_ended_s=$(crash_seconds $(($(now_ms) - crash_struck))); fi
  until_true 30 crash_settled
  [[ $crash_run != "$crash_before" ]] || crash_state=none # killed before the run was accepted
}

crash_row() {
  printf '%-9s %-16s %-34s %-9s %-4s %8s %7s %7s\n' "$1" "$2" "$crash_point" "${crash_state:-?}" \
    "$(crash_live)" "$crash_defined_s" "$crash_ended_s" "$crash_failed"
}

crash_header() {
  printf '%-9s %-16s %-34s %-9s %-4s %8s %7s %7s\n' kill scene at run live 'defined s' 'ended s' 'failed requests'
}

# What the daemon said since the case began.
crash_tell() { crash_log | tail -n 25 | sed 's/^/      /'; }
