CREATE FUNCTION amqp.queue_declare(
    broker_id integer,
    queue text,
    passive boolean DEFAULT false,
    durable boolean DEFAULT true,
    exclusive boolean DEFAULT false,
    auto_delete boolean DEFAULT false,
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.queue_declare(broker_id, queue, passive, durable, exclusive, auto_delete, arguments)$$;

COMMENT ON FUNCTION amqp.queue_declare(integer, text, boolean, boolean, boolean, boolean, jsonb) IS
'Creates a queue; with passive, only makes sure that it exists.
durable: it survives a restart of the broker; exclusive: it belongs to this session''s connection
and goes with it; auto_delete: it goes with its last consumer. arguments as RabbitMQ knows them,
such as {"x-queue-type": "quorum"}. Takes effect at once, not at commit. Returns true. AMQP 0-9-1:
queue.declare. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501 access
refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';
