-- Rolling: the new version takes the place of the old instance by instance, or batch by batch.

return recipe {
  summary = "Replace the old instances by new ones, a batch at a time.",

  params = {
    app      = param.app { required = true, doc = "the app to deploy" },
    image    = param.image { required = true, doc = "what to deploy" },
    replicas = param.integer { min = 1, max = 20, doc = "how many instances of web; otherwise as the app says" },
    batch    = param.integer { default = 1, min = 1, max = 20, doc = "how many instances of a process at a time" },
    pause    = param.duration { default = "0s", doc = "how long all new ones must stay healthy after each batch" },
    health   = param.health { doc = "when they are healthy; otherwise as the app says" },
    drain    = param.duration { default = "30s", doc = "how long old connections may take to end" },
    keep     = param.duration { default = "5m", doc = "how long the old version is kept for rollback" },
  },

  run = function(p)
    local old   = app.live(p.app)
    local batch = old and p.batch or 20                                -- nothing to replace: all at once
    local image = docker.pull(p.image)
    app.prepare(p.app, image)                                          -- its release command, where it has one
    local new   = app.start(p.app, image, { instances = batch, replicas = p.replicas })
    health.wait(new, p.health)
    for count = batch, new.replicas - 1, batch do
      app.shift(p.app, new, { instances = count, drain = p.drain })    -- its undo starts the old ones again
      health.watch(new, p.pause, { health = p.health })
      health.wait(app.grow(new, nil, count + batch), p.health)         -- the next, without traffic
    end
    pivot(app.switch, p.app, new)                                      -- the last batch; from here on only forward
    app.retire(old, { drain = p.drain, keep = p.keep })
  end,
}
