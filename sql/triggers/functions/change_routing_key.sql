CREATE FUNCTION amqp_inner.change_routing_key(
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
    -- Every part but the first begins behind a "{".
    parts pg_catalog.text[] := pg_catalog.string_to_array(template, '{');
    routing_key pg_catalog.text := parts[1];
    part pg_catalog.text;
    place integer;
    field pg_catalog.text;
    value pg_catalog.text;
BEGIN
    FOREACH part IN ARRAY parts[2:] LOOP
        place := pg_catalog.strpos(part, '}');
        field := CASE WHEN place OPERATOR(pg_catalog.>) 0 THEN pg_catalog.left(part, place OPERATOR(pg_catalog.-) 1) END;
        -- A row that the operation does not have gives way to the other one.
        value := CASE
            WHEN pg_catalog.starts_with(field, 'new.') THEN COALESCE(new_row, old_row) OPERATOR(pg_catalog.->>) pg_catalog.substr(field, 5)
            WHEN pg_catalog.starts_with(field, 'old.') THEN COALESCE(old_row, new_row) OPERATOR(pg_catalog.->>) pg_catalog.substr(field, 5)
            WHEN field OPERATOR(pg_catalog.=) 'op' THEN operation
            WHEN field OPERATOR(pg_catalog.=) 'schema' THEN schema_name::pg_catalog.text
            WHEN field OPERATOR(pg_catalog.=) 'table' THEN table_name::pg_catalog.text
            END;
        -- NULL, or no such placeholder.
        IF value IS NULL THEN
            IF COALESCE(pg_catalog.left(field, 4) OPERATOR(pg_catalog.<>) ALL ('{new.,old.}'), true) THEN
                RAISE EXCEPTION 'invalid routing key template "%"', template
                    USING ERRCODE = 'invalid_parameter_value',
                          DETAIL = pg_catalog.format('"{%s" is no placeholder of table "%s".',
                              CASE WHEN place OPERATOR(pg_catalog.>) 0 THEN pg_catalog.left(part, place) ELSE part END,
                              table_name),
                          HINT = 'Placeholders are {op}, {schema}, {table}, {new.column} and {old.column}.';
            ELSIF NOT COALESCE(new_row, old_row) OPERATOR(pg_catalog.?) pg_catalog.substr(field, 5) THEN
                RAISE EXCEPTION 'invalid routing key template "%"', template
                    USING ERRCODE = 'invalid_parameter_value',
                          DETAIL = pg_catalog.format('Table "%s" has no column "%s".', table_name, pg_catalog.substr(field, 5)),
                          HINT = 'Placeholders are {op}, {schema}, {table}, {new.column} and {old.column}.';
            END IF;
        END IF;
        routing_key := pg_catalog.concat(routing_key, value, pg_catalog.substr(part, place OPERATOR(pg_catalog.+) 1));
    END LOOP;
    RETURN routing_key;
END
$$;

COMMENT ON FUNCTION amqp_inner.change_routing_key(text, text, name, name, jsonb, jsonb) IS
'Fills in a routing key template of amqp.publish_change(): {op}, {schema}, {table}, {new.column},
{old.column}.
For a row that the operation does not have, as the new one of a DELETE, the other row is taken;
NULL is empty.';
