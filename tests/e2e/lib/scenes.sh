# shellcheck shell=bash
# scenes.sh - what crash.sh plays: a shipped recipe in a situation, small and fast.
#
# A scene "RECIPE/KIND" is the function scene_RECIPE_KIND. It brings the app to where the scene begins, and sets
# what to ask for and what is to come of it:
#   crash_app crash_recipe crash_params   the run; params as JSON
#   crash_next     the version that is live once it is done; unless set, the one that is live before
#   crash_count    how many instances of it, likewise
#   crash_keeps    1: another release may be kept in the end
#   crash_fails    1: undisturbed it fails
#   crash_approves 1: somebody approves of it, whenever it waits for that
#
#   crash_set_scene SCENE | crash_scene_over | crash_ask [wait]
#   crash_apps         the apps that scenes need beside `shop`
#   crash_scenes NAME  sets crash_scene_names, those of a recipe; one that has none here gets two where it deploys
#                      an image; 1: it doesn't

FAST='drain: "0s", keep: "0s"'
SICK='health: {path: "/status?code=500", interval: "50ms", deadline: "300ms", failures: 1}'

# Apps with a volume that has one writer, and a release command; that is scaled; of two instances; an image that is
# healthy only at first; and what counts the requests of effects.
crash_apps() {
  crash_deployed depot '{"volumes": ["nd-crash-depot:/data"], "release": ["job", "/data/ran", "once", "0", "0"],
    "params": {"drain": "0s", "keep": "0s"}}'
  crash_deployed press
  crash_deployed fleet '{"replicas": 2}'
  image_build nd-crash:fades 'ENV UNHEALTHY_AFTER_MS=2500 VERSION=fades PORT=8080' || die "no image"
  crash_counter_port=$(free_port)
  "${DAEMON_WRAP[@]}" python3 "$ND_ROOT/tests/fault/counter.py" "$crash_counter_port" "$DAEMON_DIR/counted" \
    >/dev/null 2>&1 </dev/null &
  crash_counter=$!
  disown
  at_exit kill "$crash_counter"
}

# crash_version APP
crash_version() {
  crash_sql "SELECT substr(image, 10) FROM release WHERE id = (SELECT live FROM app WHERE name = '${1:-$crash_app}')"
}

crash_live() { crash_version "$crash_app"; }

crash_instances() {
  crash_sql "SELECT count(*) FROM instance WHERE gone_at IS NULL AND release = (SELECT live FROM app WHERE name = '$crash_app')"
}

crash_set_scene() {
  crash_scene=$1 crash_next='' crash_count='' crash_keeps='' crash_fails='' crash_approves=''
  "scene_${1/\//_}"
  crash_was=$(crash_live)
  crash_count_was=$(crash_instances)
  : "${crash_next:=$crash_was}" "${crash_count:=$crash_count_was}"
  if [[ -n $crash_approves ]]; then
    crash_approve &
    crash_approver=$!
    disown
  fi
}

crash_scene_over() {
  [[ -z ${crash_approver:-} ]] || kill "$crash_approver"
  crash_approver=
  local number
  for number in $(crash_sql "SELECT number FROM release WHERE state = 'kept' AND app = (SELECT id FROM app WHERE name = '$crash_app')"); do
    crash_run_now "$(jq -cn --arg app "$crash_app" --argjson n "$number" '{recipe: {name: "sweep", files: {"recipe.lua":
      "return recipe { params = { n = param.integer {}, app = param.app {} }, run = function(p) app.remove(app.release(p.app, p.n)) end }"}},
      app_name: $app, params: {n: $n}}')"
  done
}

crash_approve() {
  local id
  while nap 0.1 && process_alive $$; do
    id=$(crash_last_run)
    api POST "/runs/$id/approve" -o /dev/null
  done 2>/dev/null
}

# A run that is no part of the scene.
crash_run_now() {
  api POST '/runs?wait=true' -d "$1" >"$DAEMON_DIR/out"
  [[ $(json .success "$DAEMON_DIR/out") == true ]] || crash_problem "before the scene: $(<"$DAEMON_DIR/out")"
}

crash_ask() {
  api POST "/runs${1:+?wait=true}" -d "$(jq -cn --argjson recipe "$crash_recipe" --arg app "$crash_app" \
    --argjson params "$crash_params" '{recipe: $recipe, app_name: $app, params: $params}')"
}

# crash_asks APP RECIPE PARAMS [JQ-ARGUMENT...]; PARAMS as jq writes an object
crash_asks() {
  crash_app=$1 crash_recipe="\"$2\"" crash_params=$(jq -cn "${@:4}" "{$3}")
}

# The version that APP does not run.
crash_other() {
  if [[ $(crash_version "$1") == v1 ]]; then echo v2; else echo v1; fi
}

crash_deploys() {
  crash_next=$(crash_other "$1")
  crash_asks "$1" "$2" "image: \"nd-crash:$crash_next\", $3"
}

