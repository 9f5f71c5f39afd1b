CREATE FUNCTION amqp.status() RETURNS TABLE (
    broker_id integer,
    connected boolean,
    host text,
    port integer,
    vhost text,
    ssl boolean,
    server_product text,
    server_version text,
    connected_since timestamptz,
    published bigint,
    confirmed bigint,
    returned bigint,
    failed bigint,
    pending bigint,
    unconfirmed bigint,
    last_error text,
    last_error_at timestamptz
)
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.status()$$;

COMMENT ON FUNCTION amqp.status() IS
'The brokers that this session has used, in order of their ids, and what became of its messages.
Columns host to connected_since say where it is connected, to publish or else for requests.
published, confirmed, returned (unroutable; confirmed as well) and failed (refused or not taken)
count messages of this session. pending: they wait for the commit of this transaction.
unconfirmed: they are committed, and kept because the broker has not confirmed them: awaited on
their connection while it lives, else written again at the next transactions. last_error and
last_error_at: the last error, and when it was, also when all is well again.';
