CREATE FUNCTION amqp.exchange_declare(
    broker_id integer,
    exchange text,
    exchange_type text,
    passive boolean DEFAULT false,
    durable boolean DEFAULT true,
    auto_delete boolean DEFAULT false,
    internal boolean DEFAULT false,
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.exchange_declare(broker_id, exchange, exchange_type, passive, durable, auto_delete, internal, arguments)$$;

COMMENT ON FUNCTION amqp.exchange_declare(integer, text, text, boolean, boolean, boolean, boolean, jsonb) IS
'Creates an exchange; with passive, only makes sure that it exists.
Types are direct, fanout, topic, headers and those of plugins. durable: it survives a restart of
the broker; auto_delete: it goes with its last binding; internal: only other exchanges publish to
it. Takes effect at once, not at commit. Returns true. AMQP 0-9-1: exchange.declare. Errors: those
of a connection as for amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition
failed, 55006 in use, 22004 and 22023 bad parameter or unknown type, 54000 arguments too large.';
