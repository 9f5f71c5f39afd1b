CREATE FUNCTION amqp_inner.mqtt_delivery_mode(qos integer) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE COALESCE(qos, 1) WHEN 1 THEN 2 WHEN 0 THEN 1 ELSE amqp_inner.mqtt_qos_fault(qos) END;

COMMENT ON FUNCTION amqp_inner.mqtt_delivery_mode(integer) IS
'Part of amqp.publish_mqtt(): the delivery mode that RabbitMQ makes a quality of service of; NULL
is 1.
Errors: 22023.';
