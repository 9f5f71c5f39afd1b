-- As amqp_inner.mqtt_topic_fault().
CREATE FUNCTION amqp_inner.mqtt_qos_fault(qos integer) RETURNS integer
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'invalid value for qos: %', qos
        USING ERRCODE = 'invalid_parameter_value',
              DETAIL = 'RabbitMQ has QoS 0 and 1 alone.',
              HINT = 'Use 0 (at most once) or 1 (at least once).';
END
$$;

COMMENT ON FUNCTION amqp_inner.mqtt_qos_fault(integer) IS
'Part of amqp.publish_mqtt(): raises what is wrong with a quality of service. Errors: 22023.';
