CREATE FUNCTION amqp.outbox_refuse(field text, problem text) RETURNS text
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
BEGIN
    IF problem OPERATOR(pg_catalog.=) 'must not be null' THEN
        RAISE EXCEPTION '% must not be null', field USING ERRCODE = 'null_value_not_allowed';
    ELSIF problem OPERATOR(pg_catalog.=) 'is too long' THEN
        RAISE EXCEPTION '% is too long', field
            USING ERRCODE = 'string_data_right_truncation', DETAIL = 'AMQP allows 255 bytes.';
    ELSIF problem OPERATOR(pg_catalog.=) 'are too large' THEN
        RAISE EXCEPTION 'headers are too large'
            USING ERRCODE = 'program_limit_exceeded', DETAIL = 'As text, 131,000 bytes are allowed.',
                  HINT = 'Move what is large into the message.';
    ELSIF field OPERATOR(pg_catalog.=) 'headers' THEN
        RAISE EXCEPTION 'headers must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an object, such as ''{"key": "value"}''.';
    END IF;
    RAISE EXCEPTION 'invalid value for %: %', field, problem
        USING ERRCODE = 'invalid_parameter_value',
              HINT = CASE field
                  WHEN 'delivery_mode' THEN 'Use 1 (transient) or 2 (persistent).'
                  WHEN 'priority' THEN 'A priority is between 0 and 255.'
                  WHEN 'expiration' THEN 'An expiration is a number of milliseconds, such as ''60000'', below 2^32.'
                  ELSE 'A timestamp is not before 1970-01-01 00:00:00 UTC and is finite.' END;
END
$$;

COMMENT ON FUNCTION amqp.outbox_refuse(text, text) IS 'Part of amqp.publish_outbox(): raises what is wrong with a message.';
