# shellcheck shell=bash
# invariants.sh - what must hold after any crash; part of crash.sh.
#
#   crash_baseline    remembers what a host at rest has, once all apps of the test are deployed
#   crash_check       looks at everything; each breach is printed and counted in crash_violations
#
# A defined state, the run ended, everything settled; one version serves each app; no container, process, network,
# address, chain, rule, mount, file, volume or image too many or too few; nothing done twice; the journal whole.
#
# A look is taken with few processes, since it is taken after each of a thousand kills: the functions crash_look_*
# print sections, "== NAME" and its lines, which crash_look reads into the map `seen`.

crash_violations=0
declare -A seen=() base=()

crash_problem() {
  printf '    violation: %s\n' "$*"
  crash_violations=$((crash_violations + 1))
}

# same WHAT WANTED GOT
crash_same() {
  [[ $2 == "$3" ]] || crash_problem "$1: wanted <${2//$'\n'/ }>, found <${3//$'\n'/ }>"
}

# ---- when it is over ----

# The newest run of the app, and its state.
crash_run_state() {
  local row
  row=$(crash_sql "SELECT run.id, run.state FROM run JOIN app ON app.id = run.app WHERE app.name = '$crash_app'
    ORDER BY run.rowid DESC LIMIT 1")
  crash_run=${row%|*} crash_state=${row#*|}
  [[ -n $crash_run ]]
}

crash_defined() {
  local answers
  answers=$(api GET "/apps/$crash_app" && api GET "/runs?app=$crash_app&limit=1")
  [[ $answers =~ \"status\":\"(running|updating)\" &&
    $answers =~ \"state\":\"(running|sleeping|rolling_back|cleaning|done|failed|cancelled)\" ]]
}

crash_ended() { crash_run_state && [[ $crash_state =~ ^(done|failed|cancelled)$ ]]; }

# Releases that are not live, and runs that have not ended.
crash_left() {
  crash_sql "SELECT state FROM release WHERE state NOT IN ('gone', 'live') UNION ALL
    SELECT 'run' FROM run WHERE ended_at IS NULL"
}

# What was there before is drained, and removed unless it is to be kept; instances beyond the number are trimmed.
crash_settled() {
  local left
  left=$(crash_left)
  [[ -z $left || -n $crash_keeps && $left == kept ]] &&
    [[ ! $(api GET /apps) =~ \"status\":\"(stopped|error|updating|degraded)\" ]]
}

# ---- a look ----

crash_look_database() {
  sqlite3 -cmd '.timeout 5000' "$DAEMON_DIR/state/nextdeploy.db" "
    SELECT '== app'; SELECT app.name || ' ' || substr(image, 10) FROM app JOIN release ON release.id = live ORDER BY name;
    SELECT '== instance'; SELECT name FROM instance WHERE gone_at IS NULL ORDER BY name;
    SELECT '== id'; SELECT name || ' ' || ifnull(container, 'NULL') FROM instance WHERE gone_at IS NULL ORDER BY name;
    SELECT '== live'; SELECT name FROM instance WHERE gone_at IS NULL AND release IN (SELECT live FROM app) ORDER BY name;
    SELECT '== policy'; SELECT name || CASE WHEN release IN (SELECT live FROM app) THEN ' unless-stopped' ELSE ' no' END
      FROM instance WHERE gone_at IS NULL ORDER BY name;
    SELECT '== target'; SELECT address || ':8080' AS at FROM instance WHERE gone_at IS NULL
      AND release IN (SELECT live FROM app) ORDER BY at;
    SELECT '== route'; SELECT domain FROM route ORDER BY domain;
    SELECT '== job'; SELECT id FROM job WHERE gone_at IS NULL;
    SELECT '== integrity'; PRAGMA integrity_check; PRAGMA foreign_key_check;
    SELECT '== unanswered'; SELECT name FROM effect WHERE run = '$crash_run' AND answered IS NULL;
    SELECT '== doubled'; SELECT answered FROM effect WHERE run = '$crash_run' GROUP BY answered HAVING count(*) > 1;
    SELECT '== due'; SELECT name FROM effect WHERE run = '$crash_run' AND undo IS NOT NULL AND undone = 0;
    SELECT '== remade'; SELECT key FROM release WHERE run = '$crash_run' GROUP BY key HAVING count(*) > 1;
    SELECT key FROM job WHERE run = '$crash_run' GROUP BY key HAVING count(*) > 1;"
}

# $1: the instances, whose restart policies are asked for
crash_look_docker() {
  local urls=() name
  for name in $1; do urls+=("http://docker/containers/$name/json"); done
  curl -sS --max-time 60 --unix-socket "$docker_socket" 'http://docker/containers/json?all=1' http://docker/networks \
    http://docker/volumes http://docker/images/json "${urls[@]}" | jq -rs --arg i "$crash_instance" '
    def show(name; lines): "== " + name, (lines | sort | .[]);
    show("container"; [.[0][].Names[0][1:]]),
    show("known"; [.[0][] | "\(.Names[0][1:]) \(.Id)"]),
    show("running"; [.[0][] | select(.State == "running").Names[0][1:]]),
    show("process"; [.[0][] | select(.State == "running").Id]),
    show("network"; [.[1][] | select(.Labels["nextdeploy.instance"] == $i).Name]),
    show("volume"; [.[2].Volumes[].Name]),
    show("image"; [.[3][] | .RepoTags // ["untagged"] | .[]]),
    show("restart"; [.[4:][] | "\(.Name[1:]) \(.HostConfig.RestartPolicy.Name)"])'
}

# Chains and rules without where traffic goes; addresses and routes without each container's own.
crash_look_network() {
  # shellcheck disable=SC2016
  host_in "$CRASH_HOST" sh -c 'iptables-save; ip -o addr show; ip -o link show type veth; ip route | sed "s/^/route /"' | awk '
    /^#/ { next }
    /--to-destination/ && /ND-/ { target[$NF] = 1 }
    /^[:*-]|^COMMIT/ {
      sub(/ \[[0-9:]+\]/, ""); sub(/-m statistic .* -j/, "-j"); sub(/--to-destination .*/, ""); rule[$0] = 1; next }
    /^route/ { sub(/ linkdown/, ""); link[$0] = 1; next }
    /link\/ether/ { veths++; next }
    $2 !~ /^veth/ && $3 == "inet" { link[$2 " " $4] = 1 }
    function show(name, set, key) {
      for (key in set) print name, key | "sort"
    }
    END { show("target", target); show("rule", rule); show("link", link); print "veths", veths + 0 | "sort" }' |
    awk '$1 != last { print "== net." $1; last = $1 } { sub(/^[a-z]+ /, ""); print }'
}

# Who answers at each app's host name.
crash_look_edge() {
  local arguments=() app
  for app in $1; do
    arguments+=(-sS --max-time 10 -H "Host: $app.test" -w "\n$app %{http_code}\n" "http://127.0.0.1:$EDGE_PORT/?[1-4]" --next)
  done
  echo "== edge"
  "${DAEMON_WRAP[@]}" curl "${arguments[@]::${#arguments[@]}-1}" | 
    awk 'NF == 1 { body = $1 } NF > 1 { print $1, $2 == 200 ? body : $2 }' | sort -u
}

# Of the daemon: without the instances' own, which are looked at by name, and the numbers of log segments.
crash_look_files() {
  local line
  echo "== boot"
  sed -n 's/.*ND-.*--to-destination //p' "$DAEMON_DIR/state/net/rules.v4" | sort -u
  echo "== secret"
  ls "$DAEMON_DIR/run/secrets"
  echo "== file"
  (cd "$DAEMON_DIR" && find state run -not -path 'run/secrets/*' -not -path state/proxy/data -not -name answers.log) |
    sed -E 's/[0-9]{20}\.[a-z]+$/SEGMENT/; /nextdeploy.db-(wal|shm)$/d' | sort -u
  echo "== routes"
  ls "$DAEMON_DIR/state/proxy/routes/plain" "$DAEMON_DIR/state/proxy/routes/tls" | grep '\.test$' | sort
  echo "== mounts"
  awk -v own="$DAEMON_DIR/" -v host="$HOST_DIR/" '
    index($2, own) == 1 { daemon++ }
    index($2, host) == 1 && $3 == "overlay" { overlay++ }
    index($2, host "exec/netns/") == 1 { netns++ }
    END { print daemon + 0, "of the daemon,", overlay + 0, "file systems,", netns + 0, "network namespaces" }' /proc/self/mounts
}

# What containerd runs, whatever dockerd believes; children of the daemon; workers whose daemon is gone.
crash_look_processes() {
  ps -eo pid=,ppid=,comm=,args= | awk -v daemon="$DAEMON_PID" -v host="$HOST_DIR/" -v worker="$ND_BIN_DIR/nd-worker" '
    { name[$1] = $3; parent[$1] = $2; line[$1] = $0 }
    END {
      print "== shim"
      for (pid in name)
        if (name[pid] ~ /^containerd-shim/ && index(line[pid], host) && match(line[pid], /-id [0-9a-f]+/))
          print substr(line[pid], RSTART + 4, 64) | "sort -u"
      close("sort -u")
      print "== child"
      for (pid in name) if (parent[pid] == daemon) print name[pid]
      print "== worker"
      for (pid in name)
        if (name[pid] == "nd-worker" && index(line[pid], worker) && name[parent[pid]] !~ /^(nextdeployd|nd-worker)$/)
          print pid
    }'
}

# crash_look NAME...: takes the looks
crash_look() {
  local line section look
  for look; do
    while IFS= read -r line; do
      if [[ $line == "== "* ]]; then
        section=${line#== }
        seen[$section]=
      else
        seen[$section]+=${seen[$section]:+$'\n'}$line
      fi
    done < <("crash_look_$look")
  done
}

# So that they take no arguments.
crash_look_containers() { crash_look_docker "${seen[instance]}"; }
crash_look_apps() { crash_look_edge "$(cut -d' ' -f1 <<<"${seen[app]}")"; }

# No file is being written.
crash_is_written() { [[ -z $(find "$DAEMON_DIR/state" -name '*.new') ]]; }

CRASH_STEADY=(net.rule net.link network volume image file)

crash_baseline() {
  local name
  until_true 10 crash_is_written
  crash_run=
  crash_look database containers network files
  while [[ ${seen[file]} == *.new* ]]; do # it has just begun
    nap
    crash_look files
  done
  for name in "${CRASH_STEADY[@]}"; do base[$name]=${seen[$name]}; done
}

# ---- what must hold ----

# What was there before, and nothing else.
crash_as_ever() {
  local difference
  difference=$(diff <(echo "${base[$1]}") <(echo "${seen[$1]}") | grep '^[<>]')
  [[ -z $difference ]] || crash_problem "$1 (<: missing, >: too many): ${difference//$'\n'/ }"
}

crash_check_things() {
  local name running
  running=$(wc -w <<<"${seen[live]}")
  crash_same "who serves" "${seen[app]}" "${seen[edge]}"
  crash_same "containers" "${seen[instance]}" "${seen[container]}"
  crash_same "the containers of the instances" "${seen[id]}" "${seen[known]}"
  crash_same "containers that run" "${seen[live]}" "${seen[running]}"
  crash_same "restart policies" "${seen[policy]}" "${seen[restart]}"
  crash_same "containers' processes" "${seen[process]}" "${seen[shim]}"
  crash_same "mounts" "1 of the daemon, $running file systems, $running network namespaces" "${seen[mounts]}"
  crash_same "containers' links" "$running" "${seen[net.veths]}"
  crash_same "secrets" "${seen[instance]}" "${seen[secret]}"
  crash_same "jobs that are there" '' "${seen[job]}"
  crash_same "targets in netfilter" "${seen[target]}" "${seen[net.target]}"
  crash_same "targets in the rules for the next boot" "${seen[target]}" "${seen[boot]}"
  crash_same "proxy routes" "${seen[route]}" "${seen[routes]}"
  crash_same "children of the daemon" '' "${seen[child]}"
  crash_same "workers without a daemon" '' "${seen[worker]}"
  for name in "${CRASH_STEADY[@]}"; do crash_as_ever "$name"; done
}

# Some of it takes a moment to go: a shim, a file that is being written.
crash_things_hold() {
  local problems
  crash_look database containers network apps files processes
  problems=$(crash_check_things)
  [[ -z $problems ]]
}

crash_check_outcome() {
  if [[ $crash_state == done ]]; then
    crash_same "live after a run that is done" "$crash_next" "$(crash_live)"
    crash_same "instances after a run that is done" "$crash_count" "$(crash_instances)"
    [[ -z $crash_fails ]] || crash_problem "it can't succeed, and is done"
  else
    crash_same "live after a run that has failed" "$crash_was" "$(crash_live)"
    crash_same "instances after a run that has failed" "$crash_count_was" "$(crash_instances)"
  fi
}

crash_check_journal() {
  crash_same "integrity" ok "${seen[integrity]}"
  crash_same "effects without an answer" '' "${seen[unanswered]}"
  crash_same "answers given twice" '' "${seen[doubled]}"
  crash_same "releases and jobs made twice" '' "${seen[remade]}"
  [[ $crash_state =~ ^(done|none)$ ]] || crash_same "effects not undone" '' "${seen[due]}"
  crash_same "containers started twice" '' \
    "$(sort -u "$DAEMON_DIR/starts" | grep "^$crash_run/" | cut -d' ' -f1,2 | uniq -d)"
  [[ ! -e $DAEMON_DIR/counted ]] || crash_same "requests made twice" '' "$(sort "$DAEMON_DIR/counted" | uniq -d)"
  ndctl runs show "$crash_run" >"$DAEMON_DIR/story" 2>&1 || crash_problem "ndctl runs show: $(<"$DAEMON_DIR/story")"
  grep -qE 'done|failed|cancelled' "$DAEMON_DIR/story" || crash_problem "the story has no end: $(<"$DAEMON_DIR/story")"
}

crash_check() {
  [[ $crash_defined_s != - ]] || crash_problem "the state is not defined within 10 s"
  [[ $crash_ended_s != - ]] || crash_problem "the run has not ended within 60 s"
  crash_settled || crash_problem "it does not settle: $(crash_sql "SELECT number, state FROM release WHERE state <> 'gone'" | tr '\n' ' ')"
  until_true 10 crash_things_hold || crash_check_things
  crash_check_outcome
  crash_check_journal
}
