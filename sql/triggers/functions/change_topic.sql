-- A level at a time: what a value brings with it must not make two levels of one, nor a wildcard.
CREATE FUNCTION amqp_inner.change_topic(
    template text,
    operation text,
    schema_name name,
    table_name name,
    new_row jsonb,
    old_row jsonb
) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    level pg_catalog.text;
    filled pg_catalog.text;
    routing_key pg_catalog.text;
BEGIN
    FOREACH level IN ARRAY pg_catalog.string_to_array(template, '/') LOOP
        filled := CASE WHEN pg_catalog.strpos(level, '{') OPERATOR(pg_catalog.>) 0
                       THEN amqp_inner.change_routing_key(level, operation, schema_name, table_name, new_row, old_row)
                       ELSE level END;
        IF filled OPERATOR(pg_catalog.=) '' OR filled OPERATOR(pg_catalog.~) '[/.*+#]' THEN
            RAISE EXCEPTION 'invalid level of an MQTT topic: "%"', pg_catalog.left(filled, 80)
                USING ERRCODE = 'invalid_parameter_value',
                      DETAIL = pg_catalog.format('The topic template "%s" gives it for "%s".', template, level),
                      HINT = 'A level is not empty and has none of / . * + #.';
        END IF;
        routing_key := pg_catalog.concat_ws('.', routing_key, filled);
    END LOOP;
    IF routing_key IS NULL OR pg_catalog.octet_length(routing_key) OPERATOR(pg_catalog.>) 255 THEN
        RAISE EXCEPTION 'invalid MQTT topic "%"', pg_catalog.left(pg_catalog.translate(routing_key, '.', '/'), 80)
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'A topic has 1 to 255 bytes.';
    END IF;
    RETURN routing_key;
END
$$;

COMMENT ON FUNCTION amqp_inner.change_topic(text, text, name, name, jsonb, jsonb) IS
'The routing key of a topic template of amqp.publish_change_mqtt(), filled in as
amqp_inner.change_routing_key() does.
Errors: 22023 where a value is empty or has / . * + or #.';
