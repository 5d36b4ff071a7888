# shellcheck shell=bash
# crash.sh - a blue-green deploy whose daemon, worker or dockerd is killed at a named point, and what
# must hold afterwards. Source it after tests/lib.sh, daemon.sh and second_host.sh.
#
#   crash_new NAME NUMBER      a Docker host of its own with daemon, Caddy, images, and version 1 of
#                              the app `shop` live; all of it is removed at exit
#   crash_points               runs one good and one bad deploy and fills, from their journals, the
#                              arrays good_points and bad_points ("effect.app.start.asked:1")
#   crash_case WHO POINT KIND  one deploy with one kill; prints a row and counts in crash_kills and
#                              crash_violations
#
# WHO dies:   daemon     SIGKILL at the point, then it is started again
#             term       SIGTERM at the point, then it is started again
#             damaged    SIGKILL at the point, and the run's journal can't be read when it is started again
#             thrice     SIGKILL at the point three times, after which the run is given up as stuck
#             worker     killed at the point
#             dockerd    SIGKILL at the point, started again
#             starting   dockerd, a moment after the point
#             away       dockerd at the point, started again only after a few seconds
#             cancel     nobody, but the run is cancelled at the point
#             random     the daemon, POINT milliseconds after the deploy was asked for
#             randomly   dockerd, likewise
# KIND:       good       the deploy can succeed;   bad   its release crashes at start
#             slow       good, and drain and keep take a moment
#             kept       good, and its predecessor is kept in the end
#
# After each: the state is defined within 10 s, the run has ended within 60 s, one version serves,
# nothing is orphaned, nothing was done twice, the journal tells the story.

crash_kills=0
crash_violations=0
crash_failed_requests=0
crash_kind=
good_points=()
bad_points=()
slow_points=(container.created:1 container.started:1 run.ended:1 release.drained:1 release.stopped:1
  release.kept:1 release.removed:1)

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
  daemon_start
  caddy_start
  ndctl deploy nd-crash:v1 --app shop --port 8080 --domain shop.test --health-check /health --yes \
    >"$DAEMON_DIR/out" 2>&1 || die "the first deploy failed: $(<"$DAEMON_DIR/out")"
  crash_instance=$(crash_sql "SELECT value FROM meta WHERE key = 'instance'")
  crash_watch_docker &
  crash_watcher=$!
  disown
  at_exit kill "$crash_watcher"
}

crash_sql() {
  sqlite3 -cmd '.timeout 5000' "$DAEMON_DIR/state/nextdeploy.db" "$1"
}

# Every start of a container, across deaths of dockerd: "key id" lines.
crash_watch_docker() {
  while :; do
    curl -sN --unix-socket "$docker_socket" \
      'http://docker/events?filters=%7B%22type%22%3A%5B%22container%22%5D%2C%22event%22%3A%5B%22start%22%5D%7D' |
      jq --unbuffered -r '.Actor | "\(.Attributes["nextdeploy.key"]) \(.ID)"' >>"$DAEMON_DIR/starts" 2>/dev/null
    nap
  done
}

# ---- points ----

crash_effects() {
  api GET "/runs/$1" | json '.payload.effects[].name'
}

# Each effect of a run, in order, with the number of its pass: "app.start:1".
crash_passes() {
  crash_effects "$1" | awk '{ print $1 ":" ++n[$1] }'
}

crash_points() {
  local pass
  crash_deploy good
  for pass in $(crash_passes "$crash_run"); do
    good_points+=("effect.${pass%:*}".{before,asked,acted,answered}":${pass#*:}")
  done
  crash_deploy bad
  # The failing effect, then the way back.
  pass=$(crash_passes "$crash_run" | tail -1)
  bad_points+=("effect.${pass%:*}".{before,asked,acted,answered}":${pass#*:}" run.rolling_back:1)
  while read -r pass; do
    bad_points+=("effect.$pass".{undoing,undone}:1)
  done < <(crash_sql "SELECT name FROM effect WHERE run = '$crash_run' AND undone = 1 ORDER BY answered DESC")
  bad_points+=(release.removed:1)
}

# ---- one deploy ----

