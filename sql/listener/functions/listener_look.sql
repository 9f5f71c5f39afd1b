-- Twice a second: what 1,000 rows have in common takes more than 100 ms, in which nothing is heard.
CREATE FUNCTION amqp_inner.listener_look(server text, seen text) RETURNS TABLE (
    clock text,
    ours boolean,
    usage double precision,
    may_store boolean,
    version text,
    rows jsonb
)
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT amqp_inner.listener_clock(),
           COALESCE((SELECT l.worker_pid = pg_backend_pid() FROM amqp.listener_lease AS l), false),
           pg_notification_queue_usage(),
           v.may_store,
           v.version,
           CASE WHEN v.version IS DISTINCT FROM $2 THEN COALESCE((
               SELECT jsonb_agg(amqp_inner.listener_message(l, $1) || jsonb_build_object('row', to_jsonb(l)) ORDER BY l.listener_id)
               FROM amqp.listener AS l
               WHERE l.enabled), '[]') END
    FROM (
        SELECT p.may_store, concat_ws(' ', p.may_store, count(l.*), sum(hashtextextended(l::text, 0))) AS version
        FROM (SELECT has_table_privilege('amqp.outbox', 'INSERT') AS may_store) AS p
        LEFT JOIN amqp.listener AS l ON l.enabled
        GROUP BY p.may_store) AS v;
END;

COMMENT ON FUNCTION amqp_inner.listener_look(text, text) IS
'Part of the listener: PostgreSQL''s clock, whether this session is the one that listens, how full
the queue of notifications is, whether the role may put messages into amqp.outbox, and the rows
with what their messages have in common, unless their version is the one that was seen.';
