# shellcheck shell=bash
# invariants.sh - what must hold after any crash; part of crash.sh.
#
#   crash_baseline    remembers what a host at rest has, once all apps of the test are deployed
#   crash_check       looks at everything; each breach is printed and counted in crash_violations
#
# A defined state, the run ended, everything settled; one version serves each app; no container, process, network,
# address, chain, rule, mount, file, volume or image too many or too few; nothing done twice; the journal whole.

crash_violations=0

crash_problem() {
  printf '    violation: %s\n' "$*"
  crash_violations=$((crash_violations + 1))
}

# same WHAT WANTED GOT
crash_same() {
  [[ $2 == "$3" ]] || crash_problem "$1: wanted <${2//$'\n'/ }>, found <${3//$'\n'/ }>"
}

# same WHAT WANTED COMMAND...: what takes a moment to go
crash_soon_same() {
  local what=$1 wanted=$2
  shift 2
  until_true 5 crash_prints "$wanted" "$@" || crash_same "$what" "$wanted" "$("$@")"
}

crash_prints() {
  local wanted=$1
  shift
  [[ $("$@") == "$wanted" ]]
}

# ---- when it is over ----

crash_run_state() {
  crash_run=$(api GET "/runs?app=$crash_app&limit=1" | json '.payload[0].id // empty')
  [[ -n $crash_run ]] || return 1
  crash_state=$(api GET "/runs/$crash_run" | json .payload.state)
}

crash_defined() {
  [[ $(api GET "/apps/$crash_app" | json .payload.status) =~ ^(running|updating)$ ]] && crash_run_state &&
    [[ $crash_state =~ ^(running|sleeping|rolling_back|cleaning|done|failed|cancelled)$ ]]
}

crash_ended() {
  crash_run_state && [[ $crash_state =~ ^(done|failed|cancelled)$ ]]
}

# What was there before is drained, and removed unless it is to be kept; instances beyond the number are trimmed.
crash_settled() {
  local others
  others=$(crash_sql "SELECT group_concat(state) FROM release WHERE state NOT IN ('gone', 'live')")
  [[ -z $others || -n $crash_keeps && $others == kept ]] &&
    [[ $(crash_sql "SELECT count(*) FROM run WHERE ended_at IS NULL") == 0 ]] &&
    [[ $(api GET /apps | json '[.payload[].status] | unique | join(" ")') == running ]]
}

# ---- what there is ----

crash_names() { crash_sql "SELECT name FROM instance WHERE gone_at IS NULL $1 ORDER BY name"; }

crash_live_names() { crash_names 'AND release IN (SELECT live FROM app)'; }

crash_containers() { json ".[] | select($1) | .Names[0][1:]" <"$DAEMON_DIR/containers" | sort; }

# Containers' ids that containerd runs, whatever dockerd believes.
crash_processes() {
  pgrep -af "containerd-shim.*$HOST_DIR/" | sed -nE 's/.* -id ([0-9a-f]{64}) .*/\1/p' | sort -u
}

