# shellcheck shell=bash
# secrets.sh - what a container has of secrets, as the host's root sees it, and where values leak to; source
# it after daemon.sh.
#
#   instance APP          sets `container` and `pid`, of its first instance
#   variable NAME         of its environment
#   file NAME             the path by which the host reads its /run/secrets/NAME
#   runs APP | redacts    whether it runs, as Docker says too | whether what it prints is redacted
#   run_of APP            its last run
#   leaks FILE [DIR...]   where a value of FILE (a line each) is found: the state directory, the daemon's log,
#                         these directories, docker inspect, arguments of all processes, and the environment
#                         of all but the containers of the app shop

instance() {
  container=$(ndctl status "$1" --json | json '.instances[0].container_id')
  pid=$(docker_api GET "/containers/$container/json" | json .State.Pid)
}
variable() { tr '\0' '\1' <"/proc/$pid/environ" | tr '\1' '\n' | sed -n "s/^$1=//p"; }
file() { printf '/proc/%s/root/run/secrets/%s' "$pid" "$1"; }
runs() { [[ $(ndctl status "$1" --json | json '.status') == running ]] && instance "$1" && [[ $pid -gt 0 ]]; }
run_of() { ndctl status "$1" --json | json .run_id; }
redacts() { [[ $(ndctl exec shop -- /nd-sample env) == *'DB_PASSWORD=[redacted]'* ]]; }

leaks() {
  local values=$1 id found own=/proc/0/environ
  shift
  cp -a "$DAEMON_DIR/state" "$DAEMON_DIR/backup"
  grep -rlaFf "$values" "$DAEMON_DIR/state" "$DAEMON_DIR/backup" "$DAEMON_DIR/log" "$@" 2>/dev/null
  rm -rf "$DAEMON_DIR/backup"
  for id in $(docker_api GET '/containers/json?all=1' | json '.[].Id'); do
    found=$(docker_api GET "/containers/$id/json")
    grep -qaFf "$values" <<<"$found" && echo "docker inspect $id"
    [[ $(json '.Config.Labels["nextdeploy.app"]' <<<"$found") == shop ]] &&
      own+=$'\n'"/proc/$(json .State.Pid <<<"$found")/environ"
  done
  grep -lsaFf "$values" /proc/[0-9]*/cmdline /proc/[0-9]*/environ | grep -vxF "$own"
}
