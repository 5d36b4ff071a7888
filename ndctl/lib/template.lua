-- lib/template.lua - what `ndctl recipe new` writes.

local recipe = [[
return recipe {
  summary = "Start the new version beside the old, switch when it is healthy.",
  params = {
    app    = param.app { required = true },
    image  = param.image { required = true },
    health = param.health { path = "/", interval = "1s", deadline = "60s" },
    drain  = param.duration "30s",
    keep   = param.duration "5m",
  },

  run = function(p)
    local blue  = app.live(p.app)
    local image = docker.pull(p.image)
    local green = app.start(p.app, image)   -- taken back by itself if a later step fails
    health.wait(green, p.health)
    pivot(app.switch, p.app, green)         -- from here on only forward
    app.retire(blue, { drain = p.drain, keep = p.keep })
  end,
}
]]

local readme = [[
# NAME

What it does, when to use it, and when not.

    ndctl recipe check ./NAME
    ndctl run recipe ./NAME --app web --image nginx:1.28 --plan
    ndctl run recipe ./NAME --app web --image nginx:1.28
]]

-- Returns {file = content} for a recipe called `name`.
return function(name)
  return {
    ["recipe.lua"] = recipe,
    ["README.md"] = (readme:gsub("NAME", name)),
  }
end
