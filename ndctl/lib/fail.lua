-- lib/fail.lua - errors of ndctl and the exit status of every outcome.
--
-- An error is a table {code, message, hint?, data?, http?}: `http` is the status of the answer that
-- carried it, `run` is set where a run that was followed ended badly, `exit` where a command has a
-- status of its own for it. Exit statuses: 0 done,
-- 1 failed, 2 usage, 3 not allowed, 4 not found, 5 conflict, 6 unhealthy or timed out,
-- 7 daemon unreachable, 130 interrupted.

local fail = {}

local meta = { __tostring = function(e) return e.message or e.code end }

function fail.new(code, message, hint)
  return setmetatable({ code = code, message = message, hint = hint }, meta)
end

-- Raises; the caller's position is of no use to the person who reads it.
function fail.raise(code, message, hint)
  error(fail.new(code, message, hint), 0)
end

function fail.usage(message, hint)
  fail.raise("usage", message, hint)
end

local by_code = {
  usage = 2, config = 2, cancelled = 130, declined = 1, unreachable = 7, lost = 7,
  not_allowed = 3, unauthorized = 3, forbidden = 3, capability = 3, run_conflict = 5,
  host_taken = 5, volume_in_use = 5, release_live = 5, nothing_to_roll_back = 5, past_pivot = 5, image_gone = 1,
  run_ended = 5, not_waiting = 5, not_begun = 5, job_ended = 5, job_of_run = 5, unhealthy = 6, not_found = 4,
  recipe_syntax = 2,
  registry_denied = 3, canary_failed = 6, age_bad_recipient = 2, age_bad_identity = 2,
}

local by_http = { [400] = 2, [401] = 3, [403] = 3, [404] = 4, [409] = 5, [429] = 3, [504] = 6 }

-- What a bad release looks like when its run fails: it never served, whatever the reason.
local bad_release = {
  unhealthy = true, image_not_found = true, start_failed = true, exited = true, crashed = true,
  oom_killed = true, release_failed = true, docker_refused = true, registry_denied = true, pull_failed = true,
}

function fail.status(err)
  local code = err.code or ""
  if err.exit then return err.exit end
  if err.run and (bad_release[code] or err.bad_release) then return 6 end
  if by_code[code] then return by_code[code] end
  if code:find("^bad_") then return 2 end
  if code:find("timeout", 1, true) or code:find("deadline", 1, true)
    or code:find("unhealthy", 1, true) then
    return 6
  end
  if err.http and by_http[err.http] then return by_http[err.http] end
  if err.run then return 1 end
  if code:find("_not_found$") or code:find("^unknown_") then return 4 end
  if code:find("_conflict$") or code:find("_taken$") then return 5 end
  return 1
end

return fail
