-- People, the roles that they made, what lets them in, and what a token may beyond its role.

CREATE TABLE role (
  name TEXT PRIMARY KEY,             -- beside the built-in ones
  grants TEXT NOT NULL,              -- JSON: lua/nd/permission.lua
  created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE person (
  email TEXT PRIMARY KEY,            -- lower case
  role TEXT NOT NULL,
  password TEXT,                     -- $scrypt$...; null until an invitation was taken
  created_at INTEGER NOT NULL,
  password_at INTEGER
) STRICT;

CREATE TABLE invitation (
  person TEXT PRIMARY KEY REFERENCES person(email) ON DELETE CASCADE, -- the newest alone is good
  hash TEXT NOT NULL UNIQUE,         -- SHA-256 of the code
  by TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT;

CREATE TABLE session (
  id TEXT PRIMARY KEY,
  person TEXT NOT NULL REFERENCES person(email) ON DELETE CASCADE,
  number INTEGER NOT NULL,           -- of the refresh token that is good: each use makes the next one
  address TEXT NOT NULL,             -- from where it was begun
  created_at INTEGER NOT NULL,
  used_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL        -- unless it is used before
) STRICT;
CREATE INDEX session_person ON session (person);

ALTER TABLE token ADD COLUMN limits TEXT;        -- JSON: grants that have to allow a thing beside the role's
ALTER TABLE token ADD COLUMN person TEXT REFERENCES person(email) ON DELETE CASCADE; -- whose rights bound it
ALTER TABLE token ADD COLUMN expires_at INTEGER;
UPDATE token SET name = name || '-token' WHERE name IN ('guard', 'schedule'); -- the daemon's own runs are called so
