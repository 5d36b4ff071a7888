# shellcheck shell=bash
# lib.sh - what the shell tests, the benchmarks and the quickstart share; source it.
#
# Checks:     check NAME COMMAND...      prints "ok NAME" or "not ok NAME" with the command's output
#             expect NAME WANTED GOT     the same for a text
#             finish                     exits 0 if every check held
#             at_finish COMMAND...       more checks, made by `finish`
# Waiting:    until_true SECONDS COMMAND...   polls every 20 ms; 1 when the time is up
# Clean-up:   at_exit COMMAND...         runs at the end, last registered first, also after a failure
# Docker:     docker_api METHOD PATH [CURL-ARGUMENT...]   by the socket alone, no docker CLI needed
#             image_build TAG [DOCKERFILE-LINE...]        FROM scratch with nd-sample at /nd-sample
#             container_create NAME JSON | container_start | container_wait | container_output
#             container_remove | containers_named PREFIX
# JSON:       json FILTER [JQ-ARGUMENT...]   jq -r over stdin

ND_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
: "${ND_BIN_DIR:=$ND_ROOT/build/release/bin}"
: "${DOCKER_HOST:=unix:///var/run/docker.sock}"
docker_socket=${DOCKER_HOST#unix://}
: "${TMPDIR:=/tmp}"
checks_failed=0
exit_commands=()
last_checks=()

at_exit() {
  exit_commands+=("$(printf '%q ' "$@")")
}

at_finish() {
  last_checks+=("$(printf '%q ' "$@")")
}

run_exit_commands() {
  local status=$? i
  trap - EXIT INT TERM
  for ((i = ${#exit_commands[@]} - 1; i >= 0; i--)); do
    eval "${exit_commands[i]}" >/dev/null 2>&1
  done
  exit "$status"
}
trap run_exit_commands EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

check() {
  local name=$1 output
  shift
  if output=$("$@" 2>&1); then
    printf 'ok %s\n' "$name"
  else
    printf 'not ok %s\n%s\n' "$name" "$output" | sed '2,$s/^/    /'
    checks_failed=$((checks_failed + 1))
  fi
}

expect() {
  if [[ $2 == "$3" ]]; then
    printf 'ok %s\n' "$1"
  else
    printf 'not ok %s\n    wanted: %s\n    got:    %s\n' "$1" "$2" "$3"
    checks_failed=$((checks_failed + 1))
  fi
}

# expect_match NAME REGEX TEXT
expect_match() {
  if [[ $3 =~ $2 ]]; then
    printf 'ok %s\n' "$1"
  else
    printf 'not ok %s\n    wanted: %s\n    got:    %s\n' "$1" "$2" "$3"
    checks_failed=$((checks_failed + 1))
  fi
}

finish() {
  local last
  for last in "${last_checks[@]}"; do eval "$last"; done
  if ((checks_failed > 0)); then
    printf '%d failed\n' "$checks_failed"
    exit 1
  fi
  exit 0
}

now_ms() {
  local t=${EPOCHREALTIME/[.,]/}
  printf '%s' "${t%???}"
}

nap() {
  sleep "${1:-0.02}"
}

until_true() {
  local deadline=$((${EPOCHREALTIME/[.,]/} + $1 * 1000000))
  shift
  until "$@" >/dev/null 2>&1; do
    ((${EPOCHREALTIME/[.,]/} < deadline)) || return 1
    nap
  done
}

# R, S, D, T, Z; nothing where there is none
process_state() {
  local line
  { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
  line=${line##*) }
  printf '%s' "${line%% *}"
}

# PID 1 may reap late: a zombie has ended too, once no thread of it is left that holds its sockets open.
process_alive() {
  local state threads
  state=$(process_state "$1") || return 1
  [[ $state == Z ]] || return 0
  threads=(/proc/"$1"/task/*)
  ((${#threads[@]} > 1))
}

process_ended() {
  ! process_alive "$1"
}

# stop_process PID [SECONDS]: SIGTERM, and SIGKILL when that isn't enough.
stop_process() {
  process_alive "$1" || return 0
  kill "$1" 2>/dev/null
  until_true "${2:-10}" process_ended "$1" || kill -9 "$1" 2>/dev/null
}

free_port() {
  local port
  for port in "$@" $(shuf -i 20000-29999 -n 50); do
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      printf '%s' "$port"
      return
    fi
  done
  return 1
}

json() {
  jq -r "$@"
}

docker_api() {
  local method=$1 path=$2
  shift 2
  curl -sS --max-time 120 --unix-socket "$docker_socket" -X "$method" "http://docker$path" "$@"
}

docker_up() {
  [[ $(curl -s --max-time 2 --unix-socket "$docker_socket" http://docker/_ping) == OK ]]
}

# The Dockerfile's first lines are given; each further argument is a line after them.
image_build() {
  local tag=$1 dir answer
  shift
  dir=$(mktemp -d)
  cp "$ND_BIN_DIR/nd-sample" "$dir/"
  printf '%s\n' 'FROM scratch' 'COPY nd-sample /nd-sample' 'ENTRYPOINT ["/nd-sample"]' "$@" \
    >"$dir/Dockerfile"
  answer=$(tar -C "$dir" -c . | docker_api POST "/build?t=$tag&forcerm=1" \
    -H 'Content-Type: application/x-tar' --data-binary @-)
  rm -rf "$dir"
  if [[ $answer == *'"errorDetail"'* || $answer != *'Successfully tagged'* ]]; then
    printf 'building %s failed: %s\n' "$tag" "${answer:0:600}" >&2
    return 1
  fi
}

image_remove() {
  docker_api DELETE "/images/$1?force=1" -o /dev/null
}

container_create() {
  docker_api POST "/containers/create?name=$1" -H 'Content-Type: application/json' -d "$2" |
    json '.Id // ("error: " + .message)'
}

container_start() {
  docker_api POST "/containers/$1/start"
}

container_wait() {
  docker_api POST "/containers/$1/wait" | json .StatusCode
}

# What it printed; the 8 bytes before each frame are dropped.
container_output() {
  docker_api GET "/containers/$1/logs?stdout=1&stderr=1" |
    python3 -c '
import struct, sys
data = sys.stdin.buffer.read()
while len(data) >= 8:
    n = struct.unpack(">I", data[4:8])[0]
    sys.stdout.buffer.write(data[8:8 + n])
    data = data[8 + n:]'
}

# The ids of containers whose name begins with $1.
containers_named() {
  docker_api GET '/containers/json?all=1' | json --arg prefix "/${1:?a prefix}" \
    '.[] | select(.Names | any(startswith($prefix))) | .Id'
}

container_remove() {
  [[ -n $1 ]] || return 1
  docker_api DELETE "/containers/$1?force=1&v=1" -o /dev/null
}
