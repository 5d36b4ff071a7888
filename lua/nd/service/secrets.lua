-- Secrets: values that a project's environment, or one app in it, has under a name, in versions.
--
-- They come encrypted to the agent (age), are decrypted once into memory for secrets, and stored as
-- seals that are bound to project, environment, app, name and version: no row can stand for another.
-- A value is a Lua string nowhere in the daemon. It leaves only as a file on a tmpfs (container.lua).
--
-- scope: {project, environment, app}; app "" is the whole environment, whose secrets all its apps have.
-- An app's own secret goes before one of the environment with the same name.
--
-- A release names the secrets it has, in its configuration, and pins their versions:
--   secrets {NAME = {as = "env"|"file"|"both", version, own = true where it is the app's own,
--     before = {{version, own}, ...} what a push has exchanged, which the program may still have}}

local clock = require "clock"
local db = require "db"
local fault = require "fault"
local fs = require "fs"
local json = require "json"
local log = require "log"
local secret = require "secret"
local err = require "nd.error"
local tasks = require "nd.tasks"
local Apps = require "nd.service.app"
local release_config = require "nd.service.release_config"

local MOST_BYTES = 1024 * 1024     -- of a value
local MOST_CIPHERTEXT = 2 * MOST_BYTES
local ENV_BYTES = 32 * 4096        -- NAME=value and its NUL, the most the kernel takes
local BATCH = 20                   -- rows of a step of the rotation
local FILE_MODE = 292              -- 0444: whoever the app runs as reads it; nobody else gets to the directory

local Secrets = {}
Secrets.__index = Secrets

function Secrets.new(d) return setmetatable({ d = d, lock = tasks.lock() }, Secrets) end

-- ---- names and scopes ----

function Secrets.check_name(name)
  if type(name) == "string" and #name <= 200 and name:find "^[%a_][%w_]*$" then return name end
  err.raise("bad_request", ("%s is not a name for a secret"):format(json.encode(name)),
    "a secret is named as an environment variable: letters, digits and _, not beginning with a digit")
end

-- {project?, environment?, app?} of a request
function Secrets.scope(request)
  local app = request.app or request.app_name
  return { project = Apps.check_name("a project", request.project or "default"),
    environment = Apps.check_name("an environment", request.environment or "production"),
    app = app and Apps.check_name("an app", app) or "" }
end

local function where_of(scope)
  return (scope.app ~= "" and "the app '%s' in " or "%s"):format(scope.app)
    .. ("%s/%s"):format(scope.project, scope.environment)
end

local function purpose(row)
  return ("secret %s %s %s %s %d"):format(row.project, row.environment, row.app == "" and "-" or row.app,
    row.name, row.version)
end

local COLUMNS = "id, project, environment, app, name, version, sealed IS NOT NULL AS there, bytes, is_text, "
  .. "copy IS NOT NULL AS revealable, created_at, created_by, removed_at, removed_by"

-- Without the value; `what`: its columns.
local function newest(self, scope, name, what)
  return self.d.store:get(([[SELECT %s FROM secret WHERE project = ? AND environment = ? AND app = ? AND name = ?
    ORDER BY version DESC LIMIT 1]]):format(what or COLUMNS), scope.project, scope.environment, scope.app, name)
end

-- As people see it: never the value.
local function shown(row)
  local function time(ms) return ms and clock.format(ms) or nil end
  return { name = row.name, project = row.project, environment = row.environment,
    app = row.app ~= "" and row.app or nil, version = row.version, bytes = row.bytes,
    binary = row.is_text == 0 or nil, revealable = row.revealable == 1 or nil,
    created_at = time(row.created_at), created_by = row.created_by, removed_at = time(row.removed_at),
    removed_by = row.removed_by }
end

