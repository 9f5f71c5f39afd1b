CREATE FUNCTION amqp_inner.outbox_note(broker_id integer, error text) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET lock_timeout = '50ms'
BEGIN ATOMIC
    UPDATE amqp.outbox_trouble AS t SET ended_at = clock_timestamp()
    WHERE $2 IS NULL AND t.broker_id = $1 AND t.ended_at IS NULL;
    INSERT INTO amqp.outbox_trouble (broker_id, last_error, last_error_at)
    SELECT $1, $2, clock_timestamp() WHERE $2 IS NOT NULL
    ON CONFLICT ON CONSTRAINT outbox_trouble_pkey
    DO UPDATE SET last_error = EXCLUDED.last_error, last_error_at = EXCLUDED.last_error_at, ended_at = NULL;
END;

COMMENT ON FUNCTION amqp_inner.outbox_note(integer, text) IS
'Part of the outbox: remembers for amqp.outbox_status() what keeps messages from being delivered to
a broker from now on; NULL: it is over.';
