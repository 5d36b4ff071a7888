-- Errors as people and programs meet them: a stable code, what happened, what to do next.
-- `raise` is for the daemon's own Lua; the HTTP status and ndctl's exit code follow from the code.

local json = require "json"
local task = require "task"
local nearest = require "nd.recipe.nearest"

local M = {}

-- HTTP status -> the codes it is for; others are 500.
local codes = {
  [400] = "bad_request bad_json bad_param bad_params bad_config bad_recipe bad_argument bad_host bad_tls "
    .. "recipe_syntax bad_schedule bad_zone unknown_param bad_domain bad_port bad_proxy unknown_effect "
    .. "age_bad_header age_bad_armor bad_certificate bad_key",
  [401] = "unauthorized",
  [403] = "forbidden capability policy",
  [404] = "not_found app_not_found run_not_found recipe_not_found image_not_found release_not_found "
    .. "token_not_found docker_not_found job_not_found process_not_found instance_not_found "
    .. "registry_not_found route_not_found secret_not_found cert_not_found role_not_found person_not_found",
  [405] = "method_not_allowed",
  [406] = "not_acceptable",
  [409] = "run_conflict host_taken past_pivot run_ended exists nothing_to_roll_back app_not_live "
    .. "release_live release_unhealthy image_gone "
    .. "volume_in_use docker_conflict job_ended job_of_run port_taken idempotency_conflict not_waiting not_begun "
    .. "upgrade_refused secret_in_use secret_gone not_revealable cert_own role_in_use stale",
  [413] = "too_large body_too_large",
  [422] = "unhealthy deadline recipe_failed recipe_error start_failed cancelled stuck worker_died "
    .. "bad_frame recipe_memory recipe_stack too_many_effects too_much_log sandbox_killed engine_missing "
    .. "release_failed journal_damaged release_damaged canary_failed age_wrong_recipient age_truncated age_tampered "
    .. "age_unsupported",
  [429] = "too_many_guesses",
  [502] = "cert_failed docker_unreachable docker_error docker_refused docker_protocol docker_version proxy_down "
    .. "proxy_refused pull_failed registry_denied registry_unreachable netfilter_failed",
  [503] = "shutting_down busy",
  [504] = "timeout docker_timeout recipe_timeout recipe_cpu",
  [507] = "db_full secrets_full",
}
local status = {}
for http, names in pairs(codes) do
  for name in names:gmatch "%S+" do status[name] = http end
end

function M.status(code)
  return status[code] or (code:match "timeout$" and 504) or 500
end

-- How a run ended, for who waited for it: 422 unless the code says that a thing is missing, or that
-- somebody else didn't do his part. A recipe may raise any code it likes.
function M.run_status(code)
  local http = code == "internal" and 500 or M.status(code)
  return (http == 404 or http >= 502 or code == "internal") and http or 422
end

-- error{code=, message=, hint=, data=} as an object that prints itself.
function M.new(code, message, hint, data)
  return task.error { code = code, message = message, hint = hint, data = data }
end

function M.raise(code, message, hint, data)
  error(M.new(code, message, hint, data), 0)
end

-- Any error value as a plain table {code, message, hint?, data?}; a bug keeps its traceback. What the database
-- says where a row isn't any more what it was (`expect`, store.lua) is put into words.
function M.from(e)
  if type(e) == "table" and e.code == "stale" then
    return { code = "stale", message = "somebody else changed it at the same time, and was first: nothing was done",
      hint = "look at what it is now, and ask again if it is still to be done" }
  end
  if type(e) == "table" and type(e.code) == "string" then
    return { code = e.code, message = tostring(e.message or e.code), hint = e.hint, data = e.data,
      http = math.type(e.http) == "integer" and e.http or nil }
  end
  local text = tostring(type(e) == "table" and e.message or e)
  return { code = "internal", message = text:match "^[^\n]*", traceback = text }
end

local CODE, MESSAGE, HINT, DATA = 64, 16 * 1024, 4 * 1024, 64 * 1024 -- bytes

-- The same of what a recipe has sent as its error, which may be anything: `data` is a table or left out.
function M.of_recipe(e)
  e = type(e) == "table" and e or { message = e }
  local code, message, data = e.code, e.message, e.data
  return {
    code = type(code) == "string" and #code <= CODE and code:find "^[%w_.-]+$" and code or "recipe_error",
    message = type(message) == "string" and message:sub(1, MESSAGE) or "an error without a text",
    hint = type(e.hint) == "string" and e.hint:sub(1, HINT) or nil,
    data = type(data) == "table" and #json.encode(data) <= DATA and data or nil,
  }
end

-- The known name that is nearest to `name`, or nil when none is near.
M.nearest = nearest.of

return M
