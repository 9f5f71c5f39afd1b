-- Called for what is wrong alone. SET keeps PostgreSQL from loading PL/pgSQL before it is.
CREATE FUNCTION amqp_inner.mqtt_topic_fault(topic text, wildcards boolean) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kind CONSTANT text := CASE WHEN wildcards THEN 'topic filter' ELSE 'topic' END;
BEGIN
    IF topic IS NULL THEN
        RAISE EXCEPTION '% must not be null', kind USING ERRCODE = 'null_value_not_allowed';
    END IF;
    RAISE EXCEPTION 'invalid MQTT % "%"', kind, left(topic, 80)
        USING ERRCODE = 'invalid_parameter_value',
              DETAIL = CASE
                  WHEN topic = '' THEN 'It is empty.'
                  WHEN octet_length(topic) > 255
                      THEN format('It has %s bytes, and the routing key that it becomes may have 255.', octet_length(topic))
                  WHEN NOT wildcards AND topic ~ '[+#]' THEN 'The wildcards "+" and "#" are for subscribers.'
                  WHEN strpos(topic, '*') > 0 THEN 'In AMQP, "*" is the wildcard that MQTT writes as "+".'
                  WHEN strpos(topic, '.') > 0 THEN 'In AMQP, a dot ends a level: MQTT clients would see a slash in its place.'
                  WHEN topic ~ '(^|/)(/|$)' THEN 'It has an empty level.'
                  ELSE 'A wildcard is a whole level, and "#" is the last one.' END,
              HINT = CASE
                  WHEN wildcards THEN 'A topic filter has levels between slashes, such as dev/+/temp or dev/#.'
                  ELSE 'A topic has levels between slashes, such as dev/7/temp.' END;
END
$$;

COMMENT ON FUNCTION amqp_inner.mqtt_topic_fault(text, boolean) IS
'Part of amqp.mqtt_key() and amqp.publish_mqtt(): raises what is wrong with a topic filter
(wildcards), or with a topic to publish to.
Errors: 22004, 22023.';
