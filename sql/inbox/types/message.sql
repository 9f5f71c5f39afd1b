-- The one list of what a message is on its way in: the tables of the inbox and the daemon's stage are made like it.
CREATE TYPE amqp.message AS (
    broker_id        integer,
    queue            text,
    exchange         text,
    routing_key      text,
    redelivered      boolean,
    content_type     text,
    content_encoding text,
    headers          jsonb,
    delivery_mode    integer,
    priority         integer,
    correlation_id   text,
    reply_to         text,
    expiration       text,
    message_id       text,
    "timestamp"      timestamptz,
    type             text,
    user_id          text,
    app_id           text,
    cluster_id       text,
    body             bytea,
    received_at      timestamptz,
    stream_offset    bigint
);

COMMENT ON TYPE amqp.message IS
'A message from a queue, as a consumer''s function gets it, or a reply, as amqp.request() returns
it.
It has broker_id and queue that it came from, exchange and routing_key that it was published to,
whether it was delivered before (redelivered), all 14 properties of AMQP 0-9-1 (class basic; NULL:
not sent), body, the time at which the daemon received it, and on a stream its offset. See
amqp.body_text() and amqp.body_json().';
COMMENT ON COLUMN amqp.message.broker_id IS
'The broker, as in amqp.broker.';
COMMENT ON COLUMN amqp.message.queue IS
'The queue or stream that it came from; amq.rabbitmq.reply-to: it is a reply.';
COMMENT ON COLUMN amqp.message.exchange IS
'The exchange that it was published to; the empty name is the default exchange.';
COMMENT ON COLUMN amqp.message.routing_key IS
'Routing key that it was published with.';
COMMENT ON COLUMN amqp.message.redelivered IS
'Whether the broker has delivered it before; perhaps nobody has stored it.';
COMMENT ON COLUMN amqp.message.content_type IS
'MIME type of the body.
This and the columns to cluster_id are the properties of AMQP 0-9-1, class basic; NULL: not sent.';
COMMENT ON COLUMN amqp.message.content_encoding IS
'Encoding of the body, such as gzip: it is stored as it came.';
COMMENT ON COLUMN amqp.message.headers IS
'The header table as JSON.';
COMMENT ON COLUMN amqp.message.delivery_mode IS
'1 (transient) or 2 (persistent).';
COMMENT ON COLUMN amqp.message.priority IS
'0 to 255.';
COMMENT ON COLUMN amqp.message.correlation_id IS
'What a reply belongs to.';
COMMENT ON COLUMN amqp.message.reply_to IS
'Queue for a reply.';
COMMENT ON COLUMN amqp.message.expiration IS
'Time to live in milliseconds, as text.';
COMMENT ON COLUMN amqp.message.message_id IS
'What tells a copy, unless amqp.consumer.deduplicate_by says otherwise.';
COMMENT ON COLUMN amqp.message."timestamp" IS
'When the publisher made it, in whole seconds.';
COMMENT ON COLUMN amqp.message.type IS
'Kind of message, by the publisher.';
COMMENT ON COLUMN amqp.message.user_id IS
'RabbitMQ user that published it, which the broker has checked.';
COMMENT ON COLUMN amqp.message.app_id IS
'Program that published it.';
COMMENT ON COLUMN amqp.message.cluster_id IS
'Of no use any more.';
COMMENT ON COLUMN amqp.message.body IS
'The message.';
COMMENT ON COLUMN amqp.message.received_at IS
'When the daemon, or the session of a request, received it, by its clock.';
COMMENT ON COLUMN amqp.message.stream_offset IS
'Its place in its stream; NULL: it came from a queue.';
