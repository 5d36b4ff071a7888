# shellcheck shell=bash
# stack.sh - a nextdeployd and a Caddy of one's own, for tests, benchmarks and the quickstart; source
# it after lib.sh.
#
#   stack_up DIR [NAME=VALUE...]   starts both with everything under DIR; the pairs are options of
#                                  nextdeployd.lua that go before the ones chosen here (free ports, a
#                                  free range). Sets stack_dir, stack_run, stack_socket, stack_http.
#   stack_nginx_start              starts nginx as its second proxy, on stack_nginx_http; for a stack
#                                  with the options nginx_http_port and nginx_https_port
#   stack_daemon_start             starts nextdeployd again, as it was
#   stack_down                     takes both down and removes all that the instance made
#   stack_daemon_stop [SIGNAL]     ... and waits for its end
#   api METHOD PATH [JSON]         a request at the unix door; prints the payload, 1 on an error
#   app_settled APP                true when no run is live and nothing drains any more
#   load ARGUMENT...               nd-load at the front door
#   load_begin FILE ARGUMENT...    the same in the background, its results to FILE; sets `loader`
#   load_end                       ... until now
#
# In tests: `stack_new` is stack_up in a temporary directory that is taken down at the end.

stack_flags=() # more words for the daemon's command line

stack_free_range() {
  local taken n
  taken=$(ip route show table all; docker_api GET /networks | json '.[].IPAM.Config[]?.Subnet')
  for n in $(shuf -i 202-250); do
    if [[ $taken != *10.$n.* ]]; then
      printf '10.%d.0.0/16' "$n"
      return
    fi
  done
  return 1
}

stack_write_config() {
  local name
  {
    printf 'return {\n'
    for name in $(printf '%s\n' "${!stack_options[@]}" | sort); do
      if [[ ${stack_options[$name]} =~ ^[0-9]+$ ]]; then
        printf '  %s = %s,\n' "$name" "${stack_options[$name]}"
      else
        printf '  %s = "%s",\n' "$name" "${stack_options[$name]}"
      fi
    done
    printf '}\n'
  } >"$stack_dir/nextdeployd.lua"
}

