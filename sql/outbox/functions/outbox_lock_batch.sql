CREATE FUNCTION amqp.outbox_lock_batch(broker_id integer) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN CASE WHEN pg_try_advisory_xact_lock_shared(1634562416, $1)
            THEN pg_advisory_xact_lock(1634562417, $1) IS NOT NULL ELSE false END;

COMMENT ON FUNCTION amqp.outbox_lock_batch(integer) IS
'Part of amqp.publish_outbox_batch(): waits for others who deliver a batch to the broker, and keeps them waiting until the transaction ends. False: a relay works it.';
