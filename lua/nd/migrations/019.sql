-- Certificates that the daemon keeps: the user's own, and those that an ACME authority gave it. What they
-- say is here; they and their keys are files in the directory of certificates, and nowhere else.

CREATE TABLE certificate (
  name TEXT PRIMARY KEY,             -- a host name, or *.zone
  kind TEXT NOT NULL CHECK (kind IN ('own', 'acme')),
  names TEXT NOT NULL,               -- JSON: what it is, or is to be, good for
  hook TEXT,                         -- JSON {recipe, app}: who answers dns-01; without one it is http-01
  subject TEXT,                      -- these are of the certificate that is there, if one is
  issuer TEXT,
  serial TEXT,
  not_before INTEGER,
  not_after INTEGER,
  failures INTEGER NOT NULL DEFAULT 0, -- in a row
  next_at INTEGER,                   -- when to ask for the next one
  error TEXT,                        -- JSON error: why there was none the last time
  updated_at INTEGER NOT NULL
) STRICT;
