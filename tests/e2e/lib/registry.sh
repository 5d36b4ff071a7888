# shellcheck shell=bash
# registry.sh - a private registry on loopback that asks for a password; source it after daemon.sh and
# daemon_new.
#
#   registry_start             starts it; sets REGISTRY (127.0.0.1:PORT), REGISTRY_USER, REGISTRY_PASSWORD
#   registry_push IMAGE NAME   puts a local image there as $REGISTRY/NAME, and takes that tag away again

REGISTRY_USER=robot
REGISTRY_PASSWORD='open sesame'

registry_start() {
  local dir=$DAEMON_DIR/registry port
  port=$(free_port)
  REGISTRY=127.0.0.1:$port
  mkdir -p "$dir"
  # bcrypt, which is all that the registry takes, at its cheapest.
  perl -e 'print "$ARGV[0]:", crypt($ARGV[1], "\$2b\$04\$nextdeploynextdeploynu"), "\n"' "$REGISTRY_USER" \
    "$REGISTRY_PASSWORD" >"$dir/htpasswd"
  cat >"$dir/config.yml" <<END
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $dir/data}}
http: {addr: $REGISTRY}
auth: {htpasswd: {realm: nextdeploy, path: $dir/htpasswd}}
END
  "${DAEMON_WRAP[@]}" docker-registry serve "$dir/config.yml" >"$dir/log" 2>&1 </dev/null &
  at_exit stop_process $!
  until_true 10 "${DAEMON_WRAP[@]}" curl -s -o /dev/null "http://$REGISTRY/v2/" || die "the registry does not start: $(tail -3 "$dir/log")"
}

registry_push() {
  local auth answer
  auth=$(jq -cn --arg u "$REGISTRY_USER" --arg p "$REGISTRY_PASSWORD" --arg a "$REGISTRY" \
    '{username: $u, password: $p, serveraddress: $a}' | base64 -w0 | tr '+/' '-_')
  docker_api POST "/images/$1/tag?repo=$REGISTRY/${2%:*}&tag=${2#*:}"
  answer=$(docker_api POST "/images/$REGISTRY/${2%:*}/push?tag=${2#*:}" -H "X-Registry-Auth: $auth")
  image_remove "$REGISTRY/$2"
  [[ $answer != *errorDetail* ]] || { printf '%s\n' "$answer" >&2; return 1; }
}
