CREATE FUNCTION amqp_inner.inbox_forget(consumer text, older_than interval, most integer) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    WITH gone AS (
        DELETE FROM amqp.inbox_seen AS s
        WHERE s.ctid = ANY (ARRAY(
            SELECT o.ctid FROM amqp.inbox_seen AS o
            WHERE o.consumer = $1 AND o.seen_at < now() - $2
            ORDER BY o.seen_at LIMIT $3))
        RETURNING 1
    )
    SELECT count(*) FROM gone;
END;

COMMENT ON FUNCTION amqp_inner.inbox_forget(text, interval, integer) IS
'Part of the inbox: forgets so many messages at most that a consumer has seen longer ago, and says
how many.';