local function not_found(self, scope, name)
  local names = {}
  for _, row in ipairs(self.d.store:all([[SELECT DISTINCT name FROM secret WHERE project = ? AND environment = ?
    AND app IN ('', ?) AND sealed IS NOT NULL]], scope.project, scope.environment, scope.app)) do
    names[#names + 1] = row.name
  end
  local near = err.nearest(name, names)
  err.raise("secret_not_found", ("there is no secret %s for %s"):format(name, where_of(scope)),
    near == name and "it belongs to the whole environment: leave the app out" or near
    and ("did you mean %s?"):format(near) or ("`ndctl secrets set %s` makes it"):format(name))
end

-- ---- reading ----

-- The secrets of a scope as they are now: of an app, those it would get; of an environment, all in it.
function Secrets:list(scope)
  local list = json.array {}
  for _, row in ipairs(self.d.store:all(([[SELECT %s FROM secret AS s WHERE project = ?1 AND environment = ?2
    AND (?3 = '' OR app IN ('', ?3)) AND sealed IS NOT NULL AND version = (SELECT max(version) FROM secret
    WHERE project = s.project AND environment = s.environment AND app = s.app AND name = s.name)
    ORDER BY name, app]]):format(COLUMNS), scope.project, scope.environment, scope.app)) do
    list[#list + 1] = shown(row)
  end
  return list
end

-- The app's own, else the environment's.
local function find(self, scope, name)
  local row = newest(self, scope, Secrets.check_name(name))
  if row and row.there == 1 then return row end
  if scope.app ~= "" then
    row = newest(self, { project = scope.project, environment = scope.environment, app = "" }, name)
  end
  return row and row.there == 1 and row or not_found(self, scope, name)
end

-- With `reveal`, also the text that was encrypted to its owner.
function Secrets:get(scope, name, reveal)
  local row = find(self, scope, name)
  local out = shown(row)
  if not reveal then return out end
  if row.revealable == 0 then
    err.raise("not_revealable", ("nobody can read %s back: it was encrypted to no one but the agent"):format(name),
      "`ndctl secrets owner` adds a key of yours; what is set from then on you can reveal")
  end
  out.copy = self.d.store:get("SELECT copy FROM secret WHERE id = ?", row.id).copy
  return out
end

function Secrets:history(scope, name)
  local list = json.array {}
  if scope.app ~= "" and not newest(self, scope, Secrets.check_name(name)) then
    scope = { project = scope.project, environment = scope.environment, app = "" }
  end
  for i, row in ipairs(self.d.store:all(([[SELECT %s FROM secret WHERE project = ? AND environment = ? AND app = ?
    AND name = ? ORDER BY version DESC]]):format(COLUMNS), scope.project, scope.environment, scope.app,
    Secrets.check_name(name))) do
    list[i] = shown(row)
  end
  return #list > 0 and list or not_found(self, scope, name)
end

-- The value of a row; the caller closes it.
function Secrets:open(row) return self.d.seal:open_secret(purpose(row), row.sealed) end

-- ---- writing ----

-- What secrets are encrypted to.
function Secrets:recipient()
  local identity <close> = self.d.seal:identities()
  return secret.recipient(identity)
end

-- Raises what is wrong with it, by its own code.
local function decrypt(self, name, text)
  if #text > MOST_CIPHERTEXT then
    err.raise("too_large", ("%s: a secret holds at most 1 MiB"):format(name), "keep what is larger in a volume")
  end
  local identity <close>, other = self.d.seal:identities()
  local before <close> = other
  local ok, value = pcall(secret.decrypt, { identity, before }, text, MOST_BYTES)
  if ok then return value end
  local code, hint = value.code, value.hint
  if code == "secret_too_large" then code = "too_large" end
  if code == "age_wrong_recipient" then
    hint = "encrypt it to the agent's key as it is now (GET /secrets/agent-key); ndctl does"
  end
  err.raise(code, ("%s: %s"):format(name, value.message), hint)
end

-- Whether the newest version is this value already.
local function same(self, row, value)
  if not row or not row.sealed then return false end
  local known <close> = self:open(row)
  return known:equal(value)
end

local INSERT = [[INSERT INTO secret (project, environment, app, name, version, sealed, bytes, is_text, copy,
  created_at, created_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)]]

-- -> {name, version, changed}, and the statement that stores it; the value of `text` is forgotten.
local function prepare(self, scope, name, text, copy, who)
  local value <close> = decrypt(self, Secrets.check_name(name), text)
  local row = newest(self, scope, name, "*")
  if same(self, row, value) then
    return { name = name, version = row.version, changed = false },
      copy and { "UPDATE secret SET copy = ? WHERE id = ?", copy, row.id } or nil
  end
  local fresh = { project = scope.project, environment = scope.environment, app = scope.app, name = name,
    version = (row and row.version or 0) + 1 }
  return { name = name, version = fresh.version, changed = true },
    { INSERT, fresh.project, fresh.environment, fresh.app, name, fresh.version,
      self.d.seal:close(purpose(fresh), value), #value, value:is_text() and 1 or 0, copy or db.null, clock.now(), who }
end

local function sorted(map)
  local names = {}
  for name in pairs(map) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function event(self, kind, scope, data)
  local app = scope.app ~= "" and self.d.apps:find(scope)
  data.project, data.environment = scope.project, scope.environment
  data.app_name = scope.app ~= "" and scope.app or nil
  return self.d.store:event(kind, app and app.id or nil, nil, data)
end

-- {NAME = age text} -> {{name, version, changed}, ...}. All of it is stored, or nothing. A value that is
-- what it was makes no version. copies: {NAME = the same encrypted to its owner}.
function Secrets:sync(scope, texts, copies, who)
  local _ <close> = self.lock:hold "write"
  local list, statements = json.array {}, {}
  for name in pairs(copies or {}) do
    if not texts[name] then err.raise("bad_request", ("copies: there is no secret %s beside it"):format(name)) end
    if #copies[name] > MOST_CIPHERTEXT then err.raise("too_large", ("copies: %s is larger than 2 MiB"):format(name)) end
  end
  for i, name in ipairs(sorted(texts)) do
    list[i], statements[#statements + 1] = prepare(self, scope, name, texts[name], copies and copies[name], who)
    if list[i].changed then
      statements[#statements + 1] = event(self, "secret.set", scope,
        { name = name, version = list[i].version, by = who })
    end
  end
  if #statements > 0 then self.d.store:try(statements) end
  return list
end

-- Of the apps of a scope: what is live, and where a run is under way what it deploys and may go back to.
local IN_USE = [[WITH scope AS (SELECT app.*, EXISTS (SELECT 1 FROM run WHERE run.app = app.id AND ended_at IS NULL)
    AS changing FROM app WHERE project = ?1 AND environment = ?2 AND ?3 IN ('', name))
  SELECT name, config, release.id IS live AS live FROM scope JOIN release ON release.app = scope.id
    WHERE release.id IS live OR changing AND state <> 'gone'
  UNION ALL SELECT name, spec, 0 FROM scope JOIN run ON run.app = scope.id
    WHERE ended_at IS NULL AND spec IS NOT NULL
  ORDER BY live DESC, name]]

-- The apps that have it: live, or else by a run that is under way.
local function users_of(self, scope, name)
  local live, changing, seen = {}, {}, {}
  for _, row in ipairs(self.d.store:all(IN_USE, scope.project, scope.environment, scope.app)) do
    local ok, config = pcall(json.decode, row.config)
    local pin = ok and (config.secrets or {})[name]
    if pin and (pin.own or false) == (scope.app ~= "") and not seen[row.name] then
      seen[row.name] = true
      table.insert(row.live == 1 and live or changing, row.name)
    end
  end
  return live, changing
end

local function check_unused(self, scope, name)
  local live, changing = users_of(self, scope, name)
  if #live > 0 then
    err.raise("secret_in_use", ("%s is in use: the live release of %s has it"):format(name, table.concat(live, ", ")),
      ("deploy that without it first, or `ndctl secrets set %s` with another value"):format(name))
  elseif #changing > 0 then
    err.raise("secret_in_use", ("%s is in use: the run under way of %s deploys it, or may go back to it"):format(name,
      table.concat(changing, ", ")), ("try again when it has ended: `ndctl runs list --app %s`"):format(changing[1]))
  end
end

-- Erases all versions. What is live, or may be once a run has ended, keeps it: refused.
function Secrets:remove(scope, name, who)
  local _ <close> = self.lock:hold "write"
  local row = newest(self, scope, Secrets.check_name(name))
  if not row or row.there == 0 then not_found(self, scope, name) end
  check_unused(self, scope, name)
  self.d.store:commit {
    { [[UPDATE secret SET sealed = NULL, copy = NULL, removed_at = ?, removed_by = ? WHERE project = ?
      AND environment = ? AND app = ? AND name = ? AND removed_at IS NULL]], clock.now(), who, scope.project,
      scope.environment, scope.app, name },
    event(self, "secret.removed", scope, { name = name, by = who }),
  }
  return shown(newest(self, scope, name))
end

-- Statement for an app that is destroyed: its own go with it.
function Secrets.forget(app)
  return { "DELETE FROM secret WHERE project = ? AND environment = ? AND app = ?", app.project, app.environment,
    app.name }
end

-- ---- releases ----

-- The row of a pin, with its value sealed.
local function pinned(self, app, name, pin)
  return self.d.store:get("SELECT * FROM secret WHERE project = ? AND environment = ? AND app = ? AND name = ? "
    .. "AND version = ?", app.project, app.environment, pin.own and app.name or "", name, pin.version)
end

local function gone(app, name, pin)
  err.raise("secret_gone", ("version %d of the secret %s, which '%s' had, was removed"):format(pin.version, name,
    app.name), ("`ndctl secrets set %s` makes a new one for the next deploy"):format(name))
end

local function check_fit(row, as)
  if as == "file" then return end
  local hint = ("deliver it as a file: --secret %s:file; the app then reads /run/secrets/%s"):format(row.name, row.name)
  if row.is_text == 0 then
    err.raise("bad_request", ("the secret %s has a zero byte: no environment variable can hold it"):format(
      row.name), hint)
  elseif #row.name + 2 + row.bytes > ENV_BYTES then
    err.raise("bad_request", ("the secret %s has %d bytes, more than an environment variable can hold"):format(row.name,
      row.bytes), hint)
  end
end

-- {NAME = {as}} -> the same with the newest versions. Raises secret_not_found, bad_request.
function Secrets:pin(app, wanted)
  local scope, pins = { project = app.project, environment = app.environment, app = app.name }, {}
  for _, name in ipairs(sorted(wanted)) do
    local row, as = find(self, scope, name), wanted[name].as
    check_fit(row, as)
    pins[name] = { as = as, version = row.version, own = row.app ~= "" or nil }
  end
  return pins
end

-- Raises secret_gone where a value isn't there any more.
function Secrets:check(app, pins)
  for name, pin in pairs(pins or {}) do
    local row = pinned(self, app, name, pin)
    if not row or not row.sealed then gone(app, name, pin) end
  end
end

-- The rows of pins.
function Secrets:rows(app, pins)
  local rows = {}
  for i, name in ipairs(sorted(pins)) do
    rows[i] = pinned(self, app, name, pins[name])
    if not rows[i] or not rows[i].sealed then gone(app, name, pins[name]) end
  end
  return rows
end

local function full(e, app)
  if e.code ~= "fs_full" then error(e, 0) end
  err.raise("secrets_full", ("the secrets of '%s' don't fit: those of all containers may have 64 MiB"):format(
    app.name), "deliver large files by a volume, or run fewer instances")
end

-- Has `dir`, which is on a tmpfs, hold these secrets, each exchanged as a whole; the manifest comes last,
-- without which nd-init starts nothing. What is there already isn't touched.
function Secrets:deliver(app, pins, dir)
  local lines = { "nextdeploy 1" }
  local rows = self:rows(app, pins)
  self.d.redaction:learn(app, rows)
  for _, row in ipairs(rows) do
    local value <close> = self:open(row)
    local ok, e = pcall(value.put, value, dir .. "/" .. row.name, FILE_MODE)
    if not ok then full(e, app) end
    fault.hit "secrets.delivering"
    lines[#lines + 1] = row.name .. " " .. pins[row.name].as
  end
  fs.write(dir .. "/.nextdeploy", table.concat(lines, "\n") .. "\n", FILE_MODE)
  if not self.d.audit then return end
  self.d.audit:note { operation = "secret.deliver", app = app, object = table.concat(sorted(pins), ","),
    detail = "to " .. dir:match "[^/]*$" }
end

-- What a pin of a running program would be now; nil where it is that already.
local function newer(self, app, name, pin)
  local row = find(self, { project = app.project, environment = app.environment, app = app.name }, name)
  local own = row.app ~= "" or nil
  if row.version == pin.version and own == pin.own then return nil end
  if pin.as ~= "env" then check_fit(row, pin.as) end -- a variable stays as it is
  local before = json.array(pin.before or {})
  before[#before + 1] = { version = pin.version, own = pin.own }
  return { as = pin.as, version = row.version, own = own, before = before }
end

-- Gives the live release of an app the newest versions of what it has as files, without a restart.
-- -> {{name, from, version, as}, ...} of those that are new, also of variables, which stay as they are
function Secrets:push(app, who)
  local d = self.d
  local _ <close> = d.traffic:hold(app)
  local live = d.releases:live(app)
  if not live then
    err.raise("app_not_live", ("'%s' has no live release"):format(app.name), "`ndctl status " .. app.name .. "`")
  end
  local config, list, files = release_config.of(live), json.array {}, false
  for _, name in ipairs(sorted(config.secrets or {})) do
    local pin = config.secrets[name]
    local now = newer(self, app, name, pin)
    if now then list[#list + 1] = { name = name, as = pin.as, from = pin.version, version = now.version } end
    if now and pin.as ~= "env" then config.secrets[name], files = now, true end
  end
  if files then
    d.store:commit {
      { "UPDATE release SET config = ? WHERE id = ?", json.encode(config), live.id },
      d.store:event("secrets.pushed", app.id, nil, { release = live.number, by = who }),
    }
    fault.hit "secrets.pushed"
  end
  d.instances:refill(app, d.releases:by_id(live.id))
  return list
end

-- ---- the agent's key ----

-- Seals a batch of rows of a table again; -> the last key of them, nil at its end.
local function again(self, sql, update, purpose_of, after)
  local _ <close> = self.lock:hold "write"
  local rows, statements = self.d.store:all(sql, after, BATCH), {}
  for _, row in ipairs(rows) do
    local sealed = self.d.seal:again(purpose_of(row), row.sealed)
    if sealed then statements[#statements + 1] = { update, sealed, row.key, row.sealed } end
  end
  if #statements > 0 then self.d.store:commit(statements) end
  fault.hit "rotate.batch"
  return #rows > 0 and rows[#rows].key or nil, #statements
end

local tables = {
  { after = 0, purpose = purpose, update = "UPDATE secret SET sealed = ? WHERE id = ? AND sealed = ?",
    sql = "SELECT *, id AS key FROM secret WHERE id > ? AND sealed IS NOT NULL ORDER BY id LIMIT ?" },
  { after = "", purpose = function(row) return "registry " .. row.host end,
    update = "UPDATE registry SET sealed = ? WHERE host = ? AND sealed = ?",
    sql = "SELECT *, host AS key FROM registry WHERE host > ? ORDER BY host LIMIT ?" },
}

-- Goes on with an exchange of the agent's key that was begun; does nothing where there is none.
function Secrets:finish_rotation(who)
  local d, count = self.d, 0
  if not d.seal:exchanging() then return 0 end
  for _, t in ipairs(tables) do
    d.store:commit {} -- what was sealed under the key before is on its way
    local after = t.after
    while after do
      local done
      after, done = again(self, t.sql, t.update, t.purpose, after)
      count = count + (done or 0)
    end
  end
  fault.hit "rotate.sealed"
  d.seal:end_exchange()
  d.store:commit { d.store:event("secrets.rotated", nil, nil, { by = who, recipient = self:recipient() }) }
  log.info(("the agent's key was exchanged; %d values were sealed again"):format(count))
  return count
end

-- A new key for the agent, and everything sealed again under it. -> how many values
function Secrets:rotate(who)
  local _ <close> = self.lock:hold "rotate"
  self:finish_rotation(who) -- of one that failed
  self.d.seal:begin_exchange()
  return self:finish_rotation(who)
end

-- At the daemon's start.
function Secrets:resume()
  local _ <close> = self.lock:hold "rotate"
  local ok, e = pcall(self.finish_rotation, self, "the start of the daemon")
  if not ok then log.error("the exchange of the agent's key is not over: " .. tostring(e)) end
end

return Secrets