crash_request() {
  local image=nd-crash:$crash_next drain=0s keep=0s
  [[ $1 != bad ]] || image=nd-crash:bad
  [[ $1 != slow ]] || drain=300ms keep=300ms
  jq -cn --arg image "$image" --arg drain "$drain" --arg keep "$keep" '{recipe: "bluegreen",
    app_name: "shop", params: {image: $image, drain: $drain, keep: $keep}}'
}

crash_live() {
  crash_sql "SELECT substr(image, 10) FROM release WHERE id = (SELECT live FROM app WHERE name = 'shop')"
}

# A deploy that nobody disturbs; sets crash_run.
crash_deploy() {
  crash_choose
  api POST '/runs?wait=true' -d "$(crash_request "$1")" >"$DAEMON_DIR/out"
  crash_run=$(crash_sql 'SELECT id FROM run ORDER BY rowid DESC LIMIT 1')
  until_true 20 crash_settled || die "an undisturbed deploy does not settle: $(<"$DAEMON_DIR/out")"
}

crash_choose() {
  crash_next=v1
  [[ $(crash_live) != v1 ]] || crash_next=v2
}

# ---- kills ----

crash_stopped() {
  [[ $(sed 's/.*) //; s/ .*//' "/proc/$DAEMON_PID/stat" 2>/dev/null) == T ]]
}

crash_worker_killed() {
  grep -q 'fault: the worker is killed' <(tail -n +"$crash_log_from" "$DAEMON_DIR/log")
}

crash_continue() {
  kill -CONT "$DAEMON_PID"
}

# Starts the daemon, which goes on with the run and dies at the same point.
crash_die_again() {
  local options
  mapfile -t options < <(daemon_options)
  ND_FAULT=$crash_point:kill "${DAEMON_WRAP[@]}" "$ND_BIN_DIR/nextdeployd" "${options[@]}" \
    >>"$DAEMON_DIR/log" 2>&1 </dev/null &
  DAEMON_PID=$!
  until_true 10 process_ended "$DAEMON_PID" && ! wait "$DAEMON_PID" 2>/dev/null
}

# Waits for the point, kills, starts again what was killed. 1 when the point wasn't hit.
crash_strike() {
  case $1 in
    random*) nap "$(printf '%d.%03d' $((crash_point / 1000)) $((crash_point % 1000)))" ;;
    daemon | damaged | thrice)
      until_true 30 process_ended "$DAEMON_PID" || return 1
      wait "$DAEMON_PID" 2>/dev/null
      ;;
    worker) until_true 30 crash_worker_killed || return 1 ;;
    *) until_true 30 crash_stopped || return 1 ;;
  esac
  crash_struck=$(now_ms)
  case $1 in
    daemon) daemon_start ;;
    damaged)
      crash_sql "UPDATE effect SET args = '[', result = '{' WHERE run = (SELECT id FROM run ORDER BY rowid DESC LIMIT 1)"
      daemon_start
      ;;
    thrice)
      crash_die_again && crash_die_again && daemon_start
      ;;
    term)
      kill -TERM "$DAEMON_PID"
      kill -CONT "$DAEMON_PID"
      until_true 10 process_ended "$DAEMON_PID" || return 1
      daemon_start
      ;;
    cancel)
      crash_run=$(crash_sql 'SELECT id FROM run ORDER BY rowid DESC LIMIT 1')
      (api POST "/runs/$crash_run/cancel" >"$DAEMON_DIR/cancelled" 2>&1 || :) &
      nap 0.1 # its request waits at the socket
      crash_continue
      ;;
    random)
      daemon_kill
      daemon_start
      ;;
    dockerd | away | randomly)
      host_kill_dockerd "$CRASH_HOST" KILL
      kill -CONT "$DAEMON_PID"
      [[ $1 != away ]] || nap 4
      host_dockerd "$CRASH_HOST"
      ;;
    starting)
      kill -CONT "$DAEMON_PID"
      nap 0.08
      host_kill_dockerd "$CRASH_HOST" KILL
      host_dockerd "$CRASH_HOST"
      ;;
  esac
}

# ---- what must hold ----

crash_problem() {
  printf '    violation: %s\n' "$*"
  crash_violations=$((crash_violations + 1))
}

crash_run_state() {
  crash_run=$(api GET '/runs?app=shop&limit=1' | json '.payload[0].id // empty')
  [[ -n $crash_run ]] || return 1
  crash_state=$(api GET "/runs/$crash_run" | json .payload.state)
}

