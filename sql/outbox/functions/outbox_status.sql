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
    trouble text
)
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    WITH pending AS (
        SELECT o.broker_id, count(*) AS messages, count(o.next_attempt_at) AS waiting, min(o.created_at) AS oldest
        FROM amqp.outbox AS o
        GROUP BY o.broker_id
    ), dead AS (
        SELECT d.broker_id, count(*) AS messages
        FROM amqp.outbox_dead AS d
        GROUP BY d.broker_id
    )
    SELECT b.broker_id,
           COALESCE(p.messages, 0),
           COALESCE(p.waiting, 0),
           clock_timestamp() - p.oldest,
           COALESCE(d.messages, 0),
           s.messages,
           w.relay,
           t.last_error,
           t.last_error_at,
           CASE WHEN t.last_error IS NOT NULL AND t.ended_at IS NULL THEN t.last_error
                WHEN p.messages > 0 AND NOT EXISTS (SELECT FROM amqp.broker AS k WHERE k.broker_id = b.broker_id)
                    THEN 'the broker has no row in amqp.broker'
                WHEN p.messages > 0 AND w.relay IS NULL AND s.messages = 0 AND amqp.outbox_overdue(b.broker_id)
                    THEN 'messages are due and no relay works them' END
    FROM (
        SELECT k.broker_id FROM amqp.broker AS k
        UNION SELECT p.broker_id FROM pending AS p
        UNION SELECT d.broker_id FROM dead AS d
    ) AS b
    LEFT JOIN pending AS p ON p.broker_id = b.broker_id
    LEFT JOIN dead AS d ON d.broker_id = b.broker_id
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
          -- Anybody may hold the lock; see amqp.outbox_lock().
          AND amqp.outbox_may_work(a.usesysid)
    ) AS w ON true
    ORDER BY b.broker_id;
END;

COMMENT ON FUNCTION amqp.outbox_status() IS
'The outbox, by broker: messages pending, those of them that wait for a time or another attempt, '
'age of the oldest, dead letters, messages delivered in the last minute, the relay that works it '
'(NULL if none does), the last error, and the trouble: what keeps its messages from being '
'delivered now (NULL if nothing).';
