-- Few parameters, and without names, because each of them costs something for each row. Everybody may call it, whoever owns
-- schema amqp: it looks for itself whether the caller has USAGE there.
CREATE FUNCTION amqp_inner.publish_change(integer, text, text, text) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.publish_change(*args)$$;

COMMENT ON FUNCTION amqp_inner.publish_change(integer, text, text, text) IS
'Part of amqp.publish_change(): publishes the message for one row as amqp.publish() would, for
whoever has USAGE on schema amqp.';

-- For a trigger that gives properties; what it shares with amqp.publish_change_outbox() calls it with an ordering key, which
-- is NULL here.
CREATE FUNCTION amqp_inner.publish_change(integer, text, text, text, jsonb, text) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.publish_change(*args[:5])$$;

COMMENT ON FUNCTION amqp_inner.publish_change(integer, text, text, text, jsonb, text) IS
'Part of amqp.publish_change(): publishes the message for one row with properties as
amqp_inner.change_properties() gives them.';

CREATE FUNCTION amqp_inner.publish_change_failed(
    broker_id integer,
    schema_name name,
    table_name name,
    operation text,
    sqlstate text,
    reason text,
    detail text,
    hint text
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.publish_change_failed(broker_id, schema_name, table_name, operation, sqlstate, reason, detail, hint)$$;

COMMENT ON FUNCTION amqp_inner.publish_change_failed(integer, name, name, text, text, text, text, text) IS
'Part of amqp.publish_change(): raises the error for a row that no message can be made of, or gives
a WARNING and returns false with amqp.on_failure = warn.';