crash_defined() {
  [[ $(api GET '/apps/shop' | json .payload.status) =~ ^(running|updating)$ ]] && crash_run_state &&
    [[ $crash_state =~ ^(running|sleeping|rolling_back|cleaning|done|failed|cancelled)$ ]]
}

crash_ended() {
  crash_run_state && [[ $crash_state =~ ^(done|failed|cancelled)$ ]]
}

# What was there before is drained, and removed unless it is to be kept.
crash_settled() {
  local states
  states=$(crash_sql "SELECT group_concat(state) FROM release WHERE state <> 'gone'")
  [[ $states == live || $crash_kind == kept && $states == kept,live ]] &&
    [[ $(api GET '/apps/shop' | json .payload.status) == running ]]
}

# same WHAT WANTED GOT
crash_same() {
  [[ $2 == "$3" ]] || crash_problem "$1: wanted <${2//$'\n'/ }>, found <${3//$'\n'/ }>"
}

crash_check_serving() {
  local live
  live=$(crash_live)
  crash_same "who serves" "$live" "$(for _ in 1 2 3 4 5 6; do edge_get shop.test | cat - <(echo); done | sed '/^$/d' | sort -u)"
  if [[ $crash_state == done ]]; then
    crash_same "live after a run that is done" "$crash_next" "$live"
  else
    [[ $live != "$crash_next" ]] || crash_problem "$live is live, but the run has failed"
  fi
}

crash_check_orphans() {
  local names live other
  names=$(crash_sql 'SELECT name FROM instance WHERE gone_at IS NULL ORDER BY name')
  live=$(crash_sql 'SELECT name FROM instance WHERE gone_at IS NULL AND release = (SELECT live FROM app)')
  docker_api GET '/containers/json?all=1' >"$DAEMON_DIR/containers"
  crash_same "containers" "$names" "$(json '.[].Names[0][1:]' <"$DAEMON_DIR/containers" | sort)"
  crash_same "containers that run" "$live" \
    "$(json '.[] | select(.State == "running").Names[0][1:]' <"$DAEMON_DIR/containers" | sort)"
  for other in $names; do
    crash_same "restart policy of $other" "$([[ $other == "$live" ]] && echo unless-stopped || echo no)" \
      "$(docker_api GET "/containers/$other/json" | json .HostConfig.RestartPolicy.Name)"
  done
  crash_same "processes" "$(json '.[] | select(.State == "running").Id' <"$DAEMON_DIR/containers" | sort)" \
    "$(crash_processes)"
  crash_same "secrets" "$names" "$(ls "$DAEMON_DIR/run/secrets")"
  crash_same "networks" 1 "$(docker_api GET /networks |
    json --arg i "$crash_instance" '[.[] | select(.Labels["nextdeploy.instance"] == $i)] | length')"
  crash_same "targets in netfilter" \
    "$(crash_sql 'SELECT address FROM instance WHERE gone_at IS NULL AND release = (SELECT live FROM app)'):8080" \
    "$(host_in "$CRASH_HOST" iptables-save -t nat | sed -n 's/.*ND-.*--to-destination //p' | sort -u)"
  crash_same "proxy routes" "$(crash_sql 'SELECT domain FROM route')" \
    "$(ls "$DAEMON_DIR/state/proxy/routes/plain" "$DAEMON_DIR/state/proxy/routes/tls" | grep '\.test$')"
}

# Containers' ids that containerd runs, whatever dockerd believes.
crash_processes() {
  pgrep -af "containerd-shim.*$HOST_DIR/" | sed -nE 's/.* -id ([0-9a-f]{64}) .*/\1/p' | sort -u
}

crash_check_journal() {
  crash_same "integrity" ok "$(crash_sql 'PRAGMA integrity_check; PRAGMA foreign_key_check')"
  crash_same "effects without an answer" '' \
    "$(crash_sql "SELECT name FROM effect WHERE run = '$crash_run' AND answered IS NULL")"
  crash_same "answers given twice" '' \
    "$(crash_sql "SELECT answered FROM effect WHERE run = '$crash_run' GROUP BY answered HAVING count(*) > 1")"
  [[ $crash_state =~ ^(done|none)$ ]] || crash_same "effects not undone" '' \
    "$(crash_sql "SELECT name FROM effect WHERE run = '$crash_run' AND undo IS NOT NULL AND undone = 0")"
  crash_same "releases made" 1 "$(crash_sql "SELECT max(1, count(*)) FROM release WHERE run = '$crash_run'")"
  crash_same "containers started twice" '' \
    "$(sort -u "$DAEMON_DIR/starts" | grep "^$crash_run/" | cut -d' ' -f1 | uniq -d)"
  ndctl runs show "$crash_run" >"$DAEMON_DIR/story" 2>&1 || crash_problem "ndctl runs show: $(<"$DAEMON_DIR/story")"
  grep -qE 'done|failed|cancelled' "$DAEMON_DIR/story" || crash_problem "the story has no end: $(<"$DAEMON_DIR/story")"
}

