-- A request that is sent again makes no second run; one that came too early waits for its turn.

ALTER TABLE run ADD COLUMN request TEXT;      -- who asked, and the Idempotency-Key
ALTER TABLE run ADD COLUMN request_hash TEXT; -- of what was asked for with it
CREATE UNIQUE INDEX run_request ON run (request) WHERE request IS NOT NULL;

CREATE TABLE waiting (
  id TEXT PRIMARY KEY,               -- of the run that it becomes
  app INTEGER NOT NULL REFERENCES app(id) ON DELETE CASCADE,
  kind TEXT NOT NULL,                -- deploy, swap, rollback, scale, run
  body TEXT NOT NULL,                -- JSON: the request's
  recipe TEXT NOT NULL,
  bundle TEXT NOT NULL REFERENCES bundle(hash),
  params TEXT NOT NULL,              -- JSON, as they were when it was asked for
  owner TEXT NOT NULL,
  asked_at INTEGER NOT NULL,
  request TEXT UNIQUE,
  request_hash TEXT
) STRICT;
CREATE INDEX waiting_app ON waiting (app);
