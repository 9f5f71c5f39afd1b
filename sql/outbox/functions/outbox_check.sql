-- In PL/pgSQL: a function in SQL that is called from another one is planned anew for each row. SET keeps PostgreSQL from
-- loading that language before it is called.
CREATE FUNCTION amqp.outbox_check(
    broker_id integer,
    exchange text,
    routing_key text,
    delivery_mode integer,
    content_type text,
    reply_to text,
    correlation_id text,
    headers jsonb,
    content_encoding text,
    priority integer,
    expiration text,
    message_id text,
    "timestamp" timestamptz,
    type text,
    user_id text,
    app_id text
) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    field text;
    invalid text;
BEGIN
    IF broker_id IS NULL THEN
        RAISE EXCEPTION 'broker_id must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    field := CASE
        WHEN octet_length(exchange) > 255 THEN 'exchange'
        WHEN octet_length(routing_key) > 255 THEN 'routing_key'
        WHEN octet_length(content_type) > 255 THEN 'content_type'
        WHEN octet_length(reply_to) > 255 THEN 'reply_to'
        WHEN octet_length(correlation_id) > 255 THEN 'correlation_id'
        WHEN octet_length(content_encoding) > 255 THEN 'content_encoding'
        WHEN octet_length(message_id) > 255 THEN 'message_id'
        WHEN octet_length(type) > 255 THEN 'type'
        WHEN octet_length(user_id) > 255 THEN 'user_id'
        WHEN octet_length(app_id) > 255 THEN 'app_id'
        END;
    IF field IS NOT NULL THEN
        RAISE EXCEPTION '% is too long', field
            USING ERRCODE = 'string_data_right_truncation', DETAIL = 'AMQP allows 255 bytes.';
    END IF;
    IF jsonb_typeof(headers) <> 'object' THEN
        RAISE EXCEPTION 'headers must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an object, such as ''{"key": "value"}''.';
    ELSIF octet_length(headers::text) > 131000 THEN
        RAISE EXCEPTION 'headers are too large'
            USING ERRCODE = 'program_limit_exceeded', DETAIL = 'As text, 131,000 bytes are allowed.',
                  HINT = 'Move what is large into the message.';
    END IF;
    IF delivery_mode <> ALL ('{1,2}') THEN
        field := 'delivery_mode';
        invalid := delivery_mode;
    ELSIF priority < 0 OR priority > 255 THEN
        field := 'priority';
        invalid := priority;
    ELSIF expiration !~ '^[0-9]{1,10}$' OR expiration::bigint > 4294967295 THEN
        field := 'expiration';
        invalid := left(expiration, 40);
    ELSIF "timestamp" < 'epoch' OR NOT isfinite("timestamp") THEN
        field := 'timestamp';
        invalid := "timestamp";
    ELSE
        RETURN COALESCE(routing_key, '');
    END IF;
    RAISE EXCEPTION 'invalid value for %: %', field, invalid
        USING ERRCODE = 'invalid_parameter_value',
              HINT = CASE
                  WHEN field = 'delivery_mode' THEN 'Use 1 (transient) or 2 (persistent).'
                  WHEN field = 'priority' THEN 'A priority is between 0 and 255.'
                  WHEN field = 'expiration' THEN 'An expiration is a number of milliseconds, such as ''60000'', below 2^32.'
                  ELSE 'A timestamp is not before 1970-01-01 00:00:00 UTC and is finite.' END;
END
$$;

COMMENT ON FUNCTION amqp.outbox_check(integer, text, text, integer, text, text, text, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Part of amqp.publish_outbox(): returns the routing key, or raises what is wrong with a message.';