# The directory of sockets: a unix socket's path has at most 107 bytes.
stack_run_dir() {
  if ((${#stack_dir} < 70)); then
    printf '%s/run' "$stack_dir"
  else
    printf '/run/nextdeploy-%s' "$(cksum <<<"$stack_dir" | cut -d' ' -f1)"
  fi
}

stack_healthy() {
  curl -sf --max-time 2 --unix-socket "$stack_socket" http://nextdeploy/healthz
}

stack_pid() {
  cat "$stack_dir/$1.pid" 2>/dev/null || printf 0
}

stack_daemon_ready() {
  stack_healthy || process_ended "$(stack_pid nextdeployd)"
}

stack_daemon_start() {
  setsid "$ND_BIN_DIR/nextdeployd" --config "$stack_dir/nextdeployd.lua" "${stack_flags[@]}" \
    >>"$stack_dir/nextdeployd.log" 2>&1 </dev/null &
  printf '%d' $! >"$stack_dir/nextdeployd.pid"
  until_true 30 stack_daemon_ready && stack_healthy >/dev/null || {
    printf 'nextdeployd did not come up:\n' >&2
    tail -n 20 "$stack_dir/nextdeployd.log" >&2
    return 1
  }
}

stack_daemon_stop() {
  local pid
  pid=$(stack_pid nextdeployd)
  kill "-${1:-TERM}" "$pid" 2>/dev/null
  until_true 20 process_ended "$pid" || kill -9 "$pid"
}

stack_proxy_up() {
  curl -sf --max-time 2 "http://127.0.0.1:$stack_http/.nextdeploy/id"
}

stack_caddy_start() {
  local home=$stack_dir/state/proxy/home
  until_true 10 test -s "$stack_dir/state/proxy/caddy.json" || return 1
  mkdir -p "$home"
  HOME=$home XDG_DATA_HOME=$home XDG_CONFIG_HOME=$home setsid caddy run \
    --config "$stack_dir/state/proxy/caddy.json" >>"$stack_dir/caddy.log" 2>&1 </dev/null &
  printf '%d' $! >"$stack_dir/caddy.pid"
  until_true 20 stack_proxy_up || {
    printf 'Caddy did not come up:\n' >&2
    tail -n 5 "$stack_dir/caddy.log" >&2
    return 1
  }
}

stack_nginx_up() {
  curl -sf --max-time 2 "http://127.0.0.1:$stack_nginx_http/.nextdeploy/id"
}

stack_nginx_start() {
  stack_nginx_http=${stack_options[nginx_http_port]}
  "$(command -v nginx)" -c "$stack_dir/state/proxy/nginx/nginx.conf" || return 1 # by its path: it may exec itself
  until_true 20 stack_nginx_up
}

stack_nginx_stop() {
  [[ ! -s $stack_run/nginx/nginx.pid ]] || stop_process "$(cat "$stack_run/nginx/nginx.pid")"
}

stack_up() {
  local pair
  stack_dir=$1
  shift
  mkdir -p "$stack_dir"
  stack_run=$(stack_run_dir)
  declare -gA stack_options=([state_dir]=$stack_dir/state [run_dir]=$stack_run
    [docker_host]=unix://$docker_socket [recipe_dir]=$stack_dir/recipes [proxy_address]=127.0.0.1)
  for pair; do
    stack_options[${pair%%=*}]=${pair#*=}
  done
  : "${stack_options[listen]:=127.0.0.1:$(free_port)}"
  : "${stack_options[http_port]:=$(free_port)}"
  : "${stack_options[https_port]:=$(free_port)}"
  : "${stack_options[service_cidr]:=$(stack_free_range)}"
  stack_socket=$stack_run/nextdeployd.sock
  stack_http=${stack_options[http_port]}
  export NDCTL_HOST=unix://$stack_socket
  stack_write_config
  stack_daemon_start || return 1
  stack_instance=$(api GET /healthz | json .instance)
  stack_caddy_start
}

# The ids of the instance's containers.
stack_containers() {
  [[ -n ${stack_instance:-} ]] || return 0
  docker_api GET '/containers/json?all=1' | json --arg id "$stack_instance" \
    '.[] | select(.Labels["nextdeploy.instance"] == $id) | .Id'
}

# Everything of the instance, also when the daemon is dead.
stack_down() {
  local id
  stack_daemon_stop
  stop_process "$(stack_pid caddy)"
  stack_nginx_stop
  stack_containers | while read -r id; do container_remove "$id"; done
  "$ND_BIN_DIR/nextdeployd" --config "$stack_dir/nextdeployd.lua" --remove-network \
    >>"$stack_dir/nextdeployd.log" 2>&1
  while umount "$stack_run/secrets" 2>/dev/null; do :; done
  rm -rf "$stack_run"
}

stack_new() {
  local dir
  dir=$(mktemp -d /tmp/nd-stack.XXXXXX)
  chmod 755 "$dir"
  at_exit rm -rf "$dir"
  at_exit stack_down
  stack_up "$dir" "$@" || die "the daemon or its proxy did not start"
}

api() {
  local answer
  answer=$(curl -sS --max-time 180 --unix-socket "$stack_socket" -X "$1" "http://nextdeploy$2" \
    ${3:+-H 'Content-Type: application/json' -d "$3"}) || return 1
  if [[ $(jq -r .success <<<"$answer") == true ]]; then
    jq -c .payload <<<"$answer"
  else
    printf '%s\n' "$answer"
    return 1
  fi
}

app_settled() {
  [[ $(api GET "/apps/$1" | json '(.status == "running") and
    ([.releases[]? | select(.state == "draining")] | length == 0)') == true ]]
}

load() {
  "$ND_BIN_DIR/nd-load" --url "http://127.0.0.1:$stack_http/" "$@"
}

load_begin() {
  local file=$1
  shift
  "$ND_BIN_DIR/nd-load" --url "http://127.0.0.1:$stack_http/" "$@" >"$file" &
  loader=$!
  at_exit kill "$loader"
}

load_end() {
  kill "$loader"
  wait "$loader" || :
}
