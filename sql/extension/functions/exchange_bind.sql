CREATE FUNCTION amqp.exchange_bind(
    broker_id integer,
    destination text,
    source text,
    routing_key text DEFAULT '',
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.exchange_bind(broker_id, destination, source, routing_key, arguments)$$;

COMMENT ON FUNCTION amqp.exchange_bind(integer, text, text, text, jsonb) IS
'Routes what is published to exchange source with a matching routing key to exchange destination
too.
Takes effect at once, not at commit. Returns true. RabbitMQ extension to AMQP 0-9-1:
exchange.bind. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501 access
refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';
