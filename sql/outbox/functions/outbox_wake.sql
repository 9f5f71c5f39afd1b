CREATE FUNCTION amqp.outbox_wake(broker_id integer) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    UPDATE amqp.outbox AS o SET next_attempt_at = NULL
    -- What somebody has locked is left as it is: waiting for him would keep everything else waiting.
    WHERE o.id = ANY (ARRAY(
        SELECT e.id FROM amqp.outbox AS e
        WHERE e.broker_id = $1 AND e.next_attempt_at <= statement_timestamp() AND e.ordering_key IS NOT NULL
        FOR UPDATE SKIP LOCKED));
END;

COMMENT ON FUNCTION amqp.outbox_wake(integer) IS
'Part of the outbox, for whoever holds its lock: makes the messages with an ordering key that waited and are due ready, to be read in order of id.';
