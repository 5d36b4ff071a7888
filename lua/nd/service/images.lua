-- Images: found on this host or pulled, and written down where they are ours: those that we pulled, and
-- those that a release of ours ran from. Only these may be removed (gc.lua).
--
--   images:pull(name, app, progress) -> Docker's description   used as it is where this host has it
--   images:of(app, release, progress?) -> the same, of the release's own image; where it is gone, by its
--                                      digest from where it came. Raises image_gone
--   images:check(app, release)         raises image_gone where `of` would not even try
--   images.digest(found, name) -> "repository@sha256:...", where a registry has it, or nil
--
-- What is being removed is not found: who asks for it meanwhile waits, and has it pulled again.

local clock = require "clock"
local task = require "task"
local err = require "nd.error"

local Images = {}
Images.__index = Images

function Images.new(d) return setmetatable({ d = d, removing = {}, removed = task.signal() }, Images) end

-- "registry:5000/shop:v1" -> "registry:5000/shop", without Docker's own host.
function Images.repository(name)
  local repository = name:gsub("@.*$", ""):gsub(":[^:/]*$", ""):gsub("^docker%.io/", ""):gsub("^library/", "")
  return repository
end

function Images.digest(found, name)
  local digests = found.RepoDigests or {}
  for _, digest in ipairs(digests) do
    if Images.repository(digest) == Images.repository(name) then return digest end
  end
  return digests[1]
end

-- The image `ref`, or nil. It is noted as used for the app under `name`: if it is ours (also by being
-- under way to us) or `becomes` so.
function Images:look(ref, name, app, becomes)
  local d, found = self.d, self.d.docker:image(ref)
  while found and self.removing[found.Id] do
    self.removed:wait()
    found = d.docker:image(ref)
  end
  if not found then return nil end
  d.store:post {
    { [[INSERT INTO image (id, name, app, used_at) SELECT ?1, ?2, ?3, ?4
      WHERE ?5 OR EXISTS (SELECT 1 FROM image WHERE id = ?1 OR id = '' AND name = ?2)
      ON CONFLICT DO UPDATE SET used_at = excluded.used_at]], found.Id, name, app.id, clock.now(), becomes and 1 or 0 },
    { "DELETE FROM image WHERE id = '' AND name = ? AND app = ?", name, app.id },
  }
  return found
end

-- That we pull it is written down before, since after a crash nobody could tell.
function Images:fetch(ref, name, app, progress)
  local d = self.d
  d.store:commit { { "INSERT OR REPLACE INTO image (id, name, app, used_at) VALUES ('', ?, ?, ?)",
    name, app.id, clock.now() } }
  d.docker:pull(ref, { auth = d.registries:auth(ref), progress = progress })
  return self:look(ref, name, app, true)
end

function Images:pull(name, app, progress)
  local found = self:look(name, name, app) or self:fetch(name, name, app, progress)
  if found then return found end
  err.raise("pull_failed", ("the image %s was pulled, and is gone again"):format(name), "somebody removes images here")
end

-- ---- of a release ----

-- The good release that served last of those whose image is here.
local function another(self, app, release)
  for _, other in ipairs(self.d.store:all([[SELECT number, image_id FROM release WHERE app = ? AND id <> ?
    AND id IS NOT (SELECT live FROM app WHERE id = release.app) AND was_healthy = 1 AND live_at IS NOT NULL
    ORDER BY live_at DESC LIMIT 20]], app.id, release.id)) do
    if self.d.docker:image(other.image_id) then return other.number end
  end
end

local function gone(self, app, release, why)
  local other = another(self, app, release)
  err.raise("image_gone", ("the image %s (%s) of release %d is no longer on this host, and %s"):format(release.image,
    release.digest or release.image_id, release.number, why or "it came from no registry"),
    (release.digest and "push it there again" or "build or `docker load` it again")
    .. (other and (", or go back to one that is here: `ndctl rollback %s --to %d`"):format(app.name, other)
      or (", or `ndctl deploy IMAGE --app %s`"):format(app.name)))
end

function Images:check(app, release)
  if not release.digest and not self.d.docker:image(release.image_id) then gone(self, app, release) end
end

function Images:of(app, release, progress)
  local found = self:look(release.image_id, release.image, app, true)
  if found then return found end
  if not release.digest then gone(self, app, release) end
  local ok, e = pcall(self.fetch, self, release.digest, release.image, app, progress)
  if not ok and (e.code == "cancelled" or e.code == "registry_denied" or e.code == "docker_unreachable") then
    error(e, 0)
  end
  found = ok and self:look(release.image_id, release.image, app, true)
  return found or gone(self, app, release, ok and "its registry has another by that digest"
    or "can't be pulled: " .. e.message)
end

return Images
