-- One relay works a broker, and while it does, no batch is delivered beside it. 1634562416 is "amqp" in ASCII; the
-- next two numbers are the keys of outbox_lock_batch() and of pg-amqp install-outbox.
CREATE FUNCTION amqp.outbox_lock(broker_id integer) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN pg_try_advisory_lock(1634562416, $1);

COMMENT ON FUNCTION amqp.outbox_lock(integer) IS
'Part of the outbox: makes this session the one that works a broker''s outbox, until it ends. False: another one does.';
