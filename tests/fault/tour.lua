-- A recipe that asks for what no shipped one does. With `fails`, all of it is undone at the end.

return recipe {
  summary = "Every effect that no shipped recipe asks for.",
  needs = { "app", "docker", "http" },

  params = {
    app   = param.app { required = true },
    image = param.image { required = true },
    url   = param.string { required = true, doc = "where requests are counted" },
    fails = param.boolean { default = false },
  },

  run = function(p)
    local _ = time.now() and app.previous(p.app) and docker.inspect(p.image)
    pcall(http.request, { url = p.url .. uuid(), method = "POST", retry = "never" })
    local old = app.live(p.app)
    undo("keep to the number there is", app.trim, old, "web", { drain = "0s" })
    local image = docker.pull(p.image)
    local lost = false
    task.race( -- the branch that has done something loses
      function()
        app.start(p.app, image)
        lost = true
        time.sleep("1h")
      end,
      function()
        repeat time.sleep("300ms") until lost
      end)

    local new = app.start(p.app, image)
    app.remove(app.start(p.app, image))
    local seen = health.check(new)
    if not seen.healthy then health.wait(new) end
    app.switch(p.app, new)
    app.grow(new, "web", 2)
    app.scale(new, "web", 2)
    if p.fails then fail("as it was told to") end
    app.scale(new, "web", 1)
    app.trim(new, "web", { drain = "0s" })
    pivot(app.switch, p.app, new)
    app.retire(old, { drain = "0s", keep = "0s" })
  end,
}
