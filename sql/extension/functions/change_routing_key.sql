-- Finds the function itself by what was parsed when this was created, not by its name.
CREATE FUNCTION amqp_python.change_routing_key(
    template text,
    operation text,
    schema_name name,
    table_name name,
    new_row jsonb,
    old_row jsonb
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN amqp.change_routing_key($1, $2, $3, $4, $5, $6);

COMMENT ON FUNCTION amqp_python.change_routing_key(text, text, name, name, jsonb, jsonb) IS
'amqp.change_routing_key(), for amqp.publish_change() and amqp.publish_change_outbox().';
