-- As amqp_inner.inbox_take() does: a lock could be taken by others.
CREATE FUNCTION amqp_inner.listener_take() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
AS $$
DECLARE
    held record;
BEGIN
    INSERT INTO amqp.listener_lease DEFAULT VALUES ON CONFLICT DO NOTHING;
    SELECT l.worker_pid, l.worker_started INTO held FROM amqp.listener_lease AS l FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Sessions are shown as they were when the transaction first looked at any.
    PERFORM pg_stat_clear_snapshot();
    IF held.worker_pid <> pg_backend_pid() AND amqp_inner.inbox_worked(held.worker_pid, held.worker_started) THEN
        RETURN false;
    END IF;
    UPDATE amqp.listener_lease
    SET worker_pid = a.pid, worker_started = a.backend_start
    FROM pg_stat_activity AS a WHERE a.pid = pg_backend_pid();
    RETURN FOUND;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

COMMENT ON FUNCTION amqp_inner.listener_take() IS
'Part of the listener: makes this session the one that listens, until it ends.
False: another one does, or is about to.';
