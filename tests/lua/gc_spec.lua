-- gc_spec.lua - what goes from the disk and what stays, in a world whose images are a table.

local json = require "json"
local task = require "task"
local Gc = require "nd.service.gc"
local World = require "tests.lua.spine_world"

describe("the disk budget", function()
  local w, d, gc, app, host, cache
  local MB = 1000000

  -- An image of these layers, {name = bytes} in order; `ours`: for the app of this id.
  local function image(id, layers, options)
    options = options or {}
    local found = { Id = "sha256:" .. id, RepoTags = options.tags or { "shop:" .. id }, RepoDigests = options.digests,
      RootFS = { Layers = {} }, Size = 0, history = options.history or {} }
    for _, layer in ipairs(layers) do
      found.RootFS.Layers[#found.RootFS.Layers + 1] = layer[1]
      found.Size = found.Size + layer[2]
      if not options.history then table.insert(found.history, 1, { CreatedBy = "COPY", Size = layer[2] }) end
    end
    host.images[found.Id] = found
    if options.ours ~= false then
      d.store:commit { { "INSERT INTO image (id, name, app, used_at) VALUES (?, ?, ?, ?)", found.Id,
        options.name or "shop:" .. id, options.ours or app.id, options.used_at or host.clock } }
      host.clock = host.clock + 1
    end
    return found
  end

  local function find(ref)
    if host.images[ref] then return host.images[ref] end
    for _, i in pairs(host.images) do
      for _, list in ipairs { i.RepoTags, i.RepoDigests or {} } do
        for _, name in ipairs(list) do
          if name == ref then return i end
        end
      end
    end
  end

  -- As Docker does it: a name is taken away, and with the last one the image goes.
  local function remove(_, ref)
    local i = find(ref)
    if not i then error(task.error { code = "image_not_found", message = "no such image" }, 0) end
    if host.refuses and host.refuses(i) then
      error(task.error { code = "docker_conflict", message = "it is in use" }, 0)
    end
    for _, list in ipairs { i.RepoTags, i.RepoDigests or {} } do
      for at = #list, 1, -1 do
        if list[at] == ref then table.remove(list, at) end
      end
    end
    if ref == i.Id or #i.RepoTags + #(i.RepoDigests or {}) == 0 then
      host.images[i.Id] = nil
      host.gone[#host.gone + 1] = i.Id:sub(8)
    end
  end

  local function call(_, method, path)
    if path:find "/history$" then return 200, find(path:match "/images/(.*)/history").history end
    if path:find "^/system/df" then return 200, cache.df or { BuildCache = json.null } end
    assert.equal("POST /build/prune", method .. " " .. path:match "^[^?]+")
    cache.pruned = tonumber(path:match "keep%-storage=(%d+)")
    return 200, { SpaceReclaimed = cache.frees }
  end

  before_each(function()
    w = World.new()
    d = w.d
    host, cache = { images = {}, gone = {}, containers = {}, clock = 1000 }, {}
    d.options.state_dir, d.options.disk_budget, d.options.keep_releases = w.dir, 0, 2
    d.options.proc_root, d.options.sys_root, d.options.log_bytes = "/proc", "/sys", 64 << 20
    d.metrics = { gauge = function() end }
    d.logs = { store = { keep = function(_, bytes) host.keep = bytes end } }
    d.docker.images = function()
      local list = {}
      for _, i in pairs(host.images) do list[#list + 1] = i end
      return list
    end
    d.docker.image = function(_, ref) return find(ref) end
    d.docker.image_remove, d.docker.call = remove, call
    d.docker.list = function() return host.containers end
    d.docker.info = function() return {} end
    app = d.apps:ensure { id = 0, project = "default", environment = "production", name = "shop" }
    gc = Gc.new(d)
  end)

  after_each(function() w:close() end)

  -- A release of the image in this state; `live`: the app's.
  local function release(number, id, state, options)
    options = options or {}
    local at = options.never and require "db".null or number
    d.store:commit { { [[INSERT INTO release (app, number, state, image, image_id, config, run, key, was_healthy,
      created_at, live_at, replaced) VALUES (?, ?, ?, 'shop', ?, '{}', 'r', ?, ?, 1, ?, ?)]], app.id, number, state,
      "sha256:" .. id, number .. id, options.never and 0 or 1, at, options.replaced or number - 1 } }
    if state == "live" then
      d.store:commit { { "UPDATE app SET live = (SELECT id FROM release WHERE key = ?)", number .. id } }
    end
  end

  local function run_of(id, state, params)
    d.store:commit {
      { "INSERT OR IGNORE INTO bundle (hash, name, files, created_at) VALUES ('h', 'b', '{}', 1)" },
      { [[INSERT INTO run (id, app, recipe, bundle, params, seed, state, owner, started_at)
        VALUES (?, ?, 'b', 'h', ?, 1, ?, 'me', 1)]], id, app.id, params or "{}", state } }
  end

  local function gone() return table.concat(host.gone, " ") end

  local function why(report, id)
    for _, row in ipairs(report.kept) do
      if row.id == "sha256:" .. id then return row.why end
    end
  end

  it("takes the image longest unused first, and stops once the rest fits", function()
    for i = 1, 4 do image("v" .. i, { { "base", 5 * MB }, { "own" .. i, MB } }) end
    local all = gc:look({}).used
    assert.equal(9 * MB, all.images) -- what they share counts once
    d.options.disk_budget = 7 * MB + MB // 2 + all.logs + all.database
    local report = gc:run {}
    assert.equal("v1 v2", gone())
    assert.equal(2 * MB, report.freed)
    assert.equal(0, report.over)
    assert.matches("it fits", why(report, "v3"))
    assert.equal(json.encode { "sha256:v1", "sha256:v2" }, w:row([[SELECT json_group_array(
      json_extract(value, '$.id')) AS ids FROM event, json_each(data, '$.removed') WHERE kind = 'disk.freed']]).ids)
  end)

  it("says before what it does then", function()
    for i = 1, 3 do image("v" .. i, { { "base", 5 * MB }, { "own" .. i, i * MB } }) end
    local plan = gc:look { all = true }
    assert.equal("", gone())
    local report = gc:run { all = true }
    assert.equal(11 * MB, plan.freed)
    assert.same({ plan.freed, #plan.removed }, { report.freed, #report.removed })
  end)

  it("leaves what a release needs that is there, or that can be gone back to", function()
    for i = 1, 7 do image("v" .. i, { { "own" .. i, MB } }) end
    release(1, "v1", "gone")
    release(2, "v2", "gone")
    release(3, "v3", "gone", { never = true })
    release(4, "v4", "gone")
    release(5, "v5", "kept")
    release(6, "v6", "live", { replaced = 1 })
    local report = gc:run {}
    assert.equal("v2 v3 v7", gone())
    assert.equal("release 6 of shop is live", why(report, "v6"))
    assert.equal("release 5 of shop is kept", why(report, "v5"))
    assert.equal("release 4 of shop can be gone back to", why(report, "v4"))
    assert.equal("release 1 of shop can be gone back to", why(report, "v1")) -- what a rollback goes to
    assert.is_true(report.over > 0)
    assert.matches("largest images that stay: shop:v%d %(release .*disk_budget.*keep_releases", report.hint)
  end)

  it("leaves what a person stopped", function()
    image("v1", { { "own", MB } })
    release(1, "v1", "live")
    d.store:commit { { "UPDATE app SET stopped = 1" } }
    assert.equal("shop was stopped and starts again from its release 1", why(gc:run {}, "v1"))
  end)

  it("knows only images that are ours, and only names that we gave", function()
    image("theirs", { { "t", MB } }, { ours = false })
    image("named", { { "n", MB } }, { tags = { "shop:named", "production:yes" } })
    image("mirror", { { "m", MB } }, { tags = {}, digests = { "mirror:5000/other@sha256:1" } })
    image("pulled", { { "p", MB } }, { tags = { "reg:5000/shop:v1" }, digests = { "reg:5000/shop@sha256:2" },
      name = "reg:5000/shop:v1" })
    image("latest", { { "l", MB } }, { tags = { "nginx:latest" }, name = "docker.io/library/nginx" })
    local report = gc:run {}
    assert.equal("pulled latest", gone())
    assert.matches("production:yes", why(report, "named"))
    assert.matches("mirror:5000/other", why(report, "mirror"))
    assert.is_nil(why(report, "theirs"))
  end)

  it("leaves what any container uses, and is never forced", function()
    image("used", { { "u", MB } })
    image("busy", { { "b", MB } })
    host.containers = { { Id = "c", Names = { "/theirs" }, ImageID = "sha256:used", Labels = {} } }
    host.refuses = function(i) return i.Id == "sha256:busy" end
    local report = gc:run {}
    assert.equal("", gone())
    assert.equal("the container theirs uses it", why(report, "used"))
    assert.equal("it is in use", why(report, "busy"))
    assert.equal(0, report.freed)
  end)

  it("leaves one whose layers others have: it takes nothing but its name", function()
    image("base", { { "base", MB } })
    image("v1", { { "base", MB }, { "own", MB } })
    image("foreign", { { "base", MB }, { "other", MB } }, { ours = false })
    local report = gc:run {}
    assert.equal("v1", gone())
    assert.equal(MB, report.freed)
    assert.matches("other images have its layers", why(report, "base"))
  end)

  it("takes several that share a layer, none of which could go alone", function()
    image("a", { { "same", MB } })
    image("b", { { "same", MB } })
    assert.equal(MB, gc:run({}).freed)
    assert.equal("a b", gone())
  end)

  it("tries again what another was built on", function()
    image("parent", { { "p", MB } })
    image("child", { { "p", MB }, { "c", MB } })
    host.refuses = function(i) return i.Id == "sha256:parent" and host.images["sha256:child"] end
    assert.equal(2, #gc:run({}).removed)
    assert.equal("child parent", gone())
  end)

  it("leaves what a run that is under way has, or asks for", function()
    image("v1", { { "1", MB } })
    image("v2", { { "2", MB } }, { ours = 77 })
    run_of("r1", "sleeping", '{"image": "shop:v2"}')
    local report = gc:run {}
    assert.equal("the run r1 is changing shop", why(report, "v1"))
    assert.equal("the run r1 asks for it", why(report, "v2"))
    d.store:commit { { "UPDATE run SET state = 'done'" } }
    gc:run {}
    assert.equal("v1 v2", gone())
  end)

  it("an image that a deploy asks for while others go stays for it", function()
    for i = 1, 3 do image("v" .. i, { { "own" .. i, MB } }, { ours = 77 }) end
    local slow = d.docker.image_remove
    local deploy
    d.docker.image_remove = function(...)
      d.docker.image_remove = slow
      run_of("r1", "running")
      deploy = d.images:pull("shop:v2", app, function() end)
      return slow(...)
    end
    local report = gc:run {}
    assert.equal("sha256:v2", deploy.Id)
    assert.equal("v1 v3", gone())
    assert.equal("the run r1 is changing shop", why(report, "v2"))
  end)

  it("one that is asked for while it goes is pulled anew", function()
    image("v1", { { "own", MB } }, { ours = 77 })
    local pulled, deploy = 0, nil
    d.registries = { auth = function() end }
    d.docker.pull = function()
      pulled = pulled + 1
      host.images["sha256:v1"] = { Id = "sha256:v1", RepoTags = { "shop:v1" } }
    end
    d.docker.image_remove = function(...)
      if not deploy then
        deploy = task.spawn("deploy", function() return d.images:pull("shop:v1", app, function() end) end)
        task.sleep(20)
      end
      return remove(...)
    end
    gc:run {}
    assert.equal("sha256:v1", deploy:join().Id)
    assert.equal(1, pulled)
    assert.equal(1, w:row("SELECT count(*) AS n FROM image WHERE id = 'sha256:v1'").n)
  end)

  it("one that a crash kept from being noted is ours all the same", function()
    image("v1", { { "own", MB } }, { ours = false })
    d.store:commit { { "INSERT INTO image (id, name, app, used_at) VALUES ('', 'shop:v1', ?, 1)", app.id } }
    run_of("r1", "running")
    gc:run {}
    assert.equal("", gone())
    d.store:commit { { "UPDATE run SET state = 'failed'" } }
    gc:run {}
    assert.equal("v1", gone())
    assert.equal(0, w:row("SELECT count(*) AS n FROM image").n)
  end)

  it("one that a deploy found here is ours only once a release ran from it", function()
    image("v1", { { "own", MB } }, { ours = false })
    d.images:pull("shop:v1", app, function() end)
    gc:run {}
    assert.equal("", gone())
    d.images:of(app, { number = 1, image = "shop:v1", image_id = "sha256:v1" })
    gc:run {}
    assert.equal("v1", gone())
  end)

  it("one that somebody removed, and pulled again by hand, is not ours any more", function()
    local v1 = image("v1", { { "own", MB } })
    host.images[v1.Id] = nil
    gc:run {}
    host.images[v1.Id] = v1
    gc:run {}
    assert.equal("", gone())
  end)

  it("takes of the build cache first, no more than it has to", function()
    cache.df = { BuildCache = { { Size = 3 * MB, InUse = false, Shared = false },
      { Size = MB, InUse = true, Shared = false }, { Size = 50 * MB, InUse = false, Shared = true } } }
    cache.frees = 2 * MB
    image("v1", { { "own", MB } })
    local used = gc:look({}).used
    assert.equal(4 * MB, used.build_cache)
    d.options.disk_budget = 3 * MB + used.logs + used.database
    local report = gc:run {}
    assert.same({ 2 * MB, "" }, { cache.pruned, gone() })
    assert.equal(2 * MB, report.freed)
    cache.df = { BuildCacheUsage = { TotalSize = 9 * MB, Reclaimable = 7 * MB } } -- as Docker 29 has it
    assert.equal(9 * MB, gc:look({ fresh = true }).used.build_cache)
  end)

  it("a disk nearly full counts as a budget", function()
    image("v1", { { "own", MB } })
    d.options.disk_budget = 1 << 40
    assert.equal(0, #gc:look({}).removed)
    local report = gc:decide({ images = {}, layers = {}, containers = {}, reclaimable = 0,
      used = { images = 50 * MB, build_cache = 0, logs = 0, database = 0 },
      full = { total = 100 * MB, free = 4 * MB } })
    assert.equal(44 * MB, report.limit)
  end)

  it("sizes of layers come from the steps that made them", function()
    image("v1", { { "a", 3 * MB }, { "workdir", 0 }, { "b", 2 * MB } }, { history = {
      { CreatedBy = 'CMD ["/app"]', Size = 0 }, { CreatedBy = "COPY b", Size = 2 * MB },
      { CreatedBy = "WORKDIR /x", Size = 0 }, { CreatedBy = "/bin/sh -c #(nop)  ENV A=1", Size = 0 },
      { CreatedBy = "/bin/sh -c #(nop) ADD a", Size = 3 * MB } } })
    image("v2", { { "a", 3 * MB }, { "workdir", 0 }, { "c", MB } })
    release(1, "v2", "live")
    assert.equal(2 * MB, gc:look({}).freed)
    image("odd", { { "x", MB }, { "y", MB } }, { history = { { CreatedBy = "squashed", Size = 2 * MB } } })
    assert.equal(4 * MB, gc:look({}).freed)
  end)

  it("forgets releases of which nothing is left, but the newest hundred and the way back", function()
    for i = 1, 130 do release(i, "v" .. i, "gone", { replaced = 5 }) end
    d.store:commit { { "UPDATE release SET state = 'live' WHERE number = 120" },
      { "UPDATE app SET live = (SELECT id FROM release WHERE number = 120)" },
      { [[INSERT INTO job (app, release, process, trigger, key, name, address, command, image, image_id, number,
        timeout, state, created_at) VALUES (?, (SELECT id FROM release WHERE number = 2), 'p', 'cron', 'k', 'n', '',
        '[]', '', '', 2, 1, 'done', 1)]], app.id } }
    gc:run {}
    assert.equal(101, w:row("SELECT count(*) AS n FROM release").n)
    assert.is_table(d.releases:find(app, 5))
    assert.equal(5, d.releases:previous(app).number)
    assert.is_nil(w:row("SELECT release FROM job").release)
  end)

  it("many apps share what logs may take", function()
    d.options.disk_budget = 400 * MB
    gc:run {}
    assert.equal(64 << 20, host.keep)
    for i = 1, 9 do d.apps:ensure { id = 0, project = "default", environment = "production", name = "a" .. i } end
    gc:run {}
    assert.equal(10 * MB, host.keep)
  end)

  it("is said in the configuration, and wrong sizes are refused by name", function()
    local function load(...) return require("nd.config").load { ... } end
    local o = load("--disk-budget", "30GB", "--keep-releases=0", "--log-bytes", "500K")
    assert.same({ 30 << 30, 0, 500 << 10 }, { o.disk_budget, o.keep_releases, o.log_bytes })
    assert.same({ 20 << 30, 5, 7 }, { load().disk_budget, load().keep_releases, load("--log-bytes=7").log_bytes })
    for _, bad in ipairs { "--disk-budget=lots", "--disk-budget=1.5G", "--keep-releases=-1", "--keep-releases=many" } do
      local ok, e = pcall(load, bad)
      assert.is_false(ok)
      assert.equal("bad_config", e.code)
      assert.matches(bad:match("%-%-(.-)="):gsub("-", "_"), e.message)
    end
  end)
end)
