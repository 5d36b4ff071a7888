-- Effects on images.

local json = require "json"

-- {image, id, digest?}: what a recipe pins and app.start takes.
local function describe(name, found)
  local digests = found.RepoDigests
  return { image = name, id = found.Id,
    digest = digests and digests[1] and digests[1]:match "@(.*)$" or nil }
end

return {
  -- Present locally: used as it is. Otherwise pulled, with the layers' progress as events.
  ["docker.pull"] = {
    version = 1, class = "read", planned = true, capability = "docker", args = { { "image", "text" } },
    label = function(image) return "pull " .. image end,
    act = function(ctx, image)
      local docker = ctx.d.docker
      local found = docker:image(image)
      if not found then
        ctx.intend()
        docker:pull(image, { auth = ctx.d.registries:auth(image), progress = function(p)
          ctx.progress(p.text, p.done, p.total)
        end })
        found = docker:image(image)
      end
      return describe(image, found)
    end,
    plan = function(ctx, image)
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
