-- When runs and effects have to have ended; and how much of its journal a recipe that was given up has seen.

ALTER TABLE run ADD COLUMN deadline INTEGER;    -- then it goes back, or past its pivot to its end
ALTER TABLE run ADD COLUMN heard INTEGER;       -- answers that the recipe had when it was given up
ALTER TABLE effect ADD COLUMN deadline INTEGER; -- then it is interrupted, and has failed
