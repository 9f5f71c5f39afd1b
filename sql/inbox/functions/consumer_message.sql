CREATE FUNCTION amqp_inner.consumer_message(consumer amqp.consumer, OUT names text, OUT expressions text)
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum),
           string_agg(CASE a.attname WHEN 'broker_id' THEN format('%s', ($1).broker_id)
                                     WHEN 'queue' THEN format('%L::pg_catalog.text', ($1).queue)
                                     ELSE format('s.%I', a.attname) END, ', ' ORDER BY a.attnum)
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.typrelid = a.attrelid
    WHERE t.oid = 'amqp.message'::regtype AND a.attnum > 0 AND NOT a.attisdropped;
END;

COMMENT ON FUNCTION amqp_inner.consumer_message(amqp.consumer) IS
'Part of the inbox: the columns of amqp.message, and SQL for each from the stage.';
