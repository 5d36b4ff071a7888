-- Runs are listed by time and counted by state without reading them all.

CREATE INDEX run_started ON run (started_at);
CREATE INDEX run_state_started ON run (state, started_at);
