CREATE FUNCTION amqp.queue_unbind(
    broker_id integer,
    queue text,
    exchange text,
    routing_key text DEFAULT '',
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.queue_unbind(broker_id, queue, exchange, routing_key, arguments)$$;

COMMENT ON FUNCTION amqp.queue_unbind(integer, text, text, text, jsonb) IS
'Removes the binding that amqp.queue_bind() made with the same parameters.
Takes effect at once, not at commit. Returns true, also if there is none. AMQP 0-9-1:
queue.unbind. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501 access
refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';
