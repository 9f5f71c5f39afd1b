CREATE FUNCTION amqp_inner.consumer_todo(consumer text, told_by text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN $2 IS NULL THEN $sql$WITH todo AS MATERIALIZED (
    SELECT s.n, s.redelivered AS again, false AS without_id FROM pg_temp.amqp_stage AS s
)$sql$
    ELSE format($sql$%s, first AS (
    SELECT k.key, pg_catalog.min(k.n) AS n FROM keyed AS k WHERE k.key IS NOT NULL GROUP BY k.key
), fresh AS (
    INSERT INTO amqp.inbox_seen (consumer, message_id) SELECT %L, f.key FROM first AS f
    ON CONFLICT DO NOTHING RETURNING message_id
), todo AS MATERIALIZED (
    SELECT k.n, k.redelivered AS again, NOT k.retried AS without_id FROM keyed AS k WHERE k.key IS NULL
    UNION ALL
    SELECT f.n, false, false FROM first AS f WHERE f.key IN (SELECT r.message_id FROM fresh AS r)
)$sql$, amqp_inner.consumer_keyed($2), $1) END;

COMMENT ON FUNCTION amqp_inner.consumer_todo(text, text) IS
'Part of the inbox: SQL that finds the staged messages that are no copies, and has the ledger
remember them.
Errors: those of amqp_inner.consumer_keyed().';
