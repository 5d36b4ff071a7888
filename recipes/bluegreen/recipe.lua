-- Blue-green: the new version is started beside the old, and traffic moves when it is healthy.

return recipe {
  summary = "Start the new version beside the old, switch when it is healthy, keep the old for rollback.",

  params = {
    app     = param.app { required = true, doc = "the app to deploy" },
    image   = param.image { required = true, doc = "what to deploy" },
    health  = param.health { doc = "when it is healthy; otherwise as the app says" },
    settle  = param.duration { default = "0s", doc = "how long it must stay healthy before the switch" },
    approve = param.boolean { default = false, doc = "whether somebody has to approve of the switch" },
    drain   = param.duration { default = "30s", doc = "how long old connections may take to end" },
    keep    = param.duration { default = "5m", doc = "how long the old version is kept for rollback" },
  },

  run = function(p)
    local blue  = app.live(p.app)
    local image = docker.pull(p.image)              -- pinned to its digest from here on
    app.prepare(p.app, image)                       -- its release command, where it has one
    local green = app.start(p.app, image)           -- its undo, app.remove, comes with it
    health.wait(green, p.health, p.settle)          -- raises with the probes and the last log lines
    if p.approve then approval.wait("the switch to release " .. green.release) end
    pivot(app.switch, p.app, green)                 -- from here on only forward
    app.retire(blue, { drain = p.drain, keep = p.keep })
  end,
}
