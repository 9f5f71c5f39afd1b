CREATE FUNCTION amqp.queue_delete(
    broker_id integer,
    queue text,
    if_unused boolean DEFAULT false,
    if_empty boolean DEFAULT false
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.queue_delete(broker_id, queue, if_unused, if_empty)$$;

COMMENT ON FUNCTION amqp.queue_delete(integer, text, boolean, boolean) IS
'Deletes a queue and the messages in it.
It does so with if_unused only if it has no consumer, with if_empty only if it has no message.
Takes effect at once, not at commit. Returns true, also if there is none. AMQP 0-9-1:
queue.delete. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501 access
refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';
