CREATE FUNCTION amqp.retry_dead_messages(consumer text, ids bigint[] DEFAULT NULL) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    WITH asked AS (
        UPDATE amqp.inbox_dead AS d SET retry = true
        WHERE d.consumer = $1 AND ($2 IS NULL OR d.id = ANY ($2))
        RETURNING 1
    )
    SELECT count(*) FROM asked;
END;

COMMENT ON FUNCTION amqp.retry_dead_messages(text, bigint[]) IS
'Has the daemon try dead messages of a consumer again, and returns their number.
They are all, or those with the given ids, and go in the order in which they died. Those that are
stored leave amqp.inbox_dead.';
