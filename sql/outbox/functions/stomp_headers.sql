-- RabbitMQ shows a STOMP client texts and integers, and leaves out whatever else there is (adhoc_convert_headers() in
-- rabbit_stomp_util). The names that it uses itself would stand in for what they name, depending on its version: a header
-- "subscription" would be given to another subscription of the client's.
CREATE FUNCTION amqp.stomp_headers(headers jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    properties CONSTANT jsonb := '{
        "content-type": "content_type", "content-encoding": "content_encoding", "persistent": "delivery_mode",
        "priority": "priority", "correlation-id": "correlation_id", "reply-to": "reply_to", "expiration": "expiration",
        "amqp-message-id": "message_id", "timestamp": "timestamp", "type": "type", "user-id": "user_id", "app-id": "app_id"}';
    name text;
BEGIN
    IF jsonb_typeof(headers) <> 'object' THEN
        RAISE EXCEPTION 'headers must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an object, such as ''{"key": "value"}''.';
    END IF;
    FOR name IN SELECT jsonb_object_keys(headers) LOOP
        IF name = '' OR name ~ '[:\\\r\n]' THEN
            RAISE EXCEPTION 'invalid name of a STOMP header: "%"', left(name, 300)
                USING ERRCODE = 'invalid_parameter_value',
                      DETAIL = 'An empty name, or one with a colon, a backslash or a line break, does not reach every client as it is.';
        ELSIF properties ? name OR name IN ('destination', 'message-id', 'subscription', 'redelivered', 'ack', 'content-length') THEN
            RAISE EXCEPTION 'header "%" is one of STOMP''s own', name
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = CASE WHEN properties ? name THEN format('It is given by the parameter %s.', properties ->> name)
                                  ELSE 'RabbitMQ gives it by itself: choose another name.' END;
        END IF;
    END LOOP;
    RETURN (
        SELECT COALESCE(jsonb_object_agg(h.key, CASE
            -- Where a message goes as well: RabbitMQ takes arrays alone for it.
            WHEN h.key IN ('CC', 'BCC') THEN h.value
            WHEN jsonb_typeof(h.value) = 'string' THEN h.value
            WHEN jsonb_typeof(h.value) = 'number' AND h.value::text ~ '^-?[0-9]{1,19}$'
                 AND h.value::numeric BETWEEN -9223372036854775808 AND 9223372036854775807 THEN h.value
            ELSE to_jsonb(h.value::text) END), '{}')
        FROM jsonb_each(headers) AS h);
END
$$;

COMMENT ON FUNCTION amqp.stomp_headers(jsonb) IS
'Headers in such a form that a STOMP client gets all of them.
That is texts and integers of up to 64 bits as they are, everything else as text: null as null,
true and false, other numbers digit by digit, arrays and objects as JSON. CC and BCC stay arrays.
Errors: 22023 no JSON object, a name that is empty or has a colon, a backslash or a line break in
it, or one that STOMP uses itself (destination, message-id, subscription, redelivered, ack,
content-length, and those of properties, as content-type).';
