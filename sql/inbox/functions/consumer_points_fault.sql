-- What daemon/pg_amqp_daemon/consume/influxdb/ refuses: template.py, timestamp.py and line.py.
CREATE FUNCTION amqp_inner.consumer_points_fault(consumer amqp.consumer) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name CONSTANT text := '(routing_key|exchange|queue|(headers|body)\.[^{}]+|content_type|content_encoding|delivery_mode'
        '|priority|correlation_id|reply_to|expiration|message_id|timestamp|type|user_id|app_id)';
    template CONSTANT text := concat('([^{}]|\{\{|\}\}|\{', name, '\})*');
BEGIN
    RETURN CASE
        WHEN COALESCE(consumer.measurement, '') = '' THEN 'influxdb needs measurement'
        WHEN consumer.measurement !~ concat('^', template, '$')
            THEN 'measurement must be a template such as {routing_key} or pages_{headers.site}; a brace itself is written twice'
        WHEN array_position(consumer.tags, NULL) IS NOT NULL
             OR EXISTS (SELECT FROM unnest(consumer.tags) AS t WHERE t !~ concat('^([^=]+|[^=]+=', template, ')$'))
            THEN 'tags must be keys of the body, or NAME=TEMPLATE such as site={headers.site}'
        WHEN (SELECT count(*) > count(DISTINCT split_part(t, '=', 1)) FROM unnest(consumer.tags) AS t)
            THEN 'tags must not hold a name twice'
        WHEN jsonb_typeof(consumer.fields) <> 'object'
             OR jsonb_path_exists(consumer.fields, '$.* ? (@ != "integer" && @ != "float" && @ != "string" && @ != "none")')
             OR jsonb_path_exists(consumer.fields, '$.* ? (@.type() != "string")')
            THEN 'fields must be a JSON object of types, which are integer, float, string and none'
        WHEN EXISTS (SELECT FROM unnest(consumer.tags) AS t WHERE consumer.fields ? t)
            THEN 'fields must not name a tag'
        WHEN consumer."time" !~ concat('^', name, '(:(s|ms|us|ns))?$')
            THEN 'time must be such as body.at:ms, with unit s, ms, us or ns, or none for ISO 8601'
        WHEN array_position(consumer.content_types, NULL) IS NOT NULL
             OR EXISTS (SELECT FROM unnest(consumer.content_types) AS t WHERE t !~ '/' AND t NOT IN ('=json', '=line'))
            THEN 'content_types must be such as application/json or text/plain=line'
        WHEN consumer.deduplicate_by IS NOT NULL
            THEN 'deduplicate_by means nothing with influxdb: the same point is written to the same place'
        END;
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_points_fault(amqp.consumer) IS
'Part of the inbox: what in a row of amqp.consumer keeps messages from becoming points; NULL:
nothing.';
