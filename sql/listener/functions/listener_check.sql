CREATE FUNCTION amqp_inner.listener_check() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wrong text := CASE
        WHEN COALESCE(NEW.channel, '') = '' THEN 'channel must not be empty'
        -- LISTEN would cut it, and NOTIFY refuse it.
        WHEN octet_length(NEW.channel) > 63 THEN 'channel must not be longer than 63 bytes'
        WHEN NEW.broker_id IS NULL THEN 'broker_id must not be null'
        WHEN NEW.exchange IS NULL THEN 'exchange must not be null'
        WHEN NEW.routing_key IS NULL THEN 'routing_key must not be null'
        WHEN replace(NEW.routing_key, '{channel}', '') ~ '[{}]' THEN 'routing_key may have {channel}, and no other braces'
        WHEN NEW.enabled IS NULL THEN 'enabled must not be null'
        WHEN NEW.on_failure IS NULL OR NEW.on_failure NOT IN ('outbox', 'drop') THEN 'on_failure must be outbox or drop'
        WHEN NEW.delivery_mode IS NULL THEN 'delivery_mode must not be null'
        WHEN NEW.mandatory IS NULL THEN 'mandatory must not be null'
        END;
    detail text;
    hint text;
BEGIN
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'invalid row for table "amqp.listener": %', wrong USING ERRCODE = 'check_violation';
    END IF;
    -- With headers as long as any of its messages can have. The whole context of an error would hide what is wrong.
    BEGIN
        PERFORM amqp_inner.outbox_check(jsonb_populate_record(
            NULL::amqp.outbox,
            amqp_inner.listener_message(NEW, repeat('x', 300)) || jsonb_build_object(
                'type', COALESCE(NEW.type, 'pg-amqp.gap'), 'message_id', repeat('x', 36), 'timestamp', now(),
                'headers', amqp_inner.listener_headers(NEW, repeat('x', 300)) || jsonb_build_object(
                    'gap-reason', 'postgres', 'gap-from', amqp_inner.listener_clock(), 'gap-to', amqp_inner.listener_clock()))));
    EXCEPTION
        WHEN data_exception OR program_limit_exceeded THEN
            GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            RAISE EXCEPTION USING
                ERRCODE = SQLSTATE, MESSAGE = SQLERRM,
                DETAIL = COALESCE(NULLIF(detail, ''), 'With this row, no message could be published.'),
                HINT = COALESCE(NULLIF(hint, ''), 'The comments on the columns of amqp.listener say what they take.');
    END;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION amqp_inner.listener_check() IS
'Trigger function of amqp.listener: says what is wrong with a row.
Errors: 23514 the row contradicts itself; 22001, 22003, 22023, 54000 as amqp.publish_outbox() for
its properties.';
