-- Secrets: each version of each value, sealed by the agent's key (lua/nd/service/secrets.lua).

CREATE TABLE secret (
  id INTEGER PRIMARY KEY,
  project TEXT NOT NULL,
  environment TEXT NOT NULL,
  app TEXT NOT NULL,                  -- '' for one of the whole environment
  name TEXT NOT NULL,
  version INTEGER NOT NULL,           -- 1, 2, ...; never given twice
  sealed TEXT,                        -- base64 of a seal that is bound to all of the above; NULL: removed
  bytes INTEGER NOT NULL,
  is_text INTEGER NOT NULL,           -- without a zero byte: fit for the environment
  copy TEXT,                          -- the value encrypted to its owner (age, armored), for --reveal
  created_at INTEGER NOT NULL,
  created_by TEXT NOT NULL,
  removed_at INTEGER,
  removed_by TEXT,
  UNIQUE (project, environment, app, name, version)
) STRICT;
