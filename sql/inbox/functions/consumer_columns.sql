CREATE FUNCTION amqp_inner.consumer_columns(target regclass, columns jsonb)
RETURNS TABLE (name text, source text, expression text, type text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    unknown text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = target AND c.relkind IN ('r', 'p', 'v', 'f')) THEN
        RAISE EXCEPTION 'target_table "%" does not exist, or is no table', target
            USING ERRCODE = 'undefined_table',
                  HINT = 'If it was dropped and created again: UPDATE amqp.consumer SET target_table = its name.';
    END IF;
    SELECT k INTO unknown FROM jsonb_object_keys(columns) AS k
    WHERE NOT EXISTS (SELECT FROM pg_attribute AS a
                      WHERE a.attrelid = target AND a.attname = k AND a.attnum > 0 AND NOT a.attisdropped
                        AND a.attgenerated = '');
    IF FOUND THEN
        RAISE EXCEPTION 'column "%" of table "%" does not exist, or is generated', unknown, target
            USING ERRCODE = 'undefined_column';
    END IF;
    RETURN QUERY
    SELECT a.attname::text, columns ->> a.attname,
           CASE WHEN columns IS NULL THEN format('j.%I', a.attname)
                ELSE amqp_inner.consumer_value(columns ->> a.attname, target, a.attnum) END,
           format('%I.%I', n.nspname, t.typname)
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    JOIN pg_namespace AS n ON n.oid = t.typnamespace
    WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
      AND CASE WHEN columns IS NULL THEN a.attidentity <> 'a' ELSE columns ? a.attname END
    ORDER BY a.attnum;
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_columns(regclass, jsonb) IS
'Part of the inbox: the columns of a target table that messages fill, and SQL for each.
Errors: 42P01 no such table, 42703 no such column, 22023 no such source.';
