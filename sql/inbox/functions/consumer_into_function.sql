-- A reply is a message of the outbox. The inner query has the calls made in the order of the queue.
CREATE FUNCTION amqp_inner.consumer_into_function(consumer amqp.consumer) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    called record;
BEGIN
    SELECT format('%I.%I', n.nspname, p.proname) AS name, p.prorettype AS type,
           t.typtype = 'c' OR t.oid = 'record'::regtype AS is_row
    INTO STRICT called
    FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace JOIN pg_type AS t ON t.oid = p.prorettype
    WHERE p.oid = (amqp_inner.consumer_function(consumer.target_function, consumer.target_function_id)).function;
    RETURN format(
        $sql$stored AS MATERIALIZED (
    SELECT o.n, o.retried, o.reply_to, o.correlation_id, %s(o.message) AS reply
    FROM (
        SELECT s.n, s.retried, s.reply_to, s.correlation_id, ROW(%s)::amqp.message AS message
        FROM pg_temp.amqp_stage AS s
        WHERE s.n IN (SELECT t.n FROM todo AS t)
        ORDER BY s.n OFFSET 0
    ) AS o
)$sql$, called.name, (amqp_inner.consumer_message(consumer)).expressions)
    || CASE WHEN called.type <> 'void'::regtype THEN format(
        $sql$, replies AS (
    INSERT INTO amqp.outbox (broker_id, exchange, routing_key, body, correlation_id, content_type)
    SELECT %s, '', r.reply_to, %s, r.correlation_id, %L
    FROM stored AS r
    WHERE r.reply_to OPERATOR(pg_catalog.<>) '' AND r.reply IS DISTINCT FROM NULL%s
    ORDER BY r.n
)$sql$, consumer.broker_id,
            CASE WHEN called.type = 'bytea'::regtype THEN 'r.reply'
                 WHEN called.is_row THEN 'pg_catalog.convert_to(pg_catalog.to_jsonb(r.reply)::pg_catalog.text, ''UTF8'')'
                 ELSE 'pg_catalog.convert_to(r.reply::pg_catalog.text, ''UTF8'')' END,
            CASE WHEN called.is_row OR called.type IN ('json'::regtype, 'jsonb'::regtype) THEN 'application/json' END,
            -- Who asked was told of the error when the message died.
            CASE WHEN consumer.reply_errors THEN ' AND NOT r.retried' END)
       ELSE '' END;
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_into_function(amqp.consumer) IS
'Part of the inbox: SQL that calls a function for each staged message that is to be stored, and
puts replies into the outbox.
Errors: those of amqp_inner.consumer_function().';
