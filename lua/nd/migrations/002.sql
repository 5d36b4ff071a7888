-- A run may begin where another ended: the state that its predecessor gave to continue_as.

ALTER TABLE run ADD COLUMN begun_with TEXT; -- JSON
