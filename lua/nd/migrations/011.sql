-- What people have approved: a run waits at an effect until its row is there.

CREATE TABLE approval (
  run TEXT NOT NULL REFERENCES run(id) ON DELETE CASCADE,
  n INTEGER NOT NULL,                -- of the effect
  by TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (run, n)
) STRICT;
