# shellcheck shell=bash
# peers.sh - what people use to deploy one app on one host, set up fairly; source it after lib.sh.
#
# Each peer has NAME_start (sets `peer_url` and `peer_prefix`, the command prefix that the load
# generator needs), NAME_deploy VERSION (returns when the peer's own command would) and NAME_stop. All
# run the same sample image, wait for the same /health, and let the old version finish.
#
#   shell  a careful deploy script: start the new container, wait until it is healthy, point nginx's
#          upstream at it, check the configuration, reload, stop the old container
#   swarm  Docker Swarm, update order start-first, endpoint_mode dnsrr (there is no IPVS on many
#          hosts), behind an nginx on the overlay network that asks Docker's DNS every second. In a
#          network namespace and a dockerd of its own, since `swarm init` changes the whole engine.

peer_dir=$(mktemp -d /tmp/nd-bench.XXXXXX)
chmod 755 "$peer_dir"
at_exit rm -rf "$peer_dir"
peer_id=nd-bench-$$
nginx_pid=''

# nginx_conf UPSTREAM-LINES LOCATION-LINES PORT
nginx_conf() {
  cat <<END
daemon off;
worker_processes 2;
pid $peer_dir/nginx.pid;
error_log $peer_dir/nginx.log;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path $peer_dir/body; proxy_temp_path $peer_dir/proxy;
  fastcgi_temp_path $peer_dir/f; uwsgi_temp_path $peer_dir/u; scgi_temp_path $peer_dir/s;
  keepalive_requests 1000000;
  map \$http_upgrade \$upstream_connection { default upgrade; '' close; }
  $1
  server {
    listen 127.0.0.1:$3;
    location / {
      $2
      proxy_http_version 1.1;
      proxy_set_header Host \$host;
      proxy_set_header Upgrade \$http_upgrade;
      proxy_set_header Connection \$upstream_connection;
      proxy_read_timeout 60s;
    }
  }
}
END
}

container_address() {
  docker_api GET "/containers/$1/json" | json --arg network "$2" \
    '.NetworkSettings.Networks[$network].IPAddress'
}

healthy() {
  [[ $(curl -s -o /dev/null -w '%{http_code}' --max-time 1 "http://$1:8080/health") == 200 ]]
}

sample_spec() {
  jq -nc --arg image "$peer_id:app" --arg version "$1" --arg network "$peer_id" \
    '{Image: $image, Env: ["VERSION=\($version)"], HostConfig: {NetworkMode: $network}}'
}

# --- a shell script with nginx ------------------------------------------------------------------

shell_start() {
  docker_api POST /networks/create -H 'Content-Type: application/json' -o /dev/null \
    -d "{\"Name\":\"$peer_id\",\"IPAM\":{\"Config\":[{\"Subnet\":\"172.29.77.0/24\"}]}}"
  at_exit shell_stop
  image_build "$peer_id:app" || return 1
  shell_port=$(free_port)
  shell_old=''
  peer_url=http://127.0.0.1:$shell_port/
  peer_prefix=()
}

# What people write, each step checked, and nothing waited for that they wouldn't wait for.
shell_deploy() {
  local name=$peer_id-$1 address
  container_create "$name" "$(sample_spec "$1")" >/dev/null
  container_start "$name"
  address=$(container_address "$name" "$peer_id")
  until_true 10 healthy "$address" || return 1
  nginx_conf "upstream app { server $address:8080; }" "proxy_pass http://app;" "$shell_port" \
    >"$peer_dir/nginx.conf"
  if [[ -z $nginx_pid ]]; then
    nginx -e "$peer_dir/nginx.log" -c "$peer_dir/nginx.conf" 2>/dev/null &
    nginx_pid=$!
    until_true 10 curl -s -o /dev/null "$peer_url"
  else
    nginx -e "$peer_dir/nginx.log" -c "$peer_dir/nginx.conf" -t 2>/dev/null || return 1
    nginx -e "$peer_dir/nginx.log" -c "$peer_dir/nginx.conf" -s reload 2>/dev/null
  fi
  if [[ -n $shell_old ]]; then
    docker_api POST "/containers/$shell_old/stop?t=10"
    container_remove "$shell_old"
  fi
  shell_old=$name
}

shell_stop() {
  [[ -z $nginx_pid ]] || stop_process "$nginx_pid"
  nginx_pid=''
  containers_named "$peer_id-" | while read -r id; do container_remove "$id"; done
  docker_api DELETE "/networks/$peer_id" -o /dev/null
  image_remove "$peer_id:app"
}

# --- Docker Swarm -------------------------------------------------------------------------------

# Swarm asks the image's registry first: this one refuses at once, and it goes on with what is there.
swarm_image=127.0.0.1:9/nd-bench-app

swarm_api() {
  docker_socket=$peer_dir/docker.sock docker_api "$@" -H 'Content-Type: application/json'
}

