-- Of another role's session the start is not shown, but its name is.
CREATE FUNCTION amqp_inner.inbox_worked(pid integer, started timestamptz) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT EXISTS (
        SELECT FROM pg_stat_activity AS a
        WHERE a.pid = $1
          AND CASE WHEN a.backend_start IS NULL THEN starts_with(a.application_name, 'pg-amqp ')
                   ELSE a.backend_start = $2 END);
END;

COMMENT ON FUNCTION amqp_inner.inbox_worked(integer, timestamptz) IS
'Part of the inbox: whether there is this session.';
