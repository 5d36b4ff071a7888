-- The model: project / environment / app / process / release / instance, and the runs that change it.
-- Times are UTC milliseconds. JSON columns are canonical (names sorted).

CREATE TABLE meta (
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT;

CREATE TABLE app (
  id INTEGER PRIMARY KEY,
  project TEXT NOT NULL,
  environment TEXT NOT NULL,
  name TEXT NOT NULL,
  strategy TEXT,                     -- the recipe that deployed it last
  live INTEGER REFERENCES release(id),
  stopped INTEGER NOT NULL DEFAULT 0, -- by a person, who is respected
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  UNIQUE (project, environment, name)
) STRICT;

CREATE TABLE release (
  id INTEGER PRIMARY KEY,
  app INTEGER NOT NULL REFERENCES app(id) ON DELETE CASCADE,
  number INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('created', 'healthy', 'live', 'draining', 'kept', 'gone')),
  image TEXT NOT NULL,               -- as the user named it
  image_id TEXT NOT NULL,            -- what it was pinned to
  config TEXT NOT NULL,              -- JSON: env, port, health, volumes, routes, ...
  run TEXT NOT NULL,                 -- that made it
  key TEXT NOT NULL UNIQUE,          -- of the effect that made it: run/n
  was_healthy INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL,
  live_at INTEGER,
  drain_until INTEGER,               -- set while draining: cut then
  keep_ms INTEGER,                   -- how long to keep it once drained
  keep_until INTEGER,                -- set while kept
  drained TEXT,                      -- JSON {cut, peers}
  UNIQUE (app, number)
) STRICT;
CREATE INDEX release_state ON release (state) WHERE state <> 'gone';

CREATE TABLE instance (
  id INTEGER PRIMARY KEY,
  release INTEGER NOT NULL REFERENCES release(id) ON DELETE CASCADE,
  process TEXT NOT NULL,
  position INTEGER NOT NULL,         -- 1..replicas
  name TEXT NOT NULL,                -- of the container
  container TEXT,                    -- its id
  address TEXT NOT NULL,             -- on the app's network
  state TEXT NOT NULL,               -- starting, running, stopping, exited, gone
  exit_code INTEGER,
  restarts INTEGER NOT NULL DEFAULT 0,
  started_at INTEGER,
  gone_at INTEGER
) STRICT;
CREATE UNIQUE INDEX instance_name ON instance (name) WHERE gone_at IS NULL;
CREATE INDEX instance_release ON instance (release);
CREATE INDEX instance_container ON instance (container);

CREATE TABLE network (
  kind TEXT NOT NULL,                -- service, bridge
  key TEXT NOT NULL,
  row TEXT NOT NULL,                 -- JSON: addresses, targets
  PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE route (
  domain TEXT PRIMARY KEY,
  app INTEGER NOT NULL REFERENCES app(id) ON DELETE CASCADE,
  tls TEXT NOT NULL,
  proxy_type TEXT NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX route_app ON route (app);

CREATE TABLE bundle (
  hash TEXT PRIMARY KEY,             -- SHA-256 of `files`
  name TEXT NOT NULL,
  files TEXT NOT NULL,               -- JSON {path: source}
  created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE run (
  id TEXT PRIMARY KEY,
  app INTEGER NOT NULL REFERENCES app(id) ON DELETE CASCADE,
  recipe TEXT NOT NULL,
  bundle TEXT NOT NULL REFERENCES bundle(hash),
  params TEXT NOT NULL,              -- JSON
  spec TEXT,                         -- JSON: the configuration it is to deploy
  seed INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN
    ('running', 'sleeping', 'rolling_back', 'cleaning', 'done', 'failed', 'cancelled')),
  owner TEXT NOT NULL,
  started_at INTEGER NOT NULL,
  ended_at INTEGER,
  wake_at INTEGER,                   -- while sleeping
  pivot INTEGER,                     -- number of the effect that was the point of no return
  deaths INTEGER NOT NULL DEFAULT 0, -- of its worker since the last new journal row
  reason TEXT,                       -- JSON error: why it rolls back
  error TEXT,                        -- JSON error: how it ended
  result TEXT                        -- JSON
) STRICT;
CREATE UNIQUE INDEX one_live_run ON run (app)
  WHERE state IN ('running', 'sleeping', 'rolling_back');
CREATE INDEX run_state ON run (state) WHERE state NOT IN ('done', 'failed', 'cancelled');
CREATE INDEX run_app ON run (app, started_at);

CREATE TABLE effect (
  run TEXT NOT NULL REFERENCES run(id) ON DELETE CASCADE,
  n INTEGER NOT NULL,                -- in the order asked
  name TEXT NOT NULL,
  version INTEGER NOT NULL,
  task TEXT NOT NULL,
  at TEXT,                           -- recipe.lua:20
  args TEXT NOT NULL,                -- JSON
  label TEXT NOT NULL,
  pivot INTEGER NOT NULL DEFAULT 0,
  asked_at INTEGER NOT NULL,
  answered INTEGER,                  -- in the order answered
  answered_at INTEGER,
  ok INTEGER,
  result TEXT,                       -- JSON
  error TEXT,                        -- JSON
  undo TEXT,                         -- JSON {effect, args, label}
  undone INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (run, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE event (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  time INTEGER NOT NULL,
  kind TEXT NOT NULL,
  app INTEGER,
  run TEXT,
  data TEXT NOT NULL                 -- JSON
) STRICT;

CREATE TABLE token (
  name TEXT PRIMARY KEY,
  hash TEXT NOT NULL UNIQUE,         -- SHA-256 of the token
  role TEXT NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
