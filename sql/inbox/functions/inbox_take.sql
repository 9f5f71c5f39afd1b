-- What is stored is stored by the session that is in the row, so no lock is needed that others could take. A session that
-- is gone, or whose number another one has by now, counts no more.
CREATE FUNCTION amqp_inner.inbox_take(consumer text) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
AS $$
#variable_conflict use_column
DECLARE
    held record;
BEGIN
    INSERT INTO amqp.inbox_state (consumer) VALUES (inbox_take.consumer) ON CONFLICT DO NOTHING;
    SELECT s.worker_pid, s.worker_started INTO held
    FROM amqp.inbox_state AS s WHERE s.consumer = inbox_take.consumer FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- Sessions are shown as they were when the transaction first looked at any.
    PERFORM pg_stat_clear_snapshot();
    IF held.worker_pid <> pg_backend_pid() AND amqp_inner.inbox_worked(held.worker_pid, held.worker_started) THEN
        RETURN false;
    END IF;
    UPDATE amqp.inbox_state AS s
    SET worker_pid = a.pid, worker_started = a.backend_start
    FROM pg_stat_activity AS a
    WHERE s.consumer = inbox_take.consumer AND a.pid = pg_backend_pid();
    RETURN FOUND;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;

COMMENT ON FUNCTION amqp_inner.inbox_take(text) IS
'Part of the inbox: makes this session the one that works a consumer, until it ends.
False: another one does, or is about to.';
