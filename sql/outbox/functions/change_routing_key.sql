CREATE FUNCTION amqp.change_routing_key(
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
    field pg_catalog.text;
    value pg_catalog.text;
    row_asked pg_catalog.jsonb;
    place integer;
BEGIN
    FOREACH part IN ARRAY parts[2:] LOOP
        place := pg_catalog.strpos(part, '}');
        field := pg_catalog.left(part, place OPERATOR(pg_catalog.-) 1);
        IF place OPERATOR(pg_catalog.=) 0 THEN
            field := NULL;
        ELSIF field OPERATOR(pg_catalog.=) 'op' THEN
            value := operation;
        ELSIF field OPERATOR(pg_catalog.=) 'schema' THEN
            value := schema_name;
        ELSIF field OPERATOR(pg_catalog.=) 'table' THEN
            value := table_name;
        ELSIF pg_catalog.starts_with(field, 'new.') OR pg_catalog.starts_with(field, 'old.') THEN
            -- A row that the operation does not have gives way to the other one.
            row_asked := CASE WHEN pg_catalog.starts_with(field, 'new.')
                              THEN COALESCE(new_row, old_row) ELSE COALESCE(old_row, new_row) END;
            value := row_asked OPERATOR(pg_catalog.->>) pg_catalog.substr(field, 5);
            IF NOT row_asked OPERATOR(pg_catalog.?) pg_catalog.substr(field, 5) THEN
                RAISE EXCEPTION 'invalid routing key template "%"', template
                    USING ERRCODE = 'invalid_parameter_value',
                          DETAIL = pg_catalog.format('Table "%s" has no column "%s".', table_name, pg_catalog.substr(field, 5)),
                          HINT = 'Placeholders are {op}, {schema}, {table}, {new.column} and {old.column}.';
            END IF;
        ELSE
            field := NULL;
        END IF;
        IF field IS NULL THEN
            RAISE EXCEPTION 'invalid routing key template "%"', template
                USING ERRCODE = 'invalid_parameter_value',
                      DETAIL = pg_catalog.format('"{%s" is no placeholder of table "%s".',
                          CASE WHEN place OPERATOR(pg_catalog.>) 0 THEN pg_catalog.left(part, place) ELSE part END,
                          table_name),
                      HINT = 'Placeholders are {op}, {schema}, {table}, {new.column} and {old.column}.';
        END IF;
        routing_key := pg_catalog.concat(routing_key, value, pg_catalog.substr(part, place OPERATOR(pg_catalog.+) 1));
    END LOOP;
    RETURN routing_key;
END
$$;

COMMENT ON FUNCTION amqp.change_routing_key(text, text, name, name, jsonb, jsonb) IS
'Fills in a routing key template of amqp.publish_change(): {op}, {schema}, {table}, {new.column}, {old.column}. For a row that the operation does not have, as the new one of a DELETE, the other row is taken; NULL is empty.';
