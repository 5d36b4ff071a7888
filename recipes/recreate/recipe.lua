-- Recreate: the old version is stopped before the new one starts. For apps with a one-writer volume.

return recipe {
  summary = "Stop the old version, then start the new one: for volumes with one writer. Nothing serves in between.",
  gap     = "from the end of the old version until the new one is healthy",

  params = {
    app    = param.app { required = true, doc = "the app to deploy" },
    image  = param.image { required = true, doc = "what to deploy" },
    health = param.health { doc = "when it is healthy; otherwise as the app says" },
    drain  = param.duration { default = "5s", doc = "how long requests under way may take to end" },
    keep   = param.duration { default = "5m", doc = "how long the old version is kept for rollback" },
  },

  run = function(p)
    local image = docker.pull(p.image)              -- before the gap begins
    local old   = app.live(p.app)
    app.stop(old, { drain = p.drain })              -- the gap begins; its undo starts it again
    app.prepare(p.app, image)                       -- its release command, where it has one
    local new   = app.start(p.app, image)
    health.wait(new, p.health)
    pivot(app.switch, p.app, new)                   -- the gap ends
    app.retire(old, { drain = "0s", keep = p.keep })
  end,
}
