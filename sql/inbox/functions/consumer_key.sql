-- The names and types of a target's key: by it a row that is there already is found.
CREATE FUNCTION amqp_inner.consumer_key(target regclass, wanted text, OUT name text, OUT columns text[])
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT c.conname, ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY AS k (number, nr)
                            JOIN pg_attribute AS a ON a.attrelid = target AND a.attnum = k.number ORDER BY k.nr)
    INTO name, columns
    FROM pg_constraint AS c
    WHERE c.conrelid = target AND c.contype IN ('p', 'u') AND NOT c.condeferrable
      AND CASE WHEN wanted IS NULL THEN c.contype = 'p' ELSE c.conname = wanted END;
    IF NOT FOUND AND wanted IS NOT NULL THEN
        RAISE EXCEPTION 'table "%" has no primary key or unique constraint "%" that is not deferrable', target, wanted
            USING ERRCODE = 'undefined_object';
    END IF;
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_key(regclass, text) IS
'Part of the inbox: a constraint of a target table and its columns: the one of this name, or the
primary key, if there is one.
Errors: 42704 no such constraint.';
