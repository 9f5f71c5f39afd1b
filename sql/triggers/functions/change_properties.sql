CREATE FUNCTION amqp_inner.change_properties(properties text, for_outbox boolean) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    found pg_catalog.jsonb := properties;
    property pg_catalog.text;
    value pg_catalog.jsonb;
    kind pg_catalog.text;
BEGIN
    IF pg_catalog.jsonb_typeof(found) OPERATOR(pg_catalog.<>) 'object' THEN
        RAISE EXCEPTION 'properties must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an object, such as ''{"delivery_mode": 2}''.';
    END IF;
    FOR property, value IN SELECT e.key, e.value FROM pg_catalog.jsonb_each(found) AS e LOOP
        kind := CASE
            WHEN property OPERATOR(pg_catalog.=) ANY ('{delivery_mode,priority}') THEN 'a whole number'
            WHEN property OPERATOR(pg_catalog.=) 'mandatory' THEN 'boolean'
            WHEN property OPERATOR(pg_catalog.=) 'headers' THEN 'object'
            WHEN property OPERATOR(pg_catalog.=) ANY ('{type,app_id,expiration}') THEN 'string'
            WHEN property OPERATOR(pg_catalog.=) 'ordering_key' AND for_outbox THEN 'string'
            END;
        IF kind IS NULL THEN
            RAISE EXCEPTION 'unknown property "%"', property
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = CASE WHEN for_outbox
                          THEN 'Properties are delivery_mode, headers, type, app_id, priority, expiration, mandatory and ordering_key.'
                          ELSE 'Properties are delivery_mode, headers, type, app_id, priority, expiration and mandatory; ordering_key is for amqp.publish_change_outbox().' END;
        ELSIF NOT (CASE WHEN kind OPERATOR(pg_catalog.=) 'a whole number'
                        THEN value::pg_catalog.text OPERATOR(pg_catalog.~) '^(-?[0-9]{1,9}|null)$'
                        ELSE pg_catalog.jsonb_typeof(value) OPERATOR(pg_catalog.=) ANY (ARRAY[kind, 'null']) END) THEN
            RAISE EXCEPTION 'invalid value for %: %', property, pg_catalog.left(value::pg_catalog.text, 40)
                USING ERRCODE = 'invalid_parameter_value', HINT = pg_catalog.format('The type must be: %s.', kind);
        END IF;
    END LOOP;
    -- A property that is null is not given.
    RETURN pg_catalog.jsonb_strip_nulls(found OPERATOR(pg_catalog.-) 'headers') OPERATOR(pg_catalog.||)
        CASE WHEN pg_catalog.jsonb_typeof(found OPERATOR(pg_catalog.->) 'headers') OPERATOR(pg_catalog.=) 'object'
             THEN pg_catalog.jsonb_build_object('headers', found OPERATOR(pg_catalog.->) 'headers') ELSE '{}' END;
END
$$;

COMMENT ON FUNCTION amqp_inner.change_properties(text, boolean) IS
'Reads the properties of amqp.publish_change() or, with for_outbox, of
amqp.publish_change_outbox().
Errors: 22023 unknown property, or one of a wrong type; 22P02 no JSON.';
