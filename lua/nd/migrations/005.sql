-- What metrics were, in steps of 5 minutes; lua/nd/service/metrics_history.lua writes and trims it.

CREATE TABLE metric (
  subject TEXT NOT NULL,             -- host, or project/environment/app/process
  time INTEGER NOT NULL,             -- where the 5 minutes begin
  samples INTEGER NOT NULL,          -- that it is made of
  data TEXT NOT NULL,                -- JSON {metric: [mean, most]}
  PRIMARY KEY (subject, time)
) STRICT, WITHOUT ROWID;
CREATE INDEX metric_time ON metric (time);
