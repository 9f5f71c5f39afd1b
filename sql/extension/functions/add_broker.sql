CREATE FUNCTION amqp.add_broker(
    uri text
) RETURNS integer
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.add_broker(uri)$$;

COMMENT ON FUNCTION amqp.add_broker(text) IS
'Adds a broker to amqp.broker from an AMQP URI, amqp://user:password@host:port/vhost or amqps:// '
'for TLS, with percent-encoding and, for a cluster, several hosts with commas; returns its '
'broker_id. Ports default to 5672 and 5671. The rows are inserted with the rights of the owner of '
'amqp.broker. Errors: 22023 invalid URI.';
