-- Rollback: back to an older release, exactly as it was. A new run, not the end of an old one.

return recipe {
  summary = "Bring back the last good release (or the one named), and switch to it when it is healthy.",
  gap     = "where a volume has one writer",

  params = {
    app    = param.app { required = true, doc = "the app to roll back" },
    to     = param.integer { doc = "number of the release; otherwise the last good one" },
    health = param.health { doc = "when it is healthy; otherwise as that release says" },
    drain  = param.duration { default = "30s", doc = "how long connections may take to end" },
    keep   = param.duration { default = "5m", doc = "how long the release left behind is kept" },
  },

  run = function(p)
    local bad  = app.live(p.app)
    local good = app.release(p.app, p.to)
    if bad and bad.release == good.release then
      fail(("release %d of %s is live already"):format(good.release, p.app), "name another: --to N")
    end
    docker.pull(good)                               -- by its digest, where it is gone from this host
    if good.one_writer then
      app.stop(bad, { drain = p.drain })            -- a gap, as in recreate; its undo ends it
    end
    good = app.activate(good)                       -- its kept container, or one from its image
    health.wait(good, p.health)
    pivot(app.switch, p.app, good)
    app.retire(bad, { drain = p.drain, keep = p.keep })
  end,
}
