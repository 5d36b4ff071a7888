# shellcheck shell=bash
# second_host.sh - a second Docker host on this machine, for tests that flush rules or kill dockerd.
#
# A network namespace of its own with a dockerd of its own: what happens to its netfilter rules,
# routes and containers leaves the machine's own alone. Source it after tests/lib.sh. Every function
# takes the host's name first (letters and digits, at most 8: it becomes part of names and paths).
#
#   host_up NAME [lan]   makes it and starts dockerd; sets HOST_DIR and HOST_SOCKET (Docker's).
#                        With `lan` it has a network card, 192.0.2.10, and a default route to a
#                        neighbour 192.0.2.1 in the namespace NAMEl; else loopback and Docker alone
#   host_in NAME CMD…    runs a command in its network namespace, with DOCKER_HOST set
#   host_dockerd NAME    starts dockerd again after host_kill_dockerd
#   host_kill_dockerd NAME [SIGNAL]
#   host_down NAME       removes all of it; safe to call twice, and when host_up failed half-way
#
# Not `ip netns exec`, which mounts a new /sys and hides the cgroups from dockerd.

# The data is not under /tmp, which may be a tmpfs that overlay2 can't use.
HOST_ROOT=${HOST_ROOT:-/var/tmp/nd-hosts}
# Without it containers end with dockerd.
HOST_LIVE_RESTORE=${HOST_LIVE_RESTORE---live-restore}

host_paths() {
  HOST_DIR=$HOST_ROOT/$1
  HOST_SOCKET=$HOST_DIR/docker.sock
}

host_in() {
  host_paths "$1"
  local name=$1
  shift
  DOCKER_HOST=unix://$HOST_SOCKET nsenter --net="/run/netns/$name" -- "$@"
}

host_answers() {
  [[ $(curl -s --max-time 2 --unix-socket "$HOST_SOCKET" http://docker/_ping) == OK ]]
}

host_dockerd() {
  host_paths "$1"
  # dockerd takes a containerd that PID 1 hasn't reaped yet for a living one.
  local pid
  pid=$(cat "$HOST_DIR/exec/containerd/containerd.pid" 2>/dev/null)
  [[ -z $pid ]] || process_alive "$pid" || rm -f "$HOST_DIR/exec/containerd/containerd.pid"
  rm -f "$HOST_DIR/dockerd.pid"
  host_in "$1" setsid dockerd $HOST_LIVE_RESTORE --data-root "$HOST_DIR/data" \
    --exec-root "$HOST_DIR/exec" -H "unix://$HOST_SOCKET" --pidfile "$HOST_DIR/dockerd.pid" \
    --bip "172.30.$(cat "$HOST_DIR/number").1/24" --cgroup-parent "/$1" \
    >>"$HOST_DIR/dockerd.log" 2>&1 </dev/null &
  disown
  until_true 30 host_answers || {
    tail -5 "$HOST_DIR/dockerd.log" >&2
    return 1
  }
}

host_kill_dockerd() {
  host_paths "$1"
  local pid
  pid=$(cat "$HOST_DIR/dockerd.pid" 2>/dev/null) || return 0
  kill -"${2:-TERM}" "$pid" 2>/dev/null || return 0
  until_true 20 process_ended "$pid" || return 1
  [[ ${2:-} != KILL ]] || host_kill_containerd
}

# A killed dockerd takes its containerd with it, in a moment.
host_kill_containerd() {
  local pid
  pid=$(cat "$HOST_DIR/exec/containerd/containerd.pid" 2>/dev/null) || return 0
  kill -KILL "$pid" 2>/dev/null
  until_true 20 process_ended "$pid"
}

host_lan() {
  ip netns add "${1}l" || return 1
  host_in "$1" ip link add up0 type veth peer name up1
  host_in "$1" ip link set up1 netns "${1}l"
  host_in "$1" ip addr add 192.0.2.10/24 dev up0
  host_in "$1" ip link set up0 up
  ip -n "${1}l" addr add 192.0.2.1/24 dev up1
  ip -n "${1}l" link set lo up
  ip -n "${1}l" link set up1 up
  host_in "$1" ip route add default via 192.0.2.1
  ip -n "${1}l" route add default via 192.0.2.10
}

host_up() {
  host_down "$1" 2>/dev/null
  host_paths "$1"
  mkdir -p "$HOST_DIR" || return 1
  # The first free 172.30.N.0/24.
  local n=1
  until mkdir "$HOST_ROOT/.number-$n" 2>/dev/null; do
    n=$((n + 1))
    ((n < 250)) || return 1
  done
  echo $n >"$HOST_DIR/number"
  ip netns add "$1" || return 1
  host_in "$1" ip link set lo up
  [[ -z ${2:-} ]] || host_lan "$1" || return 1
  host_dockerd "$1"
}

host_down() {
  host_paths "$1"
  [[ -d $HOST_DIR ]] || return 0
  local ids pid m
  if host_answers; then
    ids=$(curl -s --unix-socket "$HOST_SOCKET" 'http://docker/containers/json?all=1' |
      grep -o '"Id":"[0-9a-f]*"' | cut -d'"' -f4)
    for pid in $ids; do
      curl -s -X DELETE --unix-socket "$HOST_SOCKET" "http://docker/containers/$pid?force=1"
    done
  fi
  host_kill_dockerd "$1" || host_kill_dockerd "$1" KILL
  # With --live-restore dockerd leaves its containerd running.
  pid=$(cat "$HOST_DIR/exec/containerd/containerd.pid" 2>/dev/null)
  if [[ -n $pid ]] && process_alive "$pid"; then
    kill "$pid" 2>/dev/null
    until_true 10 process_ended "$pid" || kill -KILL "$pid"
  fi
  # Containers that no dockerd knows any more: their shims name this host's directory.
  for pid in $(pgrep -f "^/usr/bin/containerd-shim.* -address $HOST_DIR/"); do
    kill -KILL $(pgrep -P "$pid") "$pid" 2>/dev/null
  done
  grep -F " $HOST_DIR/" /proc/self/mounts | cut -d' ' -f2 | sort -r | while read -r m; do
    umount "$m" || umount -l "$m"
  done
  ip netns del "$1" 2>/dev/null
  ip netns del "${1}l" 2>/dev/null
  for m in $(find /sys/fs/cgroup -maxdepth 2 -type d -name "$1"); do
    find "$m" -depth -type d -exec rmdir {} + 2>/dev/null
  done
  rmdir "$HOST_ROOT/.number-$(cat "$HOST_DIR/number" 2>/dev/null)" 2>/dev/null
  rm -rf "$HOST_DIR"
  rmdir "$HOST_ROOT" 2>/dev/null
  return 0
}
