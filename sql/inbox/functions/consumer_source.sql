-- Everything is qualified: what these functions give runs with the search_path of the daemon's role, so that targets
-- find what they are used to.
CREATE FUNCTION amqp_inner.consumer_source(source text, OUT kind text, OUT expression text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    topic CONSTANT text := $topic$pg_catalog.translate(s.routing_key, './', '/.')$topic$;
    -- Keys without a dot, or any in double quotes.
    path CONSTANT text := '("([^"]|"")+"|[^."]+)(\.("([^"]|"")+"|[^."]+))*';
    keys text[];
BEGIN
    IF source ~ '^(exchange|routing_key|content_type|content_encoding|correlation_id|reply_to|expiration|message_id|type|user_id|app_id|cluster_id)$' THEN
        kind := 'text';
        expression := format('s.%I', source);
    ELSIF source IN ('delivery_mode', 'priority') THEN
        kind := 'integer';
        expression := format('s.%I', source);
    ELSIF source = 'timestamp' THEN
        kind := 'timestamptz';
        expression := 's."timestamp"';
    ELSIF source = 'redelivered' THEN
        kind := 'boolean';
        expression := 's.redelivered';
    ELSIF source = 'stream_offset' THEN
        kind := 'bigint';
        expression := 's.stream_offset';
    ELSIF source = 'now' THEN
        kind := 'timestamptz';
        expression := 'pg_catalog.now()';
    ELSIF source = 'mqtt_topic' THEN
        kind := 'text';
        expression := topic;
    ELSIF source ~ '^mqtt_topic\[[1-9][0-9]{0,2}\]$' THEN
        kind := 'text';
        expression := format('(pg_catalog.string_to_array(%s, ''/''))%s', topic, substr(source, 11));
    ELSIF source = 'body' THEN
        kind := 'bytea';
        expression := 's.body';
    ELSIF source = 'headers' THEN
        kind := 'jsonb';
        expression := 's.headers';
    ELSIF source ~ ('^(body|headers)\.' || path || '$') THEN
        SELECT array_agg(COALESCE(replace(m[1], '""', '"'), m[2])) INTO keys
        FROM regexp_matches(substr(source, strpos(source, '.') + 1), '"((?:[^"]|"")+)"|([^."]+)', 'g') AS m;
        kind := 'json path';
        -- One key, which nearly all are, is cheaper to find so.
        expression := CASE WHEN source LIKE 'body.%' THEN 'j.body' ELSE 's.headers' END
            || CASE WHEN cardinality(keys) = 1 AND keys[1] !~ '^[0-9]+$'
                    THEN format(' OPERATOR(pg_catalog.->) %L::pg_catalog.text', keys[1])
                    ELSE format(' OPERATOR(pg_catalog.#>) %L::pg_catalog.text[]', keys) END;
    ELSE
        RAISE EXCEPTION 'invalid source of a value: "%"', source
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Sources are body, body.PATH, headers, headers.NAME, the properties, exchange, routing_key, redelivered, stream_offset, mqtt_topic, mqtt_topic[LEVEL] and now.';
    END IF;
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_source(text) IS
'Part of the inbox: SQL for a source of a value, as amqp.consumer.columns has them, where s is a
row like amqp.message and j.body its body as jsonb.
Errors: 22023 no such source.';
