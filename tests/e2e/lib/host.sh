# host.sh - a second Docker host on this machine, for tests that flush rules or kill dockerd.
#
# A network namespace of its own with a dockerd of its own: what happens to its netfilter rules,
# routes and containers leaves the machine's own alone. Source it; every function takes the host's
# name first (letters and digits, at most 8: it becomes part of names and paths).
#
#   host_up NAME        makes it and starts dockerd; sets HOST_DIR and HOST_DOCKER (a socket path)
#   host_in NAME CMD…   runs a command in its network namespace (Docker's socket in DOCKER_HOST)
#   host_dockerd NAME   starts dockerd again after host_kill_dockerd
#   host_kill_dockerd NAME [SIGNAL]
#   host_down NAME      removes all of it; safe to call twice and when host_up failed half-way
#
# Not `ip netns exec`, which mounts a new /sys and hides the cgroups from dockerd. No sleeps: every
# wait polls a condition with a deadline.

# The data is not under /tmp, which may be a tmpfs that overlay2 can't use.
HOST_ROOT=${HOST_ROOT:-/var/tmp/nd-hosts}

host_paths() {
  HOST_DIR=$HOST_ROOT/$1
  HOST_DOCKER=$HOST_DIR/docker.sock
}

# host_wait SECONDS CMD…: until CMD succeeds.
host_wait() {
  local until=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || { echo "host.sh: gave up waiting for: $*" >&2; return 1; }
    read -rt 0.02 <> <(:) || :
  done
}

# A process is gone when it is a zombie too: PID 1 may reap late.
host_gone() {
  local state
  state=$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null) || return 0
  [ -z "$state" ] || [ "$state" = Z ] || [ "$state" = X ]
}

host_in() {
  host_paths "$1"
  shift
  DOCKER_HOST=unix://$HOST_DOCKER nsenter --net="/run/netns/$(basename "$HOST_DIR")" -- "$@"
}

host_dockerd() {
  host_paths "$1"
  local n
  n=$(cat "$HOST_DIR/number")
  rm -f "$HOST_DIR/dockerd.pid"
  host_in "$1" setsid dockerd --live-restore --data-root "$HOST_DIR/data" --exec-root \
    "$HOST_DIR/exec" -H "unix://$HOST_DOCKER" --bip "172.30.$n.1/24" --cgroup-parent "/$1" \
    --pidfile "$HOST_DIR/dockerd.pid" >>"$HOST_DIR/dockerd.log" 2>&1 </dev/null &
  host_wait 30 docker -H "unix://$HOST_DOCKER" version ||
    { tail -5 "$HOST_DIR/dockerd.log" >&2; return 1; }
}

host_kill_dockerd() {
  host_paths "$1"
  local pid
  pid=$(cat "$HOST_DIR/dockerd.pid" 2>/dev/null) || return 0
  kill -"${2:-TERM}" "$pid" 2>/dev/null || return 0
  host_wait 20 host_gone "$pid"
}

# host_up NAME [WITH_UPLINK]: with an uplink the host has a default route, through a veth whose
# other end stays silent; without one it has loopback and Docker's bridge only.
host_up() {
  host_paths "$1"
  host_down "$1" 2>/dev/null
  mkdir -p "$HOST_DIR" || return 1
  # A number nobody else uses: the first free 172.30.N.0/24.
  local n=1
  while ! mkdir "$HOST_ROOT/.number-$n" 2>/dev/null; do
    n=$((n + 1))
    [ $n -lt 250 ] || return 1
  done
  echo $n >"$HOST_DIR/number"
  ip netns add "$1" || return 1
  host_in "$1" ip link set lo up
  host_in "$1" sysctl -qw net.ipv4.ip_forward=1
  if [ -n "$2" ]; then
    host_in "$1" ip link add up0 type veth peer name up1
    host_in "$1" ip addr add 192.0.2.10/24 dev up0
    host_in "$1" ip link set up0 up
    host_in "$1" ip link set up1 up
    host_in "$1" ip route add default via 192.0.2.1
  fi
  host_dockerd "$1"
}

host_down() {
  host_paths "$1"
  [ -d "$HOST_DIR" ] || return 0
  if [ -S "$HOST_DOCKER" ]; then
    local ids
    ids=$(docker -H "unix://$HOST_DOCKER" ps -aq 2>/dev/null)
    [ -z "$ids" ] || docker -H "unix://$HOST_DOCKER" rm -f $ids >/dev/null 2>&1
  fi
  host_kill_dockerd "$1" || host_kill_dockerd "$1" KILL
  # containerd is a child that live-restore leaves behind.
  local pid=$(cat "$HOST_DIR/exec/containerd/containerd.pid" 2>/dev/null)
  if [ -n "$pid" ]; then
    kill "$pid" 2>/dev/null
    host_wait 10 host_gone "$pid" || kill -KILL "$pid"
  fi
  grep -F "$HOST_DIR/" /proc/self/mounts | awk '{print $2}' | sort -r |
    while read -r m; do umount "$m" || umount -l "$m"; done
  ip netns del "$1" 2>/dev/null
  rmdir "$HOST_ROOT/.number-$(cat "$HOST_DIR/number" 2>/dev/null)" 2>/dev/null
  rm -rf "$HOST_DIR"
  rmdir "$HOST_ROOT" 2>/dev/null
  return 0
}
