CREATE FUNCTION amqp.outbox_wake(broker_id integer) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    UPDATE amqp.outbox AS o SET next_attempt_at = NULL
    WHERE o.broker_id = $1 AND o.next_attempt_at <= statement_timestamp() AND o.ordering_key IS NOT NULL;
END;

COMMENT ON FUNCTION amqp.outbox_wake(integer) IS
'Part of the outbox, for whoever holds its lock: makes the messages with an ordering key that waited and are due ready, to be read in order of id.';
