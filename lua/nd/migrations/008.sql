-- Words by which people group their apps.

ALTER TABLE app ADD COLUMN tags TEXT NOT NULL DEFAULT '[]'; -- JSON, sorted
