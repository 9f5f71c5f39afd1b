CREATE FUNCTION amqp_inner.consumer_into_inbox(consumer amqp.consumer) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT format($sql$stored AS (
    INSERT INTO amqp.inbox (consumer, %s)
    SELECT %L, %s
    FROM pg_temp.amqp_stage AS s
    WHERE s.n IN (SELECT t.n FROM todo AS t)
    ORDER BY s.n
    RETURNING 1
)$sql$, m.names, ($1).name, m.expressions)
    FROM amqp_inner.consumer_message($1) AS m;
END;

COMMENT ON FUNCTION amqp_inner.consumer_into_inbox(amqp.consumer) IS
'Part of the inbox: SQL that puts the staged messages that are to be stored into amqp.inbox.';
