-- Effects on images.

local json = require "json"

-- {image, id, digest?}: what a recipe pins and app.start takes.
local function describe(name, found)
  local digests = found.RepoDigests
  return { image = name, id = found.Id,
    digest = digests and digests[1] and digests[1]:match "@(.*)$" or nil }
end

return {
  -- Present locally: used as it is. Otherwise pulled, with the layers' progress as events. Of a release
  -- that has no containers any more: its image, by digest.
  ["docker.pull"] = {
    version = 1, class = "read", planned = true, capability = "docker", args = { { "image", "name or release" } },
    label = function(image)
      if type(image) == "string" then return "pull " .. image end
      if image.state ~= "gone" then return "" end
      return ("have the image of release %d, %s"):format(image.release, image.image)
    end,
    deadline = function() return 60 * 60 * 1000 end,
    act = function(ctx, image)
      local function progress(p) ctx.progress(p.text, p.done, p.total) end
      if type(image) == "string" then
        return describe(image, ctx.d.images:pull(image, ctx.app, progress))
      end
      local release = ctx.d.releases:get(ctx.app, image.release)
      if release.state == "gone" then ctx.d.images:of(ctx.app, release, progress) end
      return { image = release.image, id = release.image_id }
    end,
    plan = function(ctx, image)
      if type(image) == "table" then
        local release = ctx.d.releases:get(ctx.app, image.release)
        if release.state == "gone" then ctx.d.images:check(ctx.app, release) end
        return { image = release.image, id = release.image_id }
      end
      local found = ctx.d.docker:image(image)
      return found and describe(image, found) or { image = image, id = "sha256:to-be-pulled" }
    end,
  },

  ["docker.inspect"] = {
    version = 1, class = "read", capability = "docker", args = { { "image", "text" } },
    label = function(image) return "look at " .. image end,
    act = function(ctx, image)
      local found = ctx.d.docker:image(image)
      return found and describe(image, found) or json.null
    end,
    plan = function(ctx, image)
      local found = ctx.d.docker:image(image)
      return found and describe(image, found) or json.null
    end,
  },
}
