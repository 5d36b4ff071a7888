-- What a plan would change: the app as it would be afterwards, held against what it is.
--
--   changes.of(d, request, after) -> list of {field, from, to}, empty where nothing would be another
--       request: of runs:start; after: what the effects of the plan noted, see plan.lua
-- A release that is started anew with the image and the configuration of the live one is no change:
-- one asks what would be another, not how much work there is.

local json = require "json"
local release_config = require "nd.service.release_config"

local M = {}

local UNKNOWN = "sha256:to-be-pulled" -- as docker.pull's plan says

local function add(list, field, from, to)
  local a, b = from ~= nil and json.encode(from) or nil, to ~= nil and json.encode(to) or nil
  if a ~= b then list[#list + 1] = { field = field, from = from, to = to } end
end

local function add_config(list, old, new)
  local names = {}
  for name in pairs(old) do names[#names + 1] = name end
  for name in pairs(new) do
    if old[name] == nil then names[#names + 1] = name end
  end
  table.sort(names)
  for _, name in ipairs(names) do add(list, name, old[name], new[name]) end
end

local function add_release(list, old, new)
  local id = new.image_id
  if new.id and new.id ~= old.id then add(list, "release", old.number, new.number) end
  add(list, "image", old.image, new.image)
  add(list, "digest", old.image_id, id == UNKNOWN and "known when it is pulled" or id)
  add_config(list, old.config and release_config.of(old) or {}, json.decode(new.config))
end

-- What is live and doesn't serve would do so again.
local function add_status(list, d, app)
  local status = d.apps:status(app).status
  if status ~= "updating" then add(list, "status", status, "running") end
end

function M.of(d, request, after)
  local list, app = json.array {}, request.app
  local live, stays = d.releases:live(app), after.live == nil
  if after.live then
    add_release(list, live or {}, after.live)
    if live and after.live.id ~= live.id then add_status(list, d, app) end
  elseif live and not stays then
    add(list, "release", live.number, nil)
  end
  if request.tags then
    local tags = app.tags and json.decode(app.tags) or json.array {}
    local wanted = table.move(request.tags, 1, #request.tags, 1, json.array {})
    table.sort(wanted)
    add(list, "tags", tags, wanted)
  end
  for _, what in ipairs(after.outside) do add(list, "outside", nil, what) end
  return list
end

return M
