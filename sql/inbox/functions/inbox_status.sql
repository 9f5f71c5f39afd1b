CREATE FUNCTION amqp.inbox_status() RETURNS TABLE (
    consumer text,
    queue text,
    running text,
    received bigint,
    stored bigint,
    duplicates bigint,
    dead bigint,
    skipped bigint,
    unacked integer,
    ready bigint,
    oldest_unstored timestamptz,
    rate real,
    last_error text,
    last_error_at timestamptz,
    trouble text
)
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH dead AS (
        SELECT d.consumer, count(*) AS messages FROM amqp.inbox_dead AS d GROUP BY d.consumer
    ), worked AS (
        SELECT s.*, a.application_name AS worker
        FROM amqp.inbox_state AS s
        LEFT JOIN pg_stat_activity AS a
            ON a.pid = s.worker_pid AND amqp_inner.inbox_worked(s.worker_pid, s.worker_started)
    )
    SELECT c.name,
           c.queue,
           w.worker,
           COALESCE(w.received, 0),
           COALESCE(w.stored, 0),
           COALESCE(w.duplicates, 0),
           COALESCE(d.messages, 0),
           COALESCE(w.skipped, 0),
           CASE WHEN w.worker IS NOT NULL THEN w.unacked ELSE 0 END,
           w.ready,
           CASE WHEN w.worker IS NOT NULL THEN w.oldest_unstored END,
           CASE WHEN w.worker IS NOT NULL THEN w.rate ELSE 0 END,
           w.last_error,
           w.last_error_at,
           CASE WHEN NOT c.enabled THEN NULL
                WHEN w.last_error IS NOT NULL AND w.ended_at IS NULL THEN w.last_error
                WHEN w.worker IS NULL THEN 'no daemon works it' END
    FROM amqp.consumer AS c
    LEFT JOIN worked AS w ON w.consumer = c.name
    LEFT JOIN dead AS d ON d.consumer = c.name
    ORDER BY c.name;
END;

COMMENT ON FUNCTION amqp.inbox_status() IS
'Every consumer: what it has stored, and what keeps it from storing more.
The columns are its queue, the daemon that works it (running; NULL if none does), messages
received since that began, stored, passed over as duplicates, dead (in amqp.inbox_dead now) and
skipped, held without an acknowledgement, ready in the queue, when the oldest one that is not
stored arrived, messages stored a second (rate), the last error, and the trouble: what keeps
messages from being stored now (NULL if nothing).';
