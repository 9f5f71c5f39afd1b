-- RabbitMQ keeps a response topic in this header, as a routing key (mc_mqtt.erl).
CREATE FUNCTION amqp_inner.mqtt_headers(headers jsonb, response_topic text) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN response_topic IS NULL THEN headers
            ELSE COALESCE(headers, '{}') || jsonb_build_object('x-reply-to-topic', amqp_inner.mqtt_publish_key(response_topic)) END;

COMMENT ON FUNCTION amqp_inner.mqtt_headers(jsonb, text) IS
'Part of amqp.publish_mqtt(): headers, with what becomes the response topic in MQTT 5.
Errors: 22023.';
