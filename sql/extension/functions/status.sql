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
    last_error text
)
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.status()$$;

COMMENT ON FUNCTION amqp.status() IS
'The brokers that this session has used: where it is connected, and how many messages it has '
'published, how many of them the broker has confirmed, returned as unroutable (these count as '
'confirmed too), or refused or not taken (failed), how many wait for the commit of this '
'transaction (pending), and how many of committed ones are kept because the broker has not '
'confirmed them (unconfirmed): awaited on their connection while it lives, else written again at '
'the next transactions.';
