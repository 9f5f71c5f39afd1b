CREATE FUNCTION amqp_inner.outbox_wake(broker_id integer) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    WITH woken AS (
        UPDATE amqp.outbox AS o SET next_attempt_at = NULL
        -- What somebody has locked is left as it is: waiting for him would keep everything else waiting.
        WHERE o.id = ANY (ARRAY(
            SELECT e.id FROM amqp.outbox AS e
            WHERE e.broker_id = $1 AND e.next_attempt_at <= statement_timestamp() AND e.ordering_key IS NOT NULL
              AND e.retain IS NOT TRUE
            ORDER BY e.next_attempt_at, e.id LIMIT 10000
            FOR UPDATE SKIP LOCKED))
        RETURNING 1
    )
    SELECT count(*) FROM woken;
END;

COMMENT ON FUNCTION amqp_inner.outbox_wake(integer) IS
'Part of the outbox, for whoever holds its lock: makes messages with an ordering key that waited
and are due ready, to be read in order of id; returns how many.
10,000 at most, those that have been due for longest: a statement must not take long.';
