-- For outbox_check(), which is in PL/pgSQL: with its body parsed, this calls what was in schema amqp when it was created.
CREATE FUNCTION amqp_inner.retained_key(routing_key text) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN amqp_inner.mqtt_publish_key(amqp.mqtt_topic(routing_key));

COMMENT ON FUNCTION amqp_inner.retained_key(text) IS
'The key with which a retained message would be published; raises the error if its topic cannot be.';
