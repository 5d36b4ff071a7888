-- A route may lead to another port than the app's own; an app may be down for maintenance.

ALTER TABLE route ADD COLUMN port INTEGER;  -- of the container; null: the app's own
ALTER TABLE app ADD COLUMN maintenance INTEGER NOT NULL DEFAULT 0; -- its host names answer 503
