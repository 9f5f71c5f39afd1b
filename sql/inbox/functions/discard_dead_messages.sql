CREATE FUNCTION amqp.discard_dead_messages(consumer text, ids bigint[] DEFAULT NULL) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    WITH gone AS (
        DELETE FROM amqp.inbox_dead AS d
        WHERE d.consumer = $1 AND ($2 IS NULL OR d.id = ANY ($2))
        RETURNING 1
    )
    SELECT count(*) FROM gone;
END;

COMMENT ON FUNCTION amqp.discard_dead_messages(text, bigint[]) IS
'Deletes dead messages of a consumer for good, all or those with the given ids, and returns their
number.';
