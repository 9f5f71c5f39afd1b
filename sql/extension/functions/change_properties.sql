-- As amqp_python.change_routing_key().
CREATE FUNCTION amqp_python.change_properties(properties text, for_outbox boolean) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN amqp.change_properties($1, $2);

COMMENT ON FUNCTION amqp_python.change_properties(text, boolean) IS
'amqp.change_properties(), for amqp.publish_change() and amqp.publish_change_outbox().';
