CREATE FUNCTION amqp.outbox_overdue(broker_id integer) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
SET jit = off
RETURN EXISTS (
    SELECT FROM amqp.outbox_due($1, NULL, -1, 1, 1) AS d
    JOIN amqp.outbox AS o ON o.id = d.id
    WHERE greatest(o.created_at, o.next_attempt_at) < clock_timestamp() - interval '1 minute');

COMMENT ON FUNCTION amqp.outbox_overdue(integer) IS
'Part of amqp.outbox_status(): whether the next message of a broker has been due for over a '
'minute.';
