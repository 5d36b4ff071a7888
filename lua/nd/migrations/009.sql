-- Runs are asked for by an app's name alone, which no index began with.

CREATE INDEX app_name ON app (name);
