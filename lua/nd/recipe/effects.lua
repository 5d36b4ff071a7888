-- Every effect that a recipe can ask for: what the stubs in the worker are made from, and what the
-- daemon's own table is checked against.
--
-- A row: name, version, class, arguments. The class is "read" (leaves nothing behind), "act", or
-- "special" (the scheduler's own). An argument is "name", or { "name", kind }, with "?" after the
-- name where it may be left out; the kind says what becomes of it on its way out:
--   duration   seconds or "30s" -> whole milliseconds
--   size       bytes or "1GiB" -> bytes
--   health     a health check -> the same with durations in milliseconds
--   { field = kind, ... }   a table, some of whose fields are of these kinds
-- Everything else goes as it is and is checked by the daemon. An argument that is left out before
-- one that isn't travels as null.

local http_options = { timeout = "duration", connect_timeout = "duration" }
local retire_options = { drain = "duration", keep = "duration" }
local stop_options = { drain = "duration", grace = "duration" }
local watch_limits = { latency = "duration", health = "health" }

return {
  -- apps and their releases
  { "app.live", 1, "read", { "app" } },
  { "app.previous", 1, "read", { "app" } },
  { "app.release", 1, "read", { "app", "number?" } },
  { "app.prepare", 1, "act", { "app", "image" } },
  { "app.start", 1, "act", { "app", "image", { "options?", { grace = "duration" } } } },
  { "app.activate", 1, "act", { "release" } },
  { "app.switch", 1, "act", { "app", "release" } },
  { "app.retire", 1, "act", { "release?", { "options?", retire_options } } },
  { "app.stop", 1, "act", { "release?", { "options?", stop_options } } },
  { "app.remove", 1, "act", { "release" } },
  { "app.shift", 1, "act", { "app", "release", { "options", { drain = "duration" } } } },
  { "app.grow", 1, "act", { "release", "process?", "replicas" } },
  { "app.scale", 1, "act", { "release", "process", "replicas" } },
  { "app.trim", 1, "act", { "release", "process", { "options?", stop_options } } },
  -- images
  { "docker.pull", 1, "act", { "image" } },
  { "docker.inspect", 1, "read", { "image" } },
  -- health
  { "health.wait", 1, "read", { "release", { "health?", "health" }, { "settle?", "duration" } } },
  { "health.watch", 1, "read", { "release", { "time", "duration" }, { "limits?", watch_limits } } },
  { "health.check", 1, "read", { "release", { "health?", "health" } } },
  -- people
  { "approval.wait", 1, "read", { "what" } },
  -- the world
  { "http.request", 1, "act", { { "request", http_options } } },
  { "time.sleep", 1, "read", { { "ms", "duration" } } },
  { "time.now", 1, "read", {} },
  { "uuid", 1, "read", {} },
  -- what the library itself asks for
  { "undo.set", 1, "special", { "label", "effect?", "args?" } },
  { "task.cancel", 1, "special", { "selection" } }, -- { tasks = ids }: these and all below them
  { "task.rollback", 1, "special", { "selection" } },
}
