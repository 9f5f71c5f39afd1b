-- Beside amqp_inner.outbox_note(): what keeps one kind of message waiting does not end with a delivery of the other kind.
CREATE FUNCTION amqp_inner.outbox_note_mqtt(broker_id integer, error text) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET lock_timeout = '50ms'
BEGIN ATOMIC
    UPDATE amqp.outbox_trouble AS t SET mqtt_error = NULL
    WHERE $2 IS NULL AND t.broker_id = $1 AND t.mqtt_error IS NOT NULL;
    INSERT INTO amqp.outbox_trouble AS t (broker_id, last_error, last_error_at, ended_at, mqtt_error)
    SELECT $1, $2, clock_timestamp(), clock_timestamp(), $2 WHERE $2 IS NOT NULL
    ON CONFLICT ON CONSTRAINT outbox_trouble_pkey
    DO UPDATE SET mqtt_error = EXCLUDED.mqtt_error,
                  last_error = CASE WHEN t.ended_at IS NULL THEN t.last_error ELSE EXCLUDED.last_error END,
                  last_error_at = CASE WHEN t.ended_at IS NULL THEN t.last_error_at ELSE EXCLUDED.last_error_at END;
END;

COMMENT ON FUNCTION amqp_inner.outbox_note_mqtt(integer, text) IS
'Part of the outbox: remembers for amqp.outbox_status() what keeps retained messages from being
delivered to a broker from now on; NULL: it is over.';
