CREATE FUNCTION amqp.queue_purge(
    broker_id integer,
    queue text
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.queue_purge(broker_id, queue)$$;

COMMENT ON FUNCTION amqp.queue_purge(integer, text) IS
'Drops the messages of a queue that were not handed to a consumer yet.
Takes effect at once, not at commit. Returns true. AMQP 0-9-1: queue.purge. Errors: those of a
connection as for amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition
failed, 55006 in use, 22004 and 22023 bad parameter.';
