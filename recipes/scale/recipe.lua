-- Scale: another number of instances of a process, of the release that is live.

return recipe {
  summary = "Change how many instances of a process the live release has, without dropping a request.",

  params = {
    app      = param.app { required = true, doc = "the app to scale" },
    process  = param.string { default = "web", doc = "which of its processes" },
    replicas = param.integer { required = true, min = 0, max = 20, doc = "how many instances" },
    health   = param.health { doc = "when a new one is healthy; otherwise as the app says" },
    drain    = param.duration { default = "30s", doc = "how long connections may take to end" },
  },

  run = function(p)
    local live = app.live(p.app)
    if not live then
      fail("no release of " .. p.app .. " is live", "deploy one: ndctl deploy IMAGE --app " .. p.app)
    end
    local new = app.grow(live, p.process, p.replicas)     -- without traffic; its undo removes them
    health.wait(new, p.health)
    pivot(app.scale, live, p.process, p.replicas)         -- traffic goes to those that stay
    app.trim(live, p.process, { drain = p.drain })        -- the others drain, and are removed
  end,
}