# Workers whose daemon is gone.
crash_lost_workers() {
  local pid
  for pid in $(pgrep -x nd-worker); do
    [[ $(readlink "/proc/$pid/exe") == "$ND_BIN_DIR"/* && $(ps -o comm= -p "$(ps -o ppid= -p "$pid")") != nextdeployd ]] &&
      echo "$pid"
  done
}

# Children of the daemon: none at rest.
crash_children() { pgrep -P "$DAEMON_PID"; }

crash_destinations() { sed -n 's/.*ND-.*--to-destination //p' | sort -u; }
crash_targets() { host_in "$CRASH_HOST" iptables-save -t nat | crash_destinations; }
crash_boot_targets() { crash_destinations <"$DAEMON_DIR/state/net/rules.v4"; }

# Chains and rules; where traffic goes is another question.
crash_rules() {
  host_in "$CRASH_HOST" iptables-save | sed -E '/^#/d; s/ \[[0-9:]+\]//; s/-m statistic .* -j/-j/; s/(--to-destination) .*/\1/' | sort -u
}

# Without what each container has.
crash_links() {
  host_in "$CRASH_HOST" ip -o addr show | awk '$2 !~ /^veth/ && $3 == "inet" { print $2, $4 }' | sort
  host_in "$CRASH_HOST" ip route | sed 's/ linkdown//' | sort
}

crash_count() { grep -cE "$@"; }

crash_volumes() { docker_api GET /volumes | json '[.Volumes[].Name] | sort | join(" ")'; }

crash_images() { docker_api GET /images/json | json '[.[] | .RepoTags // ["untagged"] | .[]] | sort | join(" ")'; }

crash_networks() {
  docker_api GET /networks |
    json --arg i "$crash_instance" '[.[] | select(.Labels["nextdeploy.instance"] == $i) | .Name] | sort | join(" ")'
}

# Of the daemon: without the instances' own, which are looked at by name, and the numbers of log segments.
crash_files() {
  (cd "$DAEMON_DIR" && find state run -not -path 'run/secrets/*' | sed -E 's/[0-9]{20}\.(raw|log|seg|zst|gz|sealed)$/SEGMENT/' |
    grep -vE 'nextdeploy.db-(wal|shm)$' | sort -u)
}

crash_baseline() {
  crash_base_rules=$(crash_rules)
  crash_base_links=$(crash_links)
  crash_base_volumes=$(crash_volumes)
  crash_base_images=$(crash_images)
  crash_base_networks=$(crash_networks)
  crash_base_files=$(crash_files)
}

# crash_difference WANTED COMMAND: the lines that are in one only
crash_difference() { diff <(echo "$1") <("$2") | grep '^[<>]'; }

# crash_check_lines WHAT WANTED COMMAND
crash_check_lines() {
  until_true 5 crash_lacks_nothing "$2" "$3" ||
    crash_problem "$1 (<: missing, >: too many): $(crash_difference "$2" "$3" | tr '\n' ' ')"
}

crash_lacks_nothing() { [[ -z $(crash_difference "$@") ]]; }

# ---- what must hold ----

crash_check_serving() {
  local app live
  for app in $(crash_sql 'SELECT name FROM app'); do
    live=$(crash_version "$app")
    crash_same "who serves $app" "$live" "$(edge_get "$app.test" '/?[1-6]' | grep -oE 'v1|v2|bad|.*[^v12].*' | sort -u)"
  done
  live=$(crash_live)
  if [[ $crash_state == done ]]; then
    crash_same "live after a run that is done" "$crash_next" "$live"
    crash_same "instances after a run that is done" "$crash_count" "$(crash_instances)"
    [[ -z $crash_fails ]] || crash_problem "it can't succeed, and is done"
  else
    crash_same "live after a run that has failed" "$crash_was" "$live"
    crash_same "instances after a run that has failed" "$crash_count_was" "$(crash_instances)"
  fi
}

crash_check_containers() {
  local names live name running
  names=$(crash_names)
  live=$(crash_live_names)
  docker_api GET '/containers/json?all=1' >"$DAEMON_DIR/containers"
  crash_same "containers" "$names" "$(crash_containers true)"
  crash_same "containers that run" "$live" "$(crash_containers '.State == "running"')"
  for name in $names; do
    crash_same "restart policy of $name" "$(grep -qxF "$name" <<<"$live" && echo unless-stopped || echo no)" \
      "$(docker_api GET "/containers/$name/json" | json .HostConfig.RestartPolicy.Name)"
  done
  running=$(wc -w <<<"$live")
  crash_soon_same "containers' processes" "$(json '.[] | select(.State == "running").Id' <"$DAEMON_DIR/containers" | sort)" \
    crash_processes
  crash_soon_same "containers' file systems" "$running" crash_count " $HOST_DIR/.*/merged overlay" /proc/self/mounts
  crash_soon_same "containers' network namespaces" "$running" crash_count " $HOST_DIR/exec/netns/" /proc/self/mounts
  crash_same "containers' links" "$running" "$(host_in "$CRASH_HOST" ip -o link show type veth | wc -l)"
  crash_same "secrets" "$names" "$(ls "$DAEMON_DIR/run/secrets")"
  crash_same "jobs that are there" 0 "$(crash_sql 'SELECT count(*) FROM job WHERE gone_at IS NULL')"
}

crash_check_host() {
  crash_same "targets in netfilter" \
    "$(crash_sql "SELECT address || ':8080' FROM instance WHERE gone_at IS NULL AND release IN (SELECT live FROM app)" | sort)" \
    "$(crash_targets)"
  crash_soon_same "targets in the rules for the next boot" "$(crash_targets)" crash_boot_targets
  crash_check_lines "chains and rules" "$crash_base_rules" crash_rules
  crash_check_lines "addresses and routes" "$crash_base_links" crash_links
  crash_same "networks" "$crash_base_networks" "$(crash_networks)"
  crash_same "volumes" "$crash_base_volumes" "$(crash_volumes)"
  crash_same "images" "$crash_base_images" "$(crash_images)"
  crash_same "mounts of the daemon" 1 "$(crash_count " $DAEMON_DIR/" /proc/self/mounts)"
  crash_check_lines "files" "$crash_base_files" crash_files
  crash_same "proxy routes" "$(crash_sql 'SELECT domain FROM route ORDER BY domain')" \
    "$(ls "$DAEMON_DIR/state/proxy/routes/plain" "$DAEMON_DIR/state/proxy/routes/tls" | grep '\.test$' | sort)"
  crash_soon_same "children of the daemon" '' crash_children
  crash_soon_same "workers without a daemon" '' crash_lost_workers
}

crash_check_journal() {
  crash_same "integrity" ok "$(crash_sql 'PRAGMA integrity_check; PRAGMA foreign_key_check')"
  crash_same "effects without an answer" '' \
    "$(crash_sql "SELECT name FROM effect WHERE run = '$crash_run' AND answered IS NULL")"
  crash_same "answers given twice" '' \
    "$(crash_sql "SELECT answered FROM effect WHERE run = '$crash_run' GROUP BY answered HAVING count(*) > 1")"
  [[ $crash_state =~ ^(done|none)$ ]] || crash_same "effects not undone" '' \
    "$(crash_sql "SELECT name FROM effect WHERE run = '$crash_run' AND undo IS NOT NULL AND undone = 0")"
  ndctl runs show "$crash_run" >"$DAEMON_DIR/story" 2>&1 || crash_problem "ndctl runs show: $(<"$DAEMON_DIR/story")"
  grep -qE 'done|failed|cancelled' "$DAEMON_DIR/story" || crash_problem "the story has no end: $(<"$DAEMON_DIR/story")"
}

crash_check_once() {
  crash_same "releases made twice" '' \
    "$(crash_sql "SELECT key FROM release WHERE run = '$crash_run' GROUP BY key HAVING count(*) > 1")"
  crash_same "containers started twice" '' \
    "$(sort -u "$DAEMON_DIR/starts" | grep "^$crash_run/" | cut -d' ' -f1,2 | uniq -d)"
  crash_same "jobs run twice" '' \
    "$(crash_sql "SELECT key FROM job WHERE run = '$crash_run' GROUP BY key HAVING count(*) > 1")"
  [[ ! -e $DAEMON_DIR/counted ]] || crash_same "requests made twice" '' "$(sort "$DAEMON_DIR/counted" | uniq -d)"
}

crash_check() {
  [[ $crash_defined_s != - ]] || crash_problem "the state is not defined within 10 s"
  [[ $crash_ended_s != - ]] || crash_problem "the run has not ended within 60 s"
  crash_settled || crash_problem "it does not settle: $(crash_sql "SELECT number, state FROM release WHERE state <> 'gone'" | tr '\n' ' ')"
  crash_check_serving
  crash_check_containers
  crash_check_host
  crash_check_journal
  crash_check_once
}
