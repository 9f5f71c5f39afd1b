CREATE FUNCTION amqp_inner.mqtt_publish_key(topic text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN topic !~ '[.*+#]|(^|/)(/|$)' AND octet_length(topic) <= 255 THEN translate(topic, '/', '.')
            ELSE amqp_inner.mqtt_topic_fault(topic, false) END;

COMMENT ON FUNCTION amqp_inner.mqtt_publish_key(text) IS
'Part of amqp.publish_mqtt(): the routing key of a topic to publish to.
Errors: 22004 NULL; 22023 for a topic that does not survive the translation.';
