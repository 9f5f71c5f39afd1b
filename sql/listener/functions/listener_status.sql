CREATE FUNCTION amqp.listener_status() RETURNS TABLE (
    channel text,
    exchange text,
    listener text,
    since timestamptz,
    received bigint,
    published bigint,
    stored bigint,
    dropped bigint,
    gaps bigint,
    last_error text,
    last_error_at timestamptz
)
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT l.channel,
           l.exchange,
           a.application_name,
           CASE WHEN a.pid IS NOT NULL THEN s.since END,
           COALESCE(s.received, 0),
           COALESCE(s.published, 0),
           COALESCE(s.stored, 0),
           COALESCE(s.dropped, 0),
           COALESCE(s.gaps, 0),
           s.last_error,
           s.last_error_at
    FROM amqp.listener AS l
    LEFT JOIN amqp.listener_state AS s ON s.listener_id = l.listener_id
    LEFT JOIN amqp.listener_lease AS e ON l.enabled
    LEFT JOIN pg_stat_activity AS a ON a.pid = e.worker_pid AND amqp_inner.inbox_worked(e.worker_pid, e.worker_started)
    ORDER BY l.listener_id;
END;

COMMENT ON FUNCTION amqp.listener_status() IS
'Every row of amqp.listener, and what became of its notifications.
The columns are its channel, exchange, the daemon that listens (NULL if none does) and since when;
notifications received, published (confirmed by the broker), stored (in amqp.outbox) and dropped;
gaps told; and the last error.';
