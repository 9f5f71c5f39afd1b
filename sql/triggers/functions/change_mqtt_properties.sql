CREATE FUNCTION amqp_inner.change_mqtt_properties(properties text) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    given pg_catalog.jsonb := COALESCE(properties, '{}');
    property pg_catalog.text;
    value pg_catalog.jsonb;
    kind pg_catalog.text;
BEGIN
    IF pg_catalog.jsonb_typeof(given) OPERATOR(pg_catalog.<>) 'object' THEN
        RAISE EXCEPTION 'properties must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an object, such as ''{"retain": true}''.';
    END IF;
    FOR property, value IN SELECT e.key, e.value FROM pg_catalog.jsonb_each(given) AS e LOOP
        kind := CASE property
            WHEN 'qos' THEN 'number' WHEN 'retain' THEN 'boolean' WHEN 'headers' THEN 'object'
            WHEN 'expiration' THEN 'string' WHEN 'exchange' THEN 'string' END;
        IF kind IS NULL THEN
            RAISE EXCEPTION 'unknown property "%"', property
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Properties are qos, retain, headers, expiration and exchange.';
        ELSIF pg_catalog.jsonb_typeof(value) OPERATOR(pg_catalog.<>) ALL (ARRAY[kind, 'null']) THEN
            RAISE EXCEPTION 'invalid value for %: %', property, pg_catalog.left(value::pg_catalog.text, 40)
                USING ERRCODE = 'invalid_parameter_value', HINT = pg_catalog.format('The type must be: %s.', kind);
        ELSIF property OPERATOR(pg_catalog.=) 'qos' AND value::pg_catalog.text OPERATOR(pg_catalog.<>) ALL ('{0,1,"null"}') THEN
            RAISE EXCEPTION 'invalid value for qos: %', value
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Use 0 (at most once) or 1 (at least once).';
        END IF;
    END LOOP;
    -- A property that is null is not given.
    RETURN pg_catalog.jsonb_build_object(
        'delivery_mode', CASE WHEN given OPERATOR(pg_catalog.->) 'qos' OPERATOR(pg_catalog.=) '0' THEN 1 ELSE 2 END,
        'retain', COALESCE((given OPERATOR(pg_catalog.->>) 'retain')::boolean, false),
        'exchange', COALESCE(given OPERATOR(pg_catalog.->>) 'exchange', 'amq.topic'))
    OPERATOR(pg_catalog.||) CASE WHEN given OPERATOR(pg_catalog.->>) 'headers' IS NOT NULL
        THEN pg_catalog.jsonb_build_object('headers', given OPERATOR(pg_catalog.->) 'headers') ELSE '{}' END
    OPERATOR(pg_catalog.||) CASE WHEN given OPERATOR(pg_catalog.->>) 'expiration' IS NOT NULL
        THEN pg_catalog.jsonb_build_object('expiration', given OPERATOR(pg_catalog.->) 'expiration') ELSE '{}' END;
END
$$;

COMMENT ON FUNCTION amqp_inner.change_mqtt_properties(text) IS
'Reads the properties of amqp.publish_change_mqtt(), with qos as delivery_mode; NULL is none.
Errors: 22023 unknown property, or one of a wrong type; 22P02 no JSON.';
