-- The audit log: who did what, from where, on what, and what came of it. Rows are only ever added; each
-- carries the hash of itself and of the row before (lua/nd/service/audit_chain.lua), which is why they
-- need no checksum. Those that are old leave it by a hand-over, which moves the base first.

CREATE TABLE audit (
  seq INTEGER PRIMARY KEY,
  time INTEGER NOT NULL,             -- UTC ms
  outcome TEXT NOT NULL CHECK (outcome IN ('asked', 'done', 'refused', 'failed', 'noted')),
  operation TEXT NOT NULL,           -- operationId of the API, or "daemon.start" and the like
  permission TEXT,                   -- that it needs
  request TEXT,                      -- id of the request: of its two rows, and its x-request-id
  kind TEXT NOT NULL,                -- of who: unix, token, ..., none, system
  who TEXT,                          -- by name
  credential TEXT,                   -- what was shown: id of a token or session
  origin TEXT,                       -- address and port, or the process at the unix socket
  project TEXT,
  environment TEXT,
  app TEXT,
  object TEXT,                       -- what beside the app: a token, a route, a secret, an image
  run TEXT,
  code TEXT,                         -- of the error
  count INTEGER,                     -- how many it stands for, where that isn't one
  detail TEXT,
  hash TEXT NOT NULL
) STRICT;
CREATE INDEX audit_request ON audit (request) WHERE request IS NOT NULL;

CREATE TRIGGER audit_unchanged BEFORE UPDATE ON audit BEGIN
  SELECT RAISE(ABORT, 'the audit log is never changed');
END;
CREATE TRIGGER audit_kept BEFORE DELETE ON audit
  WHEN OLD.seq > (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'audit_base') BEGIN -- "SEQ {statement}"
  SELECT RAISE(ABORT, 'a row of the audit log is only removed when it was handed over');
END;
