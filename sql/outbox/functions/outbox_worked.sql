-- Who has just connected, or belongs to no role, is respected.
CREATE FUNCTION amqp_inner.outbox_worked(lock_key bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Sessions are shown as they were when the transaction first looked at any.
    PERFORM pg_stat_clear_snapshot();
    RETURN EXISTS (
        SELECT FROM pg_locks AS l
        LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
        -- A prepared transaction has no session, but the lock of its own number.
        LEFT JOIN pg_locks AS t ON l.pid IS NULL AND t.pid IS NULL AND t.locktype = 'transactionid'
            AND t.virtualtransaction = l.virtualtransaction
        LEFT JOIN pg_prepared_xacts AS x ON x.transaction = t.transactionid
        CROSS JOIN LATERAL (SELECT COALESCE(a.usesysid, to_regrole(quote_ident(x.owner))::oid) AS id) AS u
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
          AND (l.classid::bigint << 32 | l.objid::bigint) = outbox_worked.lock_key
          AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
          AND l.pid IS DISTINCT FROM pg_backend_pid()
          AND (u.id IS NULL OR amqp_inner.outbox_may_work(u.id)));
END
$$;

COMMENT ON FUNCTION amqp_inner.outbox_worked(bigint) IS
'Part of the outbox: whether another session whose role may work the outbox
(amqp_inner.outbox_may_work()) holds the advisory lock with this key.';
