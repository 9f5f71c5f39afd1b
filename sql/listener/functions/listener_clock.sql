-- Of one length, so that texts sort as times do.
CREATE FUNCTION amqp_inner.listener_clock() RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"');
END;

COMMENT ON FUNCTION amqp_inner.listener_clock() IS
'Part of the listener: PostgreSQL''s clock as a gap tells it, ISO 8601 with microseconds and zone.';
