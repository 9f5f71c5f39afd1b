CREATE FUNCTION amqp.changed_columns(new_row jsonb, old_row jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    -- Compared as text, because jsonb's own = takes the numerics 1.0 and 1.00 for the same.
    RETURN COALESCE(
        (SELECT pg_catalog.jsonb_agg(c.key)
         FROM pg_catalog.jsonb_each_text(new_row) AS c
         WHERE c.value IS NULL
               AND (old_row OPERATOR(pg_catalog.->>) c.key) IS NOT NULL
            OR c.value IS NOT NULL
               AND (old_row OPERATOR(pg_catalog.->>) c.key) IS NULL
            OR c.value OPERATOR(pg_catalog.<>) (old_row OPERATOR(pg_catalog.->>) c.key)),
        '[]');
END
$$;

COMMENT ON FUNCTION amqp.changed_columns(jsonb, jsonb) IS
'Names of the columns whose values differ between two versions of a row, as a JSON array. Part of amqp.publish_change().';
