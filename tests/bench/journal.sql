-- journal.sql - fills a database with apps that people deployed, and stopped in the end.
--
--   sqlite3 DB ".parameter set :apps 10000" ".parameter set :address 169869312" \
--     ".parameter set :half 524288" ".read journal.sql"
--
-- Each app: 20 runs of 5 effects, of which every fourth run made a release, the last of them live with
-- a stopped instance; a service address, a network, a host name. And the last 50,000 events. The schema
-- and an instance id are there already: the daemon has started with this database once. `:address`: the
-- first of --service-cidr, as a number; `:half`: half of its size.

PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
PRAGMA foreign_keys = OFF; -- live and release name each other
BEGIN;

CREATE TEMP TABLE n AS
  WITH RECURSIVE n(i) AS (VALUES (0) UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :apps * 20) SELECT i FROM n;
CREATE TEMP TABLE began AS SELECT CAST(strftime('%s', 'now') AS INTEGER) * 1000 - :apps * 20 * 1000 - 60000 AS at;

INSERT OR IGNORE INTO bundle (hash, name, files, created_at)
  SELECT 'bench', 'bluegreen', '{"recipe.lua":"return recipe {}"}', at FROM began;

INSERT INTO app (id, project, environment, name, strategy, live, stopped, created_at, updated_at)
  SELECT i + 1, 'project' || (i % 100), 'production', printf('app-%05d', i), 'bluegreen', i * 5 + 5, 1,
    at, at + i * 1000 FROM n, began WHERE i < :apps;

-- Run r of app a is the number r * apps + a: what people do to their apps is mixed in time.
INSERT INTO run (id, app, recipe, bundle, params, spec, seed, state, owner, started_at, ended_at, result, error)
  SELECT printf('%010x', i + 4096), i % :apps + 1, 'bluegreen', 'bench',
    json_object('app', printf('app-%05d', i % :apps), 'image', 'registry.test/app:v' || (i / :apps)),
    json_object('env', json_object('MODE', 'production', 'LEVEL', 'info'), 'port', 8080),
    i, CASE WHEN i / :apps % 4 = 3 THEN 'done' WHEN i % 10 = 0 THEN 'cancelled' ELSE 'failed' END,
    'uid 0', at + i * 1000, at + i * 1000 + 900,
    CASE WHEN i / :apps % 4 = 3 THEN '{}' END,
    CASE WHEN i / :apps % 4 <> 3 THEN '{"code":"unhealthy","hint":"look at its log","message":"it never answered"}' END
  FROM n, began;

INSERT INTO effect (run, n, name, version, task, at, args, label, pivot, asked_at, answered, answered_at, ok, result)
  SELECT run.id, e.column1, e.column2, 1, 'main', 'recipe.lua:' || (20 + e.column1),
    json_array(printf('app-%05d', run.app - 1), json_object('path', '/health', 'interval', 1000, 'deadline', 60000)),
    e.column2 || printf(' app-%05d', run.app - 1), e.column1 = 4, run.started_at + e.column1 * 100,
    e.column1, run.started_at + e.column1 * 100 + 90, 1, json_object('release', 1, 'instances', json_array('one'))
  FROM run, (VALUES (1, 'app.live'), (2, 'docker.pull'), (3, 'app.start'), (4, 'app.switch'), (5, 'app.retire')) AS e;

-- Release k (1 to 5) of app a.
INSERT INTO release (id, app, number, state, image, image_id, config, run, key, was_healthy, created_at, live_at)
  SELECT i % :apps * 5 + i / :apps + 1, i % :apps + 1, i / :apps + 1,
    CASE WHEN i / :apps = 4 THEN 'live' ELSE 'gone' END, 'registry.test/app:v' || (i / :apps),
    printf('sha256:%064x', i), json_object('env', json_object('MODE', 'production', 'LEVEL', 'info'), 'port', 8080,
      'health', json_object('path', '/health', 'interval', 1000, 'deadline', 60000),
      'routes', json_array(json_object('domain', printf('app-%05d.test', i % :apps), 'tls', 'off', 'proxy_type', 'caddy'))),
    printf('%010x', (i / :apps * 4 + 3) * :apps + i % :apps + 4096),
    printf('%010x/3', (i / :apps * 4 + 3) * :apps + i % :apps + 4096), 1, at + i * 4000, at + i * 4000 + 500
  FROM n, began WHERE i < :apps * 5;

INSERT INTO instance (release, process, position, name, container, address, state, exit_code, started_at, gone_at)
  SELECT id, 'web', 1, printf('nd-%s-%d-web-%d-1', (SELECT value FROM meta WHERE key = 'instance'), app, number),
    printf('%064x', id), printf('10.0.%d.%d', app / 250 % 250, app % 250), CASE state WHEN 'live' THEN 'exited' ELSE 'gone' END,
    0, live_at, CASE state WHEN 'live' THEN NULL ELSE live_at + 60000 END FROM release;

INSERT INTO route (domain, app, tls, proxy_type, created_at)
  SELECT printf('app-%05d.test', i), i + 1, 'off', 'caddy', at FROM n, began WHERE i < :apps;

-- Service addresses fill the lower half of the range, networks of 32 addresses the upper one.
CREATE TEMP TABLE net AS
  SELECT i + 1 AS n, 'project' || (i % 100) || '/production' AS scope, printf('app-%05d', i) AS app,
    :address + i + 1 AS service, :address + :half + (i + 1) * 32 AS subnet,
    (SELECT value FROM meta WHERE key = 'instance') AS instance FROM n WHERE i < :apps;

INSERT INTO network (kind, key, row)
  SELECT 'service', scope || '/' || app || '/web/80', json_object('index', n, 'address', printf('%d.%d.%d.%d',
    service >> 24, service >> 16 & 255, service >> 8 & 255, service & 255), 'port', 80, 'proto', 'tcp',
    'comment', scope || '/' || app || '/web/80') FROM net;
INSERT INTO network (kind, key, row)
  SELECT 'bridge', scope || '/' || app, json_object('index', n, 'bridge', printf('nd%s-%d', instance, n),
    'subnet', printf('%d.%d.%d.%d/27', subnet >> 24, subnet >> 16 & 255, subnet >> 8 & 255, subnet & 255),
    'gateway', printf('%d.%d.%d.%d', subnet >> 24, subnet >> 16 & 255, subnet >> 8 & 255, (subnet & 255) + 1),
    'group', scope, 'network', printf('nd-%s-%s.%s', instance, replace(scope, '/', '.'), app)) FROM net;

INSERT INTO event (time, kind, app, run, data)
  SELECT at + i * 1000, 'app.changed', i % :apps + 1, printf('%010x', i + 4096), '{"why":"deployed"}'
  FROM n, began ORDER BY i DESC LIMIT 50000;
-- Only a daemon computes checksums; 0 has it believe a row. It doesn't look at journals of ended runs.
UPDATE bundle SET checksum = 0 WHERE checksum IS NULL;
UPDATE app SET checksum = 0 WHERE checksum IS NULL;
UPDATE release SET checksum = 0 WHERE checksum IS NULL;
UPDATE instance SET checksum = 0 WHERE checksum IS NULL;
UPDATE route SET checksum = 0 WHERE checksum IS NULL;
UPDATE network SET checksum = 0 WHERE checksum IS NULL;
COMMIT;
PRAGMA optimize;
