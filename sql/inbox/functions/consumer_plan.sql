CREATE FUNCTION amqp.consumer_plan(consumer amqp.consumer, is_stream boolean) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    told_by text := NULLIF(COALESCE(consumer.deduplicate_by, CASE WHEN is_stream THEN 'none' ELSE 'message_id' END), 'none');
    plan jsonb := jsonb_build_object(
        'row', to_jsonb(consumer),
        'batch_seconds', date_part('epoch', consumer.batch_timeout),
        'start', amqp.consumer_offset(consumer.stream_offset));
    key record;
    keyed text;
    key_source text := 'pg_temp.amqp_stage AS s';
    statement text;
    stored text;
BEGIN
    IF consumer.influxdb IS NOT NULL THEN
        -- The same point again changes nothing, so nothing need be told.
        RETURN plan || jsonb_build_object(
            'influxdb', (SELECT to_jsonb(i) FROM ONLY amqp.influxdb AS i WHERE i.name = consumer.influxdb));
    END IF;
    IF told_by IS NULL THEN
        statement := $sql$WITH todo AS MATERIALIZED (
    SELECT s.n, s.redelivered AS again, false AS without_id FROM pg_temp.amqp_stage AS s
)$sql$;
    ELSE
        key := amqp.consumer_source(told_by);
        IF key.expression LIKE 'j.body%' THEN
            key_source := key_source || $sql$ CROSS JOIN LATERAL (
        SELECT pg_catalog.convert_from(s.body, 'UTF8')::pg_catalog.jsonb AS body OFFSET 0
    ) AS j$sql$;
        END IF;
        -- What is too long for an index is told by its hash.
        keyed := format(
            $sql$WITH keyed AS MATERIALIZED (
    SELECT q.n, q.redelivered, q.retried,
           CASE WHEN q.retried THEN NULL
                WHEN pg_catalog.octet_length(q.key) OPERATOR(pg_catalog.>) 255
                THEN pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
                    q.key, pg_catalog.getdatabaseencoding())), 'hex')
                ELSE NULLIF(q.key, '') END AS key
    FROM (SELECT s.n, s.redelivered, s.retried, %s AS key FROM %s OFFSET 0) AS q
)$sql$,
            CASE key.kind
                WHEN 'json path' THEN format('%s OPERATOR(pg_catalog.#>>) ''{}''::pg_catalog.text[]', key.expression)
                WHEN 'bytea' THEN format('pg_catalog.encode(pg_catalog.sha256(%s), ''hex'')', key.expression)
                ELSE format('%s::pg_catalog.text', key.expression) END,
            key_source);
        -- For a message that is set aside: whether it has a key, and whether that is new.
        plan := plan || jsonb_build_object('remember', format(
            $sql$%s, fresh AS (
    INSERT INTO amqp.inbox_seen (consumer, message_id) SELECT %L, k.key FROM keyed AS k WHERE k.key IS NOT NULL
    ON CONFLICT DO NOTHING RETURNING 1
)
SELECT pg_catalog.count(k.key), (SELECT pg_catalog.count(*) FROM fresh) FROM keyed AS k$sql$,
            keyed, consumer.name));
        statement := format(
            $sql$%s, first AS (
    SELECT k.key, pg_catalog.min(k.n) AS n FROM keyed AS k WHERE k.key IS NOT NULL GROUP BY k.key
), fresh AS (
    INSERT INTO amqp.inbox_seen (consumer, message_id) SELECT %L, f.key FROM first AS f
    ON CONFLICT DO NOTHING RETURNING message_id
), todo AS MATERIALIZED (
    SELECT k.n, k.redelivered AS again, NOT k.retried AS without_id FROM keyed AS k WHERE k.key IS NULL
    UNION ALL
    SELECT f.n, false, false FROM first AS f WHERE f.key IN (SELECT r.message_id FROM fresh AS r)
)$sql$, keyed, consumer.name);
    END IF;
    stored := CASE
        WHEN consumer.target_table IS NOT NULL THEN amqp.consumer_into_table(consumer)
        WHEN consumer.target_function IS NOT NULL THEN amqp.consumer_into_function(consumer)
        ELSE (SELECT format(
            $sql$stored AS (
    INSERT INTO amqp.inbox (consumer, %s)
    SELECT %L, %s
    FROM pg_temp.amqp_stage AS s
    WHERE s.n IN (SELECT t.n FROM todo AS t)
    ORDER BY s.n
    RETURNING 1
)$sql$, m.names, consumer.name, m.expressions) FROM amqp.consumer_message(consumer) AS m) END;
    statement := concat(statement, ', ', stored, format($sql$
SELECT (SELECT pg_catalog.count(*) FROM %s), (SELECT pg_catalog.count(*) FROM todo AS t WHERE t.without_id), %s$sql$,
        -- Of several updates of a row only one is made, and all are stored.
        CASE WHEN consumer.on_conflict = 'update' THEN 'todo' ELSE 'stored' END,
        -- Names are what statements are made of: whether they still mean the same.
        CASE WHEN consumer.target_table IS NOT NULL
             THEN format('pg_catalog.to_regclass(%L)::pg_catalog.oid OPERATOR(pg_catalog.=) %s',
                         consumer.target_table::text, consumer.target_table::oid)
             WHEN consumer.target_function IS NOT NULL
             THEN (SELECT format('pg_catalog.to_regprocedure(%L)::pg_catalog.oid OPERATOR(pg_catalog.=) %s',
                                 amqp.consumer_signature(f.function), f.function::oid)
                   FROM amqp.consumer_function(consumer.target_function, consumer.target_function_id) AS f)
             ELSE 'true' END));
    RETURN plan || jsonb_build_object('statement', statement);
END
$$;

COMMENT ON FUNCTION amqp.consumer_plan(amqp.consumer, boolean) IS
'Part of the inbox: how pg-amqp consume stores the messages of a consumer: the row, the statement '
'that stores what is in its stage, and the one that remembers a message which is set aside. The '
'first gives the number of those stored, of those that had nothing to tell a copy by, and whether '
'the target still has the name that the statement calls it. Errors: whatever keeps the row from '
'working.';
