CREATE FUNCTION amqp_inner.outbox_overdue(broker_id integer) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
SET jit = off
RETURN EXISTS (
    SELECT FROM amqp_inner.outbox_due($1, NULL, -1, 1, 1) AS d
    JOIN amqp.outbox AS o ON o.id = d.id
    WHERE greatest(o.created_at, o.next_attempt_at) < clock_timestamp() - interval '1 minute')
OR EXISTS (
    SELECT FROM (
        SELECT o.created_at, o.next_attempt_at FROM amqp.outbox AS o
        WHERE o.broker_id = $1 AND o.retain ORDER BY o.broker_id, o.id LIMIT 1
    ) AS r
    WHERE greatest(r.created_at, r.next_attempt_at) < clock_timestamp() - interval '1 minute');

COMMENT ON FUNCTION amqp_inner.outbox_overdue(integer) IS
'Part of amqp.outbox_status(): whether the next message of a broker, or the next retained one, has
been due for over a minute.';
