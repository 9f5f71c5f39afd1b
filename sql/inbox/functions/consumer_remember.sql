CREATE FUNCTION amqp_inner.consumer_remember(consumer text, told_by text) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN format($sql$%s, fresh AS (
    INSERT INTO amqp.inbox_seen (consumer, message_id) SELECT %L, k.key FROM keyed AS k WHERE k.key IS NOT NULL
    ON CONFLICT DO NOTHING RETURNING 1
)
SELECT pg_catalog.count(k.key), (SELECT pg_catalog.count(*) FROM fresh) FROM keyed AS k$sql$,
    amqp_inner.consumer_keyed($2), $1);

COMMENT ON FUNCTION amqp_inner.consumer_remember(text, text) IS
'Part of the inbox: SQL for a staged message that is set aside: whether it has what tells a copy,
and whether that is new to the ledger, which has it from then on; NULL: nothing tells a copy.';
