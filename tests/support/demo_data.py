"""A queue as one sees it on an ordinary day, for the pictures of the dashboard and for tests of its pages."""

# ruff: noqa: E501 -- statements
from __future__ import annotations

from tests.support.server import Database

FINISHED = 2400
"""Jobs that ended in the last hour."""

TASKS = """
CREATE TEMPORARY TABLE tasks AS SELECT * FROM (VALUES
    (0, 'shop.mail.send_receipt',     'mail',     0.12, 0.3),
    (1, 'shop.mail.send_receipt',     'mail',     0.10, 0.2),
    (2, 'shop.images.make_thumbnail', 'images',   1.40, 2.5),
    (3, 'shop.search.index_product',  'default',  0.03, 0.1),
    (4, 'shop.search.index_product',  'default',  0.02, 0.1),
    (5, 'shop.webhooks.deliver',      'webhooks', 0.70, 1.2),
    (6, 'shop.payments.capture',      'payments', 0.45, 0.4)
) AS tasks (number, task, queue, seconds, waits)
"""

FINISHED_JOBS = """
INSERT INTO sqla_jobs (task, arguments, queue, state, run_at, attempt, created_at, started_at, finished_at, attempts)
SELECT task, CASE queue
         WHEN 'images' THEN jsonb_build_object('product_id', 1000 + n % 700, 'size', 512)
         WHEN 'webhooks' THEN jsonb_build_object('url', 'https://partner.example/hooks/' || n % 9, 'event', 'order.paid')
         WHEN 'payments' THEN jsonb_build_object('order_id', 52000 + n, 'card_number', '4111111111111111')
         ELSE jsonb_build_object('order_id', 52000 + n) END,
       queue, state, began - waited, 1, began - waited, began, began + took,
       CASE WHEN state = 'failed' THEN jsonb_build_array(jsonb_build_object(
         'attempt', 1, 'started_at', began, 'finished_at', began + took, 'worker_id', 1,
         'error', 'httpx.ConnectTimeout', 'message', 'timed out after 10 s: https://partner.example/hooks/' || n % 9,
         'traceback', E'Traceback (most recent call last):\n'
           || E'  File "/srv/shop/webhooks.py", line 41, in deliver\n'
           || E'    response = client.post(url, json=payload, timeout=10)\n'
           || E'               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n'
           || 'httpx.ConnectTimeout: timed out after 10 s: https://partner.example/hooks/' || n % 9))
       ELSE '[]' END
FROM (
    SELECT n, task, queue,
           CASE WHEN queue = 'webhooks' AND random() < 0.12 THEN 'failed'
                WHEN random() < 0.004 THEN 'cancelled' ELSE 'succeeded' END AS state,
           now() - interval '1 hour' * power(random(), 0.8 + 0.3 * sin(n)) * 0.98 - interval '20 s' AS began,
           make_interval(secs => waits * (0.2 - ln(random() + 1e-6))) AS waited,
           make_interval(secs => seconds * (0.4 - ln(random() + 1e-6))) AS took
    FROM generate_series(1, {finished}) AS n JOIN tasks ON number = n % 7
) AS made
"""

OTHERS = """
INSERT INTO sqla_jobs_workers (host, pid, version, queues, threads, heartbeat_limit, started_at, tasks)
SELECT 'web-' || n, 4700 + n, '0.1.0', CASE WHEN n = 3 THEN '["images"]'::jsonb END, 4, '1 hour',
       now() - interval '1 day' * n, (SELECT jsonb_agg(DISTINCT task) FROM tasks)
FROM generate_series(1, 3) AS n;

INSERT INTO sqla_jobs (task, arguments, queue, state, attempt, claim, worker_id, run_at, created_at, started_at)
SELECT 'shop.images.make_thumbnail', jsonb_build_object('product_id', 1700 + n, 'size', 2048), 'images', 'running', 1, 1,
       (SELECT max(id) FROM sqla_jobs_workers), now() - interval '15 s', now() - interval '15 s',
       now() - make_interval(secs => 3 * n)
FROM generate_series(1, 3) AS n;
UPDATE sqla_jobs SET meta = '{"redact": ["card_number"]}' WHERE queue = 'payments';
UPDATE sqla_jobs_workers SET running = (
    SELECT jsonb_agg(jsonb_build_object('id', id, 'claim', claim, 'task', task, 'since', started_at, 'progress',
        jsonb_build_object('done', 37, 'total', 120, 'note', 'frames', 'attempt', 1)))
    FROM sqla_jobs WHERE state = 'running')
WHERE id = (SELECT max(id) FROM sqla_jobs_workers);

INSERT INTO sqla_jobs (task, arguments, queue, state, priority, run_at, created_at)
SELECT task, jsonb_build_object('order_id', 60000 + n), queue, 'queued', n % 3, now() - interval '1 s' * n,
       now() - interval '1 s' * n
FROM generate_series(1, 46) AS n JOIN tasks ON number = n % 7;
INSERT INTO sqla_jobs (task, arguments, queue, state, run_at, attempt, attempts, created_at)
SELECT 'shop.webhooks.deliver', jsonb_build_object('url', 'https://partner.example/hooks/3', 'event', 'order.paid'),
       'webhooks', 'scheduled', now() + interval '37 s' * n, 1,
       jsonb_build_array(jsonb_build_object('attempt', 1, 'started_at', now() - interval '1 min',
         'finished_at', now() - interval '50 s', 'worker_id', 1, 'error', 'httpx.ConnectTimeout', 'message', 'timed out')),
       now() - interval '1 min'
FROM generate_series(1, 12) AS n;

INSERT INTO sqla_jobs_queues (name, paused_at) VALUES ('webhooks', now() - interval '4 min');
INSERT INTO sqla_jobs_schedules (name, task, queue, cron, timezone, every, enabled, next_run_at, last_tick_at)
VALUES ('nightly report', 'shop.reports.close_the_day', 'default', '0 30 1 * * *', 'Europe/Paris', NULL, true,
        date_trunc('day', now()) + interval '1 day 30 min', date_trunc('day', now()) + interval '30 min'),
       ('refresh prices', 'shop.search.index_product', 'default', NULL, 'UTC', '15 min', true,
        now() + interval '7 min', now() - interval '8 min'),
       ('clear carts', 'shop.carts.clear', 'default', '0 0 * * * *', 'UTC', NULL, false, NULL, now() - interval '9 days');
"""


def fill(database: Database, finished: int = FINISHED, seed: float = 0.42) -> None:
    """Put the day into an empty database; the same for the same seed, but for its times."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql(f"SELECT setseed({seed})")
        connection.exec_driver_sql(TASKS)
        connection.exec_driver_sql(FINISHED_JOBS.format(finished=finished).replace("%", "%%"))
        for statement in OTHERS.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement.replace("%", "%%"))
        connection.exec_driver_sql("DROP TABLE tasks")
    database.execute("ANALYZE")
