-- A single expression, so that PostgreSQL inlines it. json outside, to keep the order of the keys;
-- jsonb inside, because the rows come as jsonb.
CREATE FUNCTION amqp.change_message(
    operation text,
    schema_name name,
    table_name name,
    new_row jsonb,
    old_row jsonb,
    changed jsonb
) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
AS $$
SELECT pg_catalog.json_build_object(
    'operation', $1,
    'schema', $2,
    'table', $3,
    'new', $4,
    'old', $5,
    'changed', $6,
    'transaction_id', pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.numeric,
    'time', pg_catalog.clock_timestamp()
)::pg_catalog.text
$$;

COMMENT ON FUNCTION amqp.change_message(text, name, name, jsonb, jsonb, jsonb) IS
'The JSON message that amqp.publish_change() publishes for one row.';
