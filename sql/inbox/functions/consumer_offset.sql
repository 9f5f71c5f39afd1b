CREATE FUNCTION amqp_inner.consumer_offset(stream_offset text) RETURNS jsonb
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    seconds double precision;
BEGIN
    IF stream_offset IN ('first', 'last', 'next') THEN
        RETURN to_jsonb(stream_offset);
    ELSIF stream_offset ~ '^[0-9]{1,18}$' THEN
        RETURN to_jsonb(stream_offset::bigint);
    END IF;
    seconds := floor(date_part('epoch', stream_offset::timestamptz));
    RETURN CASE WHEN seconds BETWEEN 0 AND 1e11 THEN jsonb_build_object('timestamp', seconds::bigint) END;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_offset(text) IS
'Part of the inbox: where a stream is to begin, as the daemon reads it; NULL: that is no such
place.';
