-- All of them, in order, with those that wait: a later message to the same topic must not go before these. As
-- amqp_inner.outbox_due(), without SET and with the limit of bytes counted by what headers may be at most.
CREATE FUNCTION amqp_inner.outbox_retained(
    broker_id integer,
    after_id bigint,
    row_limit integer,
    byte_limit bigint
) RETURNS TABLE (
    id bigint,
    is_due boolean,
    routing_key text,
    content_type text,
    correlation_id text,
    headers text,
    expiration text,
    message_id text,
    body bytea
)
LANGUAGE sql STABLE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT c.id, c.is_due, c.routing_key, c.content_type, c.correlation_id,
           CASE WHEN c.is_due THEN c.headers::text END, c.expiration, c.message_id, CASE WHEN c.is_due THEN c.body END
    FROM (
        SELECT r.*, sum(CASE WHEN r.is_due THEN r.most_bytes END)
                   OVER (ORDER BY r.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
        FROM (
            SELECT o.id, (o.next_attempt_at <= statement_timestamp()) IS NOT FALSE AS is_due, o.routing_key, o.content_type,
                   o.correlation_id, o.headers, o.expiration, o.message_id, o.body,
                   octet_length(o.body)::bigint + CASE WHEN o.headers IS NULL THEN 0 ELSE 131000 END AS most_bytes
            FROM amqp.outbox AS o
            WHERE (o.broker_id, o.id) > (outbox_retained.broker_id, COALESCE(outbox_retained.after_id, -9223372036854775808))
              AND o.broker_id <= outbox_retained.broker_id
              AND o.retain
            ORDER BY o.broker_id, o.id
            LIMIT outbox_retained.row_limit
        ) AS r
    ) AS c
    WHERE COALESCE(c.before, 0) < outbox_retained.byte_limit
    ORDER BY c.id;
END;

COMMENT ON FUNCTION amqp_inner.outbox_retained(integer, bigint, integer, bigint) IS
'Part of the outbox, for whoever holds its lock: retained messages of a broker behind the id
after_id (NULL: from the beginning), in order of id, row_limit at most and no more once byte_limit
bytes may be reached.
Those that are not due yet come without headers and body.';
