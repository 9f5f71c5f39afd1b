-- Reads a bounded number of rows, whatever the outbox holds: brokers are found by going from one to the next in the indexes,
-- and of each kind of a broker's messages the first ones are counted. As outbox_due(), written so that one index alone has
-- each order, since the statistics may be of a moment when the table was empty.
CREATE FUNCTION amqp.outbox_status() RETURNS TABLE (
    broker_id integer,
    pending bigint,
    waiting bigint,
    oldest_age interval,
    dead bigint,
    delivered_last_minute bigint,
    relay text,
    last_error text,
    last_error_at timestamptz,
    trouble text,
    retained bigint
)
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
SET jit = off
BEGIN ATOMIC
    WITH RECURSIVE walk AS (
        SELECT NULL::integer AS broker_id, -2147483649::bigint AS behind
        UNION ALL
        SELECT n.broker_id, n.broker_id::bigint
        FROM walk AS w
        CROSS JOIN LATERAL (
            SELECT least(
                (SELECT k.broker_id FROM amqp.broker AS k WHERE k.broker_id > w.behind ORDER BY k.broker_id LIMIT 1),
                (SELECT o.broker_id FROM amqp.outbox AS o
                 WHERE o.broker_id > w.behind AND o.next_attempt_at IS NULL AND o.retain IS NOT TRUE
                 ORDER BY o.broker_id, o.id LIMIT 1),
                (SELECT o.broker_id FROM amqp.outbox AS o
                 WHERE o.broker_id > w.behind AND o.next_attempt_at IS NOT NULL AND o.retain IS NOT TRUE
                 ORDER BY o.broker_id, o.next_attempt_at, o.id LIMIT 1),
                (SELECT o.broker_id FROM amqp.outbox AS o
                 WHERE o.broker_id > w.behind AND o.retain
                 ORDER BY o.broker_id, o.id LIMIT 1),
                (SELECT d.broker_id FROM amqp.outbox_dead AS d
                 WHERE d.broker_id > w.behind ORDER BY d.broker_id, d.id LIMIT 1)) AS broker_id
        ) AS n
        WHERE n.broker_id IS NOT NULL
    ), known AS (
        SELECT w.broker_id FROM walk AS w WHERE w.broker_id IS NOT NULL LIMIT 1000
    )
    SELECT b.broker_id,
           r.messages + p.messages + m.messages,
           p.messages + m.waiting,
           clock_timestamp() - least(r.oldest, p.oldest, m.oldest),
           d.messages,
           s.messages,
           w.relay,
           t.last_error,
           t.last_error_at,
           CASE WHEN t.last_error IS NOT NULL AND t.ended_at IS NULL THEN t.last_error
                WHEN r.messages + p.messages + m.messages > 0
                     AND NOT EXISTS (SELECT FROM amqp.broker AS k WHERE k.broker_id = b.broker_id)
                    THEN 'the broker has no row in amqp.broker'
                WHEN t.mqtt_error IS NOT NULL THEN t.mqtt_error
                WHEN r.messages + p.messages + m.messages > 0 AND w.relay IS NULL AND s.messages = 0
                     AND amqp_inner.outbox_overdue(b.broker_id)
                    THEN 'messages are due and no relay works them' END,
           m.messages
    FROM known AS b
    CROSS JOIN LATERAL (
        SELECT count(*) AS messages, min(o.created_at) AS oldest
        FROM (SELECT e.created_at FROM amqp.outbox AS e
              WHERE (e.broker_id, e.id) > (b.broker_id, -9223372036854775808) AND e.broker_id <= b.broker_id
                AND e.next_attempt_at IS NULL AND e.retain IS NOT TRUE
              ORDER BY e.broker_id, e.id LIMIT 10000) AS o
    ) AS r
    CROSS JOIN LATERAL (
        SELECT count(*) AS messages,
               min(o.created_at) FILTER (WHERE o.attempts > 0 OR o.next_attempt_at <= clock_timestamp()) AS oldest
        FROM (SELECT e.created_at, e.attempts, e.next_attempt_at FROM amqp.outbox AS e
              WHERE e.broker_id = b.broker_id AND e.next_attempt_at IS NOT NULL AND e.retain IS NOT TRUE
              ORDER BY e.broker_id, e.next_attempt_at, e.id LIMIT 10000) AS o
    ) AS p
    CROSS JOIN LATERAL (
        SELECT count(*) AS messages, count(o.next_attempt_at) AS waiting,
               min(o.created_at) FILTER (
                   WHERE o.next_attempt_at IS NULL OR o.attempts > 0 OR o.next_attempt_at <= clock_timestamp()) AS oldest
        FROM (SELECT e.created_at, e.attempts, e.next_attempt_at FROM amqp.outbox AS e
              WHERE (e.broker_id, e.id) > (b.broker_id, -9223372036854775808) AND e.broker_id <= b.broker_id AND e.retain
              ORDER BY e.broker_id, e.id LIMIT 10000) AS o
    ) AS m
    CROSS JOIN LATERAL (
        SELECT count(*) AS messages
        FROM (SELECT FROM amqp.outbox_dead AS e
              WHERE e.broker_id = b.broker_id ORDER BY e.broker_id, e.id LIMIT 10000) AS o
    ) AS d
    LEFT JOIN amqp.outbox_trouble AS t ON t.broker_id = b.broker_id
    CROSS JOIN LATERAL (
        SELECT COALESCE(sum(g.messages), 0)::bigint AS messages
        FROM amqp.outbox_progress AS g
        WHERE g.broker_id = b.broker_id AND g.second > clock_timestamp() - interval '1 minute'
    ) AS s
    LEFT JOIN LATERAL (
        SELECT a.application_name AS relay
        FROM amqp.outbox_lease AS e
        JOIN pg_locks AS l ON (l.classid::bigint << 32 | l.objid::bigint) = e.lock_key
        JOIN pg_stat_activity AS a ON a.pid = l.pid
        WHERE e.broker_id = b.broker_id
          AND l.locktype = 'advisory' AND l.granted AND l.mode = 'ExclusiveLock' AND l.objsubid = 1
          AND l.database = (SELECT c.oid FROM pg_database AS c WHERE c.datname = current_database())
          -- Anybody may hold the lock; see amqp_inner.outbox_lock().
          AND amqp_inner.outbox_may_work(a.usesysid)
    ) AS w ON true
    ORDER BY b.broker_id;
END;

COMMENT ON FUNCTION amqp.outbox_status() IS
'The outbox, by broker: what waits, and what keeps it from being delivered.
The columns are messages pending, those of them that wait for a time or another attempt, age of
the oldest that is due or was refused, dead letters, messages delivered in the last minute, the
relay that works it (NULL if none does), the last error, the trouble: what keeps its messages from
being delivered now (NULL if nothing), and how many of the pending ones are retained, which go by
MQTT. Of a broker''s messages, the first 10,000 of each kind are counted, and the oldest is one of
these: ready ones and retained ones by id, waiting ones by time, dead letters by id. A count of
10,000 and more says that there are at least so many.';
