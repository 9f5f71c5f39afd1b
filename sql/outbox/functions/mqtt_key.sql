-- As RabbitMQ's MQTT plugin does (rabbit_mqtt_util.erl), but for what would not come back.
CREATE FUNCTION amqp.mqtt_key(topic_filter text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN topic_filter IS NULL
                 OR topic_filter !~ '[.*]|(^|/)(/|$)|[^/][+#]|\+[^/]|#.' AND octet_length(topic_filter) <= 255
            THEN translate(topic_filter, '/+', '.*')
            ELSE amqp_inner.mqtt_topic_fault(topic_filter, true) END;

COMMENT ON FUNCTION amqp.mqtt_key(text) IS
'The routing key for an MQTT topic, or the binding key for a filter: dev/+/temp becomes dev.*.temp.
A queue that is bound by it to amq.topic gets what MQTT clients publish there. NULL stays NULL.
Errors: 22023 for a topic that does not survive the translation: with a dot or "*", an empty
level, a misplaced wildcard, or over 255 bytes.';
