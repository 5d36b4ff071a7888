-- Canary: some get the new version first; it goes on with more only where what it answers is good.

return recipe {
  summary = "Send a small part of the traffic to the new version, watch its answers, go back where they are bad.",

  params = {
    app     = param.app { required = true, doc = "the app to deploy" },
    image   = param.image { required = true, doc = "what to deploy" },
    health  = param.health { doc = "when it is healthy; otherwise as the app says" },
    steps   = param.list { of = "number", default = { 5 }, doc = "percent of the traffic, one step after the other" },
    watch   = param.duration { default = "5m", doc = "how long each step is watched" },
    errors  = param.number { default = 2, min = 0, max = 100, doc = "percent of its answers that may be 5xx" },
    latency = param.duration { doc = "what 95 % of its answers may take; otherwise anything" },
    least   = param.integer { default = 20, min = 1, doc = "errors that end a step early; answers, for the latency" },
    drain   = param.duration { default = "30s", doc = "how long old connections may take to end" },
    keep    = param.duration { default = "5m", doc = "how long the old version is kept for rollback" },
  },

  run = function(p)
    local old   = app.live(p.app)
    local image = docker.pull(p.image)
    app.prepare(p.app, image)                                      -- its release command, where it has one
    local new   = app.start(p.app, image)
    health.wait(new, p.health)
    local limits = { errors = p.errors, latency = p.latency, least = p.least, health = p.health }
    for _, percent in ipairs(old and p.steps or {}) do
      app.shift(p.app, new, { weight = percent, drain = p.drain }) -- its undo gives everything back to the old
      health.watch(new, p.watch, limits)                           -- raises with what was wrong
    end
    pivot(app.switch, p.app, new)                                  -- from here on only forward
    app.retire(old, { drain = p.drain, keep = p.keep })
  end,
}
