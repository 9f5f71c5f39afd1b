CREATE FUNCTION amqp.publish_outbox_batch(
    broker_id integer DEFAULT NULL,
    batch_limit integer DEFAULT 100
) RETURNS integer
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.publish_outbox_batch(broker_id, batch_limit)$$;

COMMENT ON FUNCTION amqp.publish_outbox_batch(integer, integer) IS
'Delivers messages of amqp.outbox from this session, for those who run no relay.
At most batch_limit go to a broker (NULL: to all); returns how many the broker has confirmed.
Several callers share the work: one works a broker until its transaction ends, and a broker that a
relay works is left to it. Commit at once: only then is it known that a message has gone, and if
the transaction is rolled back, or the session is terminated during the call, what was sent comes
again with the same message_id. What became a dead letter is a WARNING with the first reason. Once
a message was delivered or refused, trouble and cancel requests are WARNINGs; else they are
errors, or with amqp.on_failure = warn trouble with a broker is a WARNING. Errors: those of
amqp.publish(); 08006 not confirmed; 0A000 in REPEATABLE READ and SERIALIZABLE, 55000 under
amqp.capture.';
