-- Where a row is alive, that is not seen by a snapshot older than the TRUNCATE, it is left to a relay.
CREATE FUNCTION amqp_inner.outbox_compact() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The size first: of a large table that holds nothing, the rest reads all.
    IF pg_table_size('amqp.outbox') < 64 * 1024 * 1024 OR EXISTS (SELECT FROM amqp.outbox)
       OR NOT amqp_inner.outbox_lock_to_compact() THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT FROM amqp.outbox) THEN
        RAISE lock_not_available;
    END IF;
    TRUNCATE amqp.outbox;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    -- Together with the lock.
    RETURN false;
END
$$;

COMMENT ON FUNCTION amqp_inner.outbox_compact() IS
'Part of amqp.publish_outbox_batch(): if the outbox has grown to 64 MB and holds nothing, gives the
space back, whatever transactions are open.
true: it is done. Errors: those of amqp_inner.outbox_lock_to_compact().';
