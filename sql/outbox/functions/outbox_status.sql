CREATE FUNCTION amqp.outbox_status() RETURNS TABLE (
    broker_id integer,
    pending bigint,
    waiting bigint,
    oldest_age interval,
    dead bigint,
    delivered_last_minute bigint,
    relay text,
    last_error text,
    last_error_at timestamptz
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
           (SELECT COALESCE(sum(s.messages), 0)::bigint
            FROM amqp.outbox_progress AS s
            WHERE s.broker_id = b.broker_id AND s.second > clock_timestamp() - interval '1 minute'),
           (SELECT a.application_name
            FROM pg_locks AS l
            JOIN pg_stat_activity AS a ON a.pid = l.pid
            WHERE l.locktype = 'advisory' AND l.granted AND l.mode = 'ExclusiveLock' AND l.objsubid = 2
              AND l.classid = 1634562416::oid AND l.objid = (b.broker_id::bigint & 4294967295)::oid
              AND l.database = (SELECT c.oid FROM pg_database AS c WHERE c.datname = current_database())),
           t.last_error,
           t.last_error_at
    FROM (
        SELECT k.broker_id FROM amqp.broker AS k
        UNION SELECT p.broker_id FROM pending AS p
        UNION SELECT d.broker_id FROM dead AS d
    ) AS b
    LEFT JOIN pending AS p ON p.broker_id = b.broker_id
    LEFT JOIN dead AS d ON d.broker_id = b.broker_id
    LEFT JOIN amqp.outbox_trouble AS t ON t.broker_id = b.broker_id
    ORDER BY b.broker_id;
END;

COMMENT ON FUNCTION amqp.outbox_status() IS
'The outbox, by broker: messages pending, those of them that wait for a time or another attempt, age of the oldest, dead letters, messages delivered in the last minute, the relay that works it (NULL if none does), and the last error.';
