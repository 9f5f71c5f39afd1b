CREATE FUNCTION amqp.add_broker(
    uri text
) RETURNS integer
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.add_broker(uri)$$;

COMMENT ON FUNCTION amqp.add_broker(text) IS
'Adds a broker to amqp.broker from an AMQP URI, and returns its broker_id.
The URI is amqp://user:password@host:port/vhost, or amqps:// for TLS, percent-encoded; a cluster
has several hosts with commas. A NOTICE says if there is a broker with this host, port, virtual
host and user. Ports default to 5672 and 5671. The rows are inserted with the rights of the owner
of amqp.broker. Errors: 22023 invalid URI.';
