CREATE FUNCTION amqp.exchange_delete(
    broker_id integer,
    exchange text,
    if_unused boolean DEFAULT false
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.exchange_delete(broker_id, exchange, if_unused)$$;

COMMENT ON FUNCTION amqp.exchange_delete(integer, text, boolean) IS
'Deletes an exchange; with if_unused only if nothing is bound to it.
Takes effect at once, not at commit. Returns true, also if there is none. AMQP 0-9-1:
exchange.delete. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501
access refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';