# crash_fails_to_deploy APP RECIPE PARAMS [VERSION]
crash_fails_to_deploy() {
  crash_fails=1
  crash_asks "$1" "$2" "image: \"nd-crash:${4:-bad}\", $3"
}

# ---- the shipped recipes ----

scene_bluegreen_good() { crash_deploys shop bluegreen "$FAST"; }
scene_bluegreen_bad() { crash_fails_to_deploy shop bluegreen "$FAST"; }
scene_bluegreen_slow() { crash_deploys shop bluegreen 'drain: "300ms", keep: "300ms"'; }
scene_bluegreen_approve() { crash_deploys shop bluegreen "approve: true, $FAST" && crash_approves=1; }
scene_bluegreen_kept() { crash_deploys shop bluegreen 'drain: "0s", keep: "10m"' && crash_keeps=1; }

scene_rolling_good() { crash_deploys fleet rolling "$FAST"; }
scene_rolling_bad() { crash_fails_to_deploy fleet rolling "$FAST"; }
scene_rolling_late() { crash_fails_to_deploy fleet rolling "$FAST, pause: \"5s\"" fades; } # after the first batch

scene_canary_good() { crash_deploys shop canary "$FAST, watch: \"300ms\""; }
scene_canary_bad() { crash_fails_to_deploy shop canary "$FAST"; }
scene_canary_late() { crash_fails_to_deploy shop canary "$FAST, watch: \"5s\"" fades; } # while it is watched

scene_recreate_good() { crash_deploys depot recreate "$FAST"; }
scene_recreate_bad() { crash_fails_to_deploy depot recreate "$FAST"; }

# crash_rolls_back APP RECIPE KEEP PARAMS: back from a release that RECIPE has just deployed
crash_rolls_back() {
  local before
  before=$(crash_version "$1")
  crash_run_now "{\"recipe\": \"$2\", \"app_name\": \"$1\", \"params\": {\"drain\": \"0s\", \"keep\": \"$3\",
    \"image\": \"nd-crash:$(crash_other "$1")\"}}"
  crash_app=$1
  [[ $3 == 0s ]] || crash_keeps=1
  until_true 20 crash_settled
  crash_asks "$1" rollback "$4"
  [[ -n $crash_fails ]] || crash_next=$before
}

scene_rollback_good() { crash_rolls_back shop bluegreen 0s "$FAST"; } # from the image
scene_rollback_kept() { crash_rolls_back shop bluegreen 10m "$FAST"; }
scene_rollback_bad() { crash_fails=1 && crash_rolls_back shop bluegreen 0s "$FAST, $SICK"; }
scene_rollback_keptbad() { crash_fails=1 && crash_rolls_back shop bluegreen 10m "$FAST, $SICK"; }
scene_rollback_gap() { crash_rolls_back depot recreate 0s "$FAST"; } # a volume with one writer
scene_rollback_gapbad() { crash_fails=1 && crash_rolls_back depot recreate 0s "$FAST, $SICK"; }

crash_scales() {
  crash_app=press
  if [[ $(crash_instances) != "$1" ]]; then
    crash_run_now "{\"recipe\": \"scale\", \"app_name\": \"press\", \"params\": {\"replicas\": $1, \"drain\": \"0s\"}}"
  fi
  crash_asks press scale "replicas: $2, drain: \"0s\"${3:+, $3}"
  [[ -n $crash_fails ]] || crash_count=$2
}

scene_scale_up() { crash_scales 1 2; }
scene_scale_down() { crash_scales 2 1; }
scene_scale_bad() { crash_fails=1 && crash_scales 1 2 "$SICK"; }

scene_healthcheck_good() { crash_asks shop healthcheck ''; }
scene_healthcheck_bad() { crash_fails=1 && crash_asks shop healthcheck "$SICK"; }

# ---- what no shipped recipe asks for ----

crash_tours() {
  crash_asks shop tour "image: \"nd-crash:$(crash_other shop)\", url: \"http://127.0.0.1:$crash_counter_port/\", fails: $1"
  crash_recipe=$(jq -cn --rawfile text "$ND_ROOT/tests/fault/tour.lua" '{name: "tour", files: {"recipe.lua": $text}}')
}

scene_tour_good() { crash_tours false && crash_next=$(crash_other shop); }
scene_tour_bad() { crash_fails=1 && crash_tours true; }

# ---- all scenes of a recipe ----

crash_scenes_of() { declare -F | sed -nE "s/^declare -f scene_$1_/$1\//p"; }

crash_scenes() {
  local params
  crash_scene_names=$(crash_scenes_of "$1")
  [[ -z $crash_scene_names ]] || return 0
  params=$(api GET "/recipes/$1" | json '.payload.params as $p | if ($p | map(.name) | index("image")) then
    [$p[] | select(.kind == "duration") | "\(.name): \"0s\""] | join(", ") else error("") end') 2>/dev/null || return 1
  eval "scene_$1_good() { crash_deploys shop $1 '$params'; }; scene_$1_bad() { crash_fails_to_deploy shop $1 '$params'; }"
  crash_scene_names=$(crash_scenes_of "$1")
}
