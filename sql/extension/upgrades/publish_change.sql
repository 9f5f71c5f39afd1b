-- Names of parameters cannot be taken away.
DROP FUNCTION IF EXISTS
    amqp_inner.publish_change(integer, text, text, text),
    amqp_inner.publish_change(integer, text, text, text, jsonb, text);
