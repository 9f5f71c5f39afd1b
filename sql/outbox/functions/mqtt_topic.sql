-- A slash, which no topic has within a level, becomes a dot: so there are as many levels as in AMQP, as for a consumer's
-- mqtt_topic.
CREATE FUNCTION amqp.mqtt_topic(routing_key text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN translate(routing_key, './*', '/.+');

COMMENT ON FUNCTION amqp.mqtt_topic(text) IS
'The inverse of amqp.mqtt_key(): the topic, or topic filter, of a routing key; dev.7.temp becomes
dev/7/temp.
NULL stays NULL.';
