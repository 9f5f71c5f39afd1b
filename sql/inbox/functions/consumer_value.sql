-- Types are named without a length, so that too long a value is an error of the INSERT: a cast would cut it.
CREATE FUNCTION amqp_inner.consumer_value(source text, target regclass, column_number smallint) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found record;
    given record;
    value text;
    instead CONSTANT text := amqp_inner.consumer_default(target, column_number);
BEGIN
    WITH RECURSIVE base (oid, typtype, typbasetype) AS (
        SELECT t.oid, t.typtype, t.typbasetype
        FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
        WHERE a.attrelid = target AND a.attnum = column_number
        UNION ALL
        SELECT t.oid, t.typtype, t.typbasetype FROM base AS b JOIN pg_type AS t ON t.oid = b.typbasetype
        WHERE b.typtype = 'd'
    )
    SELECT format('%I.%I', n.nspname, t.typname) AS type, b.oid AS base,
           -- What JSON holds in a form of its own.
           b.typtype = 'c' OR y.typelem <> 0 AND y.typlen = -1 AS built
    INTO STRICT found
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    JOIN pg_namespace AS n ON n.oid = t.typnamespace
    JOIN base AS b ON b.typtype <> 'd'
    JOIN pg_type AS y ON y.oid = b.oid
    WHERE a.attrelid = target AND a.attnum = column_number;
    given := amqp_inner.consumer_source(source);
    value := CASE
        WHEN given.kind = 'json path' AND found.base IN ('json'::regtype, 'jsonb'::regtype)
            THEN format('NULLIF(%s, ''null''::pg_catalog.jsonb)', given.expression)
        WHEN given.kind = 'json path' AND found.built
            THEN format('(SELECT r.v FROM pg_catalog.jsonb_to_record(pg_catalog.jsonb_build_object(''v'', %s)) AS r (v %s))',
                        given.expression, found.type)
        -- Of a JSON string its text, of anything else its JSON.
        WHEN given.kind = 'json path'
            THEN format('(%s OPERATOR(pg_catalog.#>>) ''{}''::pg_catalog.text[])', given.expression)
        WHEN given.kind = 'bytea' AND found.base <> 'bytea'::regtype
            THEN format('pg_catalog.convert_from(%s, ''UTF8'')', given.expression)
        ELSE given.expression END;
    value := format('CAST(%s AS %s)', value, found.type);
    IF instead IS NOT NULL AND given.kind <> 'bytea' THEN
        value := format('CASE WHEN %s IS NULL THEN %s ELSE %s END', given.expression, instead, value);
    END IF;
    RETURN value;
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_value(text, regclass, smallint) IS
'Part of the inbox: SQL for the value of a column of a target table; what a message lacks is the
column''s default.
Errors: 22023 no such source.';
