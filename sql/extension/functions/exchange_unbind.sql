CREATE FUNCTION amqp.exchange_unbind(
    broker_id integer,
    destination text,
    source text,
    routing_key text DEFAULT '',
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.exchange_unbind(broker_id, destination, source, routing_key, arguments)$$;

COMMENT ON FUNCTION amqp.exchange_unbind(integer, text, text, text, jsonb) IS
'Removes the binding that amqp.exchange_bind() made with the same parameters.
Takes effect at once, not at commit. Returns true, also if there is none. RabbitMQ extension to
AMQP 0-9-1: exchange.unbind. Errors: those of a connection as for amqp.publish(); 42704 not found,
42501 access refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';
