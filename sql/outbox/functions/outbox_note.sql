CREATE FUNCTION amqp.outbox_note(broker_id integer, error text) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    INSERT INTO amqp.outbox_trouble (broker_id, last_error, last_error_at)
    VALUES ($1, $2, clock_timestamp())
    ON CONFLICT ON CONSTRAINT outbox_trouble_pkey
    DO UPDATE SET last_error = EXCLUDED.last_error, last_error_at = EXCLUDED.last_error_at;
END;

COMMENT ON FUNCTION amqp.outbox_note(integer, text) IS
'Part of the outbox: remembers for amqp.outbox_status() what went wrong.';