# ---- one case ----

crash_load_start() {
  "${DAEMON_WRAP[@]}" "$ND_BIN_DIR/nd-load" --url "http://127.0.0.1:$EDGE_PORT/" --host shop.test --get 1 --new 1 \
    --rate 40 --seconds 150 --json >"$DAEMON_DIR/load" &
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
  local who=$1 action=kill kind=$3
  crash_defined_s=- crash_ended_s=-
  crash_point=$2 crash_kind=$3
  case $who in
    worker) action=fail ;;
    dockerd | starting | away | term | cancel) action=stop ;;
  esac
  crash_kills=$((crash_kills + 1))
  crash_choose
  crash_before=$(crash_sql 'SELECT id FROM run ORDER BY rowid DESC LIMIT 1')
  daemon_stop
  crash_log_from=$(($(wc -l <"$DAEMON_DIR/log") + 1))
  ND_FAULT=$crash_point:$action daemon_start
  crash_load_start
  (api POST /runs -d "$(crash_request "$kind")" >"$DAEMON_DIR/out" 2>&1 || :) &
  if crash_strike "$who"; then crash_await; fi
  crash_load_stop
  crash_row "$who" "$kind"
  local before=$crash_violations
  if [[ -z ${crash_struck:-} ]]; then
    crash_problem "the point was not hit: $(<"$DAEMON_DIR/out")"
    crash_continue 2>/dev/null
    crash_sql "SELECT * FROM run ORDER BY rowid DESC LIMIT 1; SELECT n, name, args,
      result, error, answered FROM effect WHERE run = (SELECT max(id) FROM run)" | sed 's/^/      /'
  else
    crash_check
    [[ $who != damaged ]] || crash_same "why it failed" journal_damaged "$(api GET "/runs/$crash_run" | json .payload.error.code)"
    [[ $who != thrice ]] || crash_same "why it failed" stuck "$(api GET "/runs/$crash_run" | json .payload.error.code)"
  fi
  ((crash_violations == before)) || crash_tell
  crash_struck='' crash_state=''
}

# Waits for a defined state, the run's end, and what is drained and removed after it.
crash_await() {
  crash_defined_s=- crash_ended_s=-
  if until_true 10 crash_defined; then crash_defined_s=$(crash_seconds $(($(now_ms) - crash_struck))); fi
  if until_true 60 crash_ended; then crash_ended_s=$(crash_seconds $(($(now_ms) - crash_struck))); fi
  until_true 30 crash_settled
  [[ $crash_run != "$crash_before" ]] || crash_state=none # killed before the run was accepted
}

crash_row() {
  printf '%-9s %-5s %-32s %-9s %-5s %8s %7s %7s\n' "$1" "$2" "$crash_point" "${crash_state:-?}" \
    "$(crash_live)" "$crash_defined_s" "$crash_ended_s" "$crash_failed"
}

# What must hold.
crash_check() {
  [[ $crash_defined_s != - ]] || crash_problem "the state is not defined within 10 s"
  [[ $crash_ended_s != - ]] || crash_problem "the run has not ended within 60 s"
  crash_settled || crash_problem "it does not settle: $(crash_sql "SELECT number, state FROM release WHERE state <> 'gone'" | tr '\n' ' ')"
  crash_check_serving
  crash_check_orphans
  crash_check_journal
}

# What the daemon said since the case began.
crash_tell() { tail -n +"$crash_log_from" "$DAEMON_DIR/log" | tail -n 25 | sed 's/^/      /'; }

crash_header() {
  printf '%-9s %-5s %-32s %-9s %-5s %8s %7s %7s\n' kill deploy at run live 'defined s' 'ended s' 'failed requests'
}
