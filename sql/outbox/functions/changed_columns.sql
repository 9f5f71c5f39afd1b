CREATE FUNCTION amqp.changed_columns(new_row jsonb, old_row jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    -- As text, because jsonb's own = takes the numerics 1.0 and 1.00 for the same. Both rows have
    -- the same keys, and a column that is NULL has the value null.
    RETURN COALESCE(
        (SELECT pg_catalog.jsonb_agg(c.key)
         FROM pg_catalog.jsonb_each(new_row) AS c
         WHERE c.value::pg_catalog.text OPERATOR(pg_catalog.<>)
               (old_row OPERATOR(pg_catalog.->) c.key)::pg_catalog.text),
        '[]');
END
$$;

COMMENT ON FUNCTION amqp.changed_columns(jsonb, jsonb) IS
'Names of the columns whose values differ between two versions of a row, as a JSON array. Part of amqp.publish_change().';