swarm_start() {
  local space=$peer_id answer
  at_exit swarm_stop
  ip netns add "$space" || return 1
  ip -n "$space" link set lo up
  ip -n "$space" link add nd-a type veth peer name nd-b
  ip -n "$space" addr add 10.213.0.1/24 dev nd-a
  ip -n "$space" link set nd-a up
  ip -n "$space" link set nd-b up
  ip -n "$space" route add default dev nd-a
  setsid nsenter --net="/run/netns/$space" dockerd --data-root "$peer_dir/docker" \
    --exec-root "/run/$space" --pidfile "$peer_dir/docker.pid" -H "unix://$peer_dir/docker.sock" \
    --bip 172.29.78.1/24 --cgroup-parent "/$space" >"$peer_dir/dockerd.log" 2>&1 </dev/null &
  swarm_pid=$!
  docker_socket=$peer_dir/docker.sock until_true 30 docker_up || return 1
  docker_socket=$peer_dir/docker.sock image_build "$swarm_image" || return 1
  answer=$(swarm_api POST /swarm/init \
    -d '{"ListenAddr":"10.213.0.1:2377","AdvertiseAddr":"10.213.0.1"}')
  [[ $answer == '"'* ]] || { printf 'swarm init: %s\n' "$answer" >&2; return 1; }
  swarm_api POST /networks/create -o /dev/null -d '{"Name":"bench","Driver":"overlay",
    "Attachable":true,"CheckDuplicate":true,"IPAM":{"Config":[{"Subnet":"10.214.0.0/24"}]}}'
  # nginx runs in the network of a container that does nothing else.
  swarm_api POST '/containers/create?name=proxy' -o /dev/null \
    -d "{\"Image\":\"$swarm_image\",\"Env\":[\"PORT=9999\"],
         \"HostConfig\":{\"NetworkMode\":\"bench\"}}"
  swarm_api POST /containers/proxy/start
  swarm_service=''
  peer_url=http://127.0.0.1:8080/
  swarm_proxy=$(swarm_api GET /containers/proxy/json | json .State.Pid)
  peer_prefix=(nsenter -t "$swarm_proxy" -n)
}

swarm_spec() {
  jq -nc --arg image "$swarm_image" --arg version "$1" '{Name: "app",
    TaskTemplate: {ContainerSpec: {Image: $image, Env: ["VERSION=\($version)"],
        StopGracePeriod: 10000000000}, Networks: [{Target: "bench"}], ForceUpdate: 0},
    Mode: {Replicated: {Replicas: 1}}, EndpointSpec: {Mode: "dnsrr"},
    UpdateConfig: {Parallelism: 1, Order: "start-first", Monitor: 1000000, Delay: 0}}'
}

swarm_running() {
  [[ $(swarm_api GET "/tasks?filters=%7B%22service%22:%5B%22app%22%5D%7D" |
    json --arg env "VERSION=$1" '[.[] | select(.Status.State == "running")]
      | length == 1 and .[0].Spec.ContainerSpec.Env[0] == $env') == true ]]
}

swarm_serves() {
  "${peer_prefix[@]}" curl -s -o /dev/null -f --max-time 1 "$peer_url"
}

swarm_deploy() {
  local version
  if [[ -z $swarm_service ]]; then
    swarm_service=$(swarm_api POST /services/create -d "$(swarm_spec "$1")" | json .ID)
    until_true 30 swarm_running "$1" || return 1
    nginx_conf '' 'resolver 127.0.0.11 valid=1s; set $app app; proxy_pass http://$app:8080;' 8080 \
      >"$peer_dir/nginx.conf"
    "${peer_prefix[@]}" nginx -e "$peer_dir/nginx.log" -c "$peer_dir/nginx.conf" 2>/dev/null &
    nginx_pid=$!
    until_true 15 swarm_serves
    return
  fi
  version=$(swarm_api GET "/services/$swarm_service" | json .Version.Index)
  swarm_api POST "/services/$swarm_service/update?version=$version" -d "$(swarm_spec "$1")" \
    -o /dev/null
  until_true 30 swarm_running "$1"
}

swarm_stop() {
  [[ -z $nginx_pid ]] || stop_process "$nginx_pid"
  nginx_pid=''
  swarm_api DELETE "/services/$swarm_service" -o /dev/null
  swarm_api POST '/swarm/leave?force=1' -o /dev/null
  swarm_api DELETE '/containers/proxy?force=1' -o /dev/null
  stop_process "$swarm_pid" 20
  for ns in "/run/$peer_id/netns"/*; do umount "$ns"; done
  ip netns delete "$peer_id"
  rm -rf "/run/$peer_id"
  for group in /sys/fs/cgroup/*/"$peer_id" "/sys/fs/cgroup/$peer_id"; do
    find "$group" -depth -type d -exec rmdir {} +
  done
}
