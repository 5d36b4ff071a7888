-- Going back, and what the disk holds: which release a release replaced, where its image can be had
-- again, and which of the host's images are ours to remove.

ALTER TABLE release ADD COLUMN replaced INTEGER; -- number of the one that was live before it first was
ALTER TABLE release ADD COLUMN digest TEXT;      -- repository@sha256:..., where a registry has the image

UPDATE release SET replaced = (SELECT max(number) FROM release AS earlier
  WHERE earlier.app = release.app AND earlier.number < release.number
  AND earlier.was_healthy = 1 AND earlier.live_at IS NOT NULL)
  WHERE live_at IS NOT NULL;

CREATE TABLE image (
  id TEXT NOT NULL,                  -- Docker's; empty while it is being pulled
  name TEXT NOT NULL,                -- as it was asked for
  app INTEGER NOT NULL,              -- for which; it may be gone
  used_at INTEGER NOT NULL,
  PRIMARY KEY (id, name, app)
) STRICT, WITHOUT ROWID;

INSERT INTO image (id, name, app, used_at)
  SELECT image_id, image, app, max(coalesce(live_at, created_at)) FROM release GROUP BY image_id, image, app;
