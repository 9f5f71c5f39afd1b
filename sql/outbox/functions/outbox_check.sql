-- For a CHECK constraint, which asks it about messages that are not plainly right; so it holds for whoever inserts. In
-- PL/pgSQL, so that each error has its own SQLSTATE. SET keeps PostgreSQL from loading that language before it is called.
CREATE FUNCTION amqp_inner.outbox_check(message amqp.outbox) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    field text;
    invalid text;
    properties integer;
BEGIN
    IF message.broker_id IS NULL THEN
        RAISE EXCEPTION 'broker_id must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- As they are sent, whatever the encoding of the database.
    properties := octet_length(convert_to(concat(
        message.exchange, message.routing_key, message.content_type, message.reply_to, message.correlation_id,
        message.content_encoding, message.message_id, message.type, message.user_id, message.app_id), 'UTF8'));
    IF properties > 255 THEN
        SELECT t.name INTO field
        FROM unnest(
            ARRAY['exchange', 'routing_key', 'content_type', 'reply_to', 'correlation_id', 'content_encoding',
                  'message_id', 'type', 'user_id', 'app_id'],
            ARRAY[message.exchange, message.routing_key, message.content_type, message.reply_to, message.correlation_id,
                  message.content_encoding, message.message_id, message.type, message.user_id,
                  message.app_id]) WITH ORDINALITY AS t (name, value, position)
        WHERE octet_length(convert_to(t.value, 'UTF8')) > 255 ORDER BY t.position LIMIT 1;
        IF field IS NOT NULL THEN
            RAISE EXCEPTION '% is too long', field
                USING ERRCODE = 'string_data_right_truncation', DETAIL = 'AMQP allows 255 bytes.';
        END IF;
    END IF;
    -- A relay keeps those of everything that it reads.
    IF octet_length(message.ordering_key) > 1000 THEN
        RAISE EXCEPTION 'ordering_key is too long'
            USING ERRCODE = 'string_data_right_truncation', DETAIL = 'It may have 1,000 bytes.';
    END IF;
    IF message.headers IS NOT NULL THEN
        -- The frame that holds them holds the other properties as well. At most: its own 20 bytes, flags, 10 bytes of numbers
        -- and times, an expiration, and a length before each of 9 texts; the address, which it does not hold, is counted too.
        PERFORM amqp_inner.outbox_check_headers(message.headers, properties + 52);
    END IF;
    IF message.retain THEN
        PERFORM amqp_inner.retained_key(message.routing_key);
        IF message.ordering_key IS NOT NULL OR message.mandatory THEN
            RAISE EXCEPTION 'a retained message cannot have %',
                CASE WHEN message.ordering_key IS NULL THEN 'mandatory' ELSE 'an ordering_key' END
                USING ERRCODE = 'invalid_parameter_value',
                      DETAIL = CASE WHEN message.ordering_key IS NULL
                          THEN 'It goes by MQTT, which hands nothing back.'
                          ELSE 'It goes by MQTT, in the order of its topic''s messages.' END;
        ELSIF octet_length(message.body) > 268000000 THEN
            RAISE EXCEPTION 'retained message is too large'
                USING ERRCODE = 'program_limit_exceeded', DETAIL = 'MQTT allows 268,000,000 bytes.';
        END IF;
    END IF;
    IF message.delivery_mode <> ALL ('{1,2}') THEN
        field := 'delivery_mode';
        invalid := message.delivery_mode;
    ELSIF message.priority < 0 OR message.priority > 255 THEN
        field := 'priority';
        invalid := message.priority;
    ELSIF (CASE WHEN message.expiration ~ '^0{0,245}[0-9]{1,10}$' THEN message.expiration::bigint > 4294967295
                ELSE message.expiration IS NOT NULL END) THEN
        field := 'expiration';
        invalid := left(message.expiration, 40);
    ELSIF message."timestamp" < 'epoch' OR NOT isfinite(message."timestamp") THEN
        field := 'timestamp';
        invalid := message."timestamp";
    ELSIF NOT isfinite(message.next_attempt_at) THEN
        field := 'deliver_at';
        invalid := message.next_attempt_at;
    ELSIF message.reply_to = 'amq.rabbitmq.reply-to' THEN
        RAISE EXCEPTION 'invalid value for reply_to: it needs a consumer on the same channel'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'RabbitMQ would refuse the message.';
    ELSE
        RETURN true;
    END IF;
    RAISE EXCEPTION 'invalid value for %: %', field, invalid
        USING ERRCODE = 'invalid_parameter_value',
              HINT = CASE
                  WHEN field = 'delivery_mode' THEN 'Use 1 (transient) or 2 (persistent).'
                  WHEN field = 'priority' THEN 'A priority is between 0 and 255.'
                  WHEN field = 'expiration' THEN 'An expiration is a number of milliseconds, such as ''60000'', below 2^32.'
                  WHEN field = 'deliver_at' THEN 'A time that never comes would hold up its ordering key for ever.'
                  ELSE 'A timestamp is not before 1970-01-01 00:00:00 UTC and is finite.' END;
END
$$;

COMMENT ON FUNCTION amqp_inner.outbox_check(amqp.outbox) IS
'Part of amqp.outbox: true, or raises what is wrong with a message, as amqp.publish() would.
Errors: 22001, 22003, 22004, 22023, 54000.';
