-- Apps that are between two releases: a run gives the traffic to the next one bit by bit.

CREATE TABLE shift (
  app INTEGER PRIMARY KEY REFERENCES app(id) ON DELETE CASCADE,
  release INTEGER NOT NULL REFERENCES release(id) ON DELETE CASCADE, -- the next one
  instances INTEGER,                 -- so many of each process took the place of as many of the live one's
  weight REAL                        -- or: percent of the traffic
) STRICT;
