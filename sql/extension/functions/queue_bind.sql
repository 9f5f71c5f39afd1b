CREATE FUNCTION amqp.queue_bind(
    broker_id integer,
    queue text,
    exchange text,
    routing_key text DEFAULT '',
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.queue_bind(broker_id, queue, exchange, routing_key, arguments)$$;

COMMENT ON FUNCTION amqp.queue_bind(integer, text, text, text, jsonb) IS
'Routes what is published to an exchange with a matching routing key to a queue.
Takes effect at once, not at commit. Returns true. AMQP 0-9-1: queue.bind. Errors: those of a
connection as for amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition
failed, 55006 in use, 22004 and 22023 bad parameter.';
