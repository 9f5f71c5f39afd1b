CREATE FUNCTION amqp_inner.consumer_no_object(body jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'the body is no JSON object'
        USING ERRCODE = 'invalid_parameter_value', DETAIL = format('It is of JSON type %s.', jsonb_typeof(body));
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_no_object(jsonb) IS
'Part of the inbox: says of the body of a message that it has no keys for columns. Errors: 22023.';
