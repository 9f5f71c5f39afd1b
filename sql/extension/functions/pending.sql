CREATE FUNCTION amqp.pending() RETURNS TABLE (
    broker_id integer,
    exchange text,
    routing_key text,
    message text,
    body bytea,
    delivery_mode integer,
    content_type text,
    reply_to text,
    correlation_id text,
    mandatory boolean,
    headers jsonb,
    content_encoding text,
    priority integer,
    expiration text,
    message_id text,
    "timestamp" timestamptz,
    type text,
    user_id text,
    app_id text,
    captured boolean
)
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.pending()$$;

COMMENT ON FUNCTION amqp.pending() IS
'The messages that wait for the commit of this transaction, in the order of the calls.
They are those that the caller has published, or a role whose privileges it has. message is NULL
where body is not valid text. captured: published under amqp.capture, or amqp.capture is on now:
not to be sent.';
