-- One-off containers (jobs): release commands, firings of a schedule, what a person asks for.

CREATE TABLE job (
  id INTEGER PRIMARY KEY,
  app INTEGER NOT NULL REFERENCES app(id) ON DELETE CASCADE,
  release INTEGER REFERENCES release(id), -- NULL: the command of a release to be
  process TEXT NOT NULL,             -- "release" for a release command
  trigger TEXT NOT NULL CHECK (trigger IN ('release', 'cron', 'person')),
  key TEXT NOT NULL UNIQUE,          -- of what asked for it: it runs once for each
  due_at INTEGER,                    -- of a schedule
  run TEXT,                          -- of a release command
  owner TEXT,                        -- who asked for it
  name TEXT NOT NULL,                -- of the container
  container TEXT,                    -- its id
  address TEXT NOT NULL,             -- on the app's network
  command TEXT NOT NULL,             -- JSON
  image TEXT NOT NULL,
  image_id TEXT NOT NULL,
  number INTEGER NOT NULL,           -- of the release
  timeout INTEGER NOT NULL,          -- ms from its start
  state TEXT NOT NULL CHECK (state IN ('starting', 'running', 'done', 'failed', 'skipped')),
  exit_code INTEGER,
  error TEXT,                        -- JSON: why it failed, other than by its exit status
  output TEXT,                       -- JSON: its last lines
  created_at INTEGER NOT NULL,
  started_at INTEGER,
  ended_at INTEGER,
  gone_at INTEGER                    -- the container was removed
) STRICT;
CREATE INDEX job_app ON job (app, id);
CREATE INDEX job_live ON job (app) WHERE gone_at IS NULL;
CREATE INDEX job_name ON job (name) WHERE gone_at IS NULL;
