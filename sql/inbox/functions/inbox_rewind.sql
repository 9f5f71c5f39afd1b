CREATE FUNCTION amqp_inner.inbox_rewind(consumer text, stream_offset bigint, start_at timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    stream text;
BEGIN
    SELECT c.queue INTO stream FROM amqp.consumer AS c WHERE c.name = inbox_rewind.consumer;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'consumer "%" does not exist', inbox_rewind.consumer USING ERRCODE = 'undefined_object';
    ELSIF inbox_rewind.stream_offset < 0 OR NOT isfinite(inbox_rewind.start_at)
          OR num_nonnulls(inbox_rewind.stream_offset, inbox_rewind.start_at) = 0 THEN
        RAISE EXCEPTION 'invalid place in a stream'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an offset from 0 on, or a time.';
    END IF;
    INSERT INTO amqp.inbox_offset AS o (consumer, queue, next_offset, start_at, rewinds)
    VALUES (inbox_rewind.consumer, stream, inbox_rewind.stream_offset, inbox_rewind.start_at, 1)
    ON CONFLICT (consumer, queue) DO UPDATE
    SET next_offset = EXCLUDED.next_offset, start_at = EXCLUDED.start_at, rewinds = o.rewinds + 1, changed_at = now();
    DELETE FROM amqp.inbox_seen AS s WHERE s.consumer = inbox_rewind.consumer;
END
$$;

COMMENT ON FUNCTION amqp_inner.inbox_rewind(text, bigint, timestamptz) IS
'Part of the inbox: see amqp.rewind().';
