CREATE FUNCTION amqp_inner.consumer_keyed(told_by text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    key record := amqp_inner.consumer_source(told_by);
    source text := 'pg_temp.amqp_stage AS s';
BEGIN
    IF key.expression LIKE 'j.body%' THEN
        source := source || $sql$ CROSS JOIN LATERAL (
        SELECT pg_catalog.convert_from(s.body, 'UTF8')::pg_catalog.jsonb AS body OFFSET 0
    ) AS j$sql$;
    END IF;
    -- What is too long for an index is told by its hash.
    RETURN format(
        $sql$WITH keyed AS MATERIALIZED (
    SELECT q.n, q.redelivered, q.retried,
           CASE WHEN q.retried THEN NULL
                WHEN pg_catalog.octet_length(q.key) OPERATOR(pg_catalog.>) 255
                THEN pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(
                    q.key, pg_catalog.getdatabaseencoding())), 'hex')
                ELSE NULLIF(q.key, '') END AS key
    FROM (SELECT s.n, s.redelivered, s.retried, %s AS key FROM %s OFFSET 0) AS q
)$sql$,
        CASE key.kind
            WHEN 'json path' THEN format('%s OPERATOR(pg_catalog.#>>) ''{}''::pg_catalog.text[]', key.expression)
            WHEN 'bytea' THEN format('pg_catalog.encode(pg_catalog.sha256(%s), ''hex'')', key.expression)
            ELSE format('%s::pg_catalog.text', key.expression) END,
        source);
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_keyed(text) IS
'Part of the inbox: SQL that finds in each staged message what tells a copy.
Errors: 22023 no such source.';
