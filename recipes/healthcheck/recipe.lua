-- Health check: looks at what is live, and fails with what it saw when that isn't healthy.

return recipe {
  summary = "Probe the live release until it is healthy, and for as long as `settle` says.",

  params = {
    app    = param.app { required = true, doc = "the app to look at" },
    health = param.health { doc = "when it is healthy; otherwise as the app says" },
    settle = param.duration { default = "0s", doc = "how long it must stay healthy" },
  },

  run = function(p)
    local live = app.live(p.app)
    if not live then
      fail("no release of " .. p.app .. " is live", "deploy one: ndctl deploy IMAGE --app " .. p.app)
    end
    health.wait(live, p.health, p.settle)
  end,
}
