# shellcheck shell=bash
# host.sh - packages and a Docker Engine, for the quickstart and tests/run; source it.
#
#   packages_install NAME...     installs what is missing, with at most one `apt-get update`; a name
#                                may be "A|B": the first that this distribution has; "A|" is left
#                                out where it has none
#   docker_start STATE_DIR       makes sure that Docker answers; starts it where none runs (systemd,
#                                else by hand) and remembers in STATE_DIR what it did
#   docker_stop STATE_DIR        undoes docker_start, and nothing if Docker ran before
#
# A Docker started by hand keeps its data in STATE_DIR. Stopping it also takes down what dockerd
# leaves behind: the bridge docker0, its chains, the forwarding switch.

BUILD_PACKAGES=(gcc libc6-dev cmake ninja-build pkg-config musl-tools "node-llhttp|libllhttp-dev"
  libuv1-dev libcurl4-openssl-dev libssl-dev libsqlite3-dev libjansson-dev libwslay-dev
  zlib1g-dev liblua5.4-dev)
RUN_PACKAGES=(docker.io iptables iproute2 caddy openssl curl jq util-linux tzdata uacme)
TEST_PACKAGES=(libcmocka-dev "libluajit-5.1-dev|" lua5.4 lua-busted lua-check clang clang-format llvm
  "libclang-rt-dev|libclang-rt-18-dev" git docker-registry nginx python3 sqlite3 nftables conntrack procps
  zsh fish bash-completion mandoc prometheus strace age testssl.sh pebble systemd "chromium|")

package_installed() {
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

package_known() {
  [[ -n $(apt-cache --quiet=0 policy "$1" 2>/dev/null | grep 'Candidate: [^(]') ]]
}

# Prints the packages of "A|B" lists that have to be installed: nothing where one of them is there.
packages_missing() {
  local choice name
  for choice; do
    for name in ${choice//|/ }; do
      package_installed "$name" && continue 2
    done
    printf '%s\n' "$choice"
  done
}

packages_install() {
  local choice name missing wanted=()
  mapfile -t missing < <(packages_missing "$@")
  ((${#missing[@]} > 0)) || return 0
  if ! command -v apt-get >/dev/null; then
    printf 'these packages are needed, and there is no apt-get here: %s\n' "${missing[*]}" >&2
    return 1
  fi
  if ((EUID != 0)); then
    printf 'run as root, or install first: %s\n' "${missing[*]}" >&2
    return 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q || printf 'apt-get update failed; going on with the lists there are\n' >&2
  for choice in "${missing[@]}"; do
    for name in ${choice//|/ }; do
      if package_known "$name"; then
        wanted+=("$name")
        continue 2
      fi
    done
    [[ $choice != *'|' ]] || continue
    printf 'this distribution has no package %s\n' "${choice//|/ or }" >&2
    return 1
  done
  apt-get install -y -q --no-install-recommends "${wanted[@]}" || return 1
  # Under systemd these packages start a service each, on ports that they weren't installed for.
  [[ -d /run/systemd/system ]] || return 0
  for name in caddy nginx docker-registry prometheus; do
    [[ " ${wanted[*]} " != *" $name "* ]] || systemctl disable --now "$name"
  done
}

docker_chains() {
  local tool=$1 table=$2
  "$tool" -t "$table" -S 2>/dev/null | sed -n 's/^-N \(DOCKER[^ ]*\)$/\1/p'
}

docker_start() {
  local dir=$1 pid forwarding policy chains path new=()
  docker_up && return 0
  if ((EUID != 0)); then
    printf 'no Docker answers at %s, and only root can start one\n' "$docker_socket" >&2
    return 1
  fi
  mkdir -p "$dir"
  if [[ -d /run/systemd/system ]]; then
    systemctl start docker || return 1
    printf 'by=systemd\n' >"$dir/docker.env"
    until_true 60 docker_up
    return
  fi
  [[ $docker_socket == /var/run/docker.sock || $docker_socket == /run/docker.sock ]] || {
    printf 'no Docker answers at %s (DOCKER_HOST)\n' "$docker_socket" >&2
    return 1
  }
  forwarding=$(</proc/sys/net/ipv4/ip_forward)
  policy=$(iptables -S FORWARD 2>/dev/null | sed -n 's/^-P FORWARD //p')
  [[ -n $(docker_chains iptables filter) ]] && chains=kept || chains=ours
  for path in /run/docker /run/containerd; do
    [[ -e $path ]] || new+=("$path")
  done
  setsid dockerd --live-restore --data-root "$dir/docker" --exec-root /run/docker-nextdeploy \
    --pidfile /run/docker-nextdeploy.pid >"$dir/dockerd.log" 2>&1 </dev/null &
  pid=$!
  printf 'by=hand\npid=%s\nforwarding=%s\npolicy=%s\nchains=%s\nnew="%s"\n' "$pid" "$forwarding" \
    "$policy" "$chains" "${new[*]}" >"$dir/docker.env"
  if ! until_true 60 docker_up; then
    printf 'dockerd did not come up:\n' >&2
    tail -n 20 "$dir/dockerd.log" >&2
    docker_stop "$dir"
    return 1
  fi
}

# What a dockerd that has ended leaves in the kernel; $1: the policy that FORWARD had before.
docker_sweep() {
  local tool table chain rule
  for tool in iptables ip6tables; do
    for table in filter nat; do
      while read -r rule; do
        eval "$tool -w -t $table -D ${rule#-A }" 2>/dev/null
      done < <("$tool" -t "$table" -S 2>/dev/null | grep -E '^-A .*(DOCKER|docker0)')
      for chain in $(docker_chains "$tool" "$table"); do
        "$tool" -w -t "$table" -F "$chain"
      done
      for chain in $(docker_chains "$tool" "$table"); do
        "$tool" -w -t "$table" -X "$chain"
      done
    done
    "$tool" -w -P FORWARD "${1:-ACCEPT}"
  done 2>/dev/null
  ip link delete docker0 2>/dev/null
}

docker_stop() {
  local dir=$1 by='' pid='' forwarding='' policy='' chains='' new=''
  [[ -f $dir/docker.env ]] || return 0
  source "$dir/docker.env"
  if [[ $by == systemd ]]; then
    systemctl stop docker.socket docker
  elif [[ -n $pid ]]; then
    stop_process "$pid" 20
    [[ $chains == kept ]] || docker_sweep "$policy"
    [[ -z $forwarding ]] || printf '%s' "$forwarding" >/proc/sys/net/ipv4/ip_forward
    awk -v dir="$dir/docker" 'index($2, dir) == 1 {print $2}' /proc/mounts | tac | xargs -r umount
    rm -rf "$dir/docker" /run/docker-nextdeploy /run/docker-nextdeploy.pid
    rm -f "$docker_socket" "$dir/dockerd.log"
    rm -rf ${new:+$new}
  fi
  rm -f "$dir/docker.env"
}
