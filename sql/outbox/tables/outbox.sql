CREATE TABLE amqp.outbox (
    id               bigserial   PRIMARY KEY,
    broker_id        integer     NOT NULL,
    exchange         text        NOT NULL DEFAULT 'amq.direct',
    routing_key      text        NOT NULL DEFAULT '',
    body             bytea       NOT NULL DEFAULT '',
    delivery_mode    integer,
    content_type     text,
    reply_to         text,
    correlation_id   text,
    mandatory        boolean,
    headers          jsonb,
    content_encoding text,
    priority         integer,
    expiration       text,
    message_id       text        NOT NULL DEFAULT pg_catalog.gen_random_uuid()::pg_catalog.text,
    "timestamp"      timestamptz,
    type             text,
    user_id          text,
    app_id           text,
    ordering_key     text,
    created_at       timestamptz NOT NULL DEFAULT pg_catalog.now(),
    attempts         integer     NOT NULL DEFAULT 0,
    next_attempt_at  timestamptz,
    last_error       text
);

-- What can go now is read by id, and nothing else stands in the way there; what waits is read by time.
CREATE INDEX outbox_ready_idx ON amqp.outbox (broker_id, id) WHERE next_attempt_at IS NULL;
CREATE INDEX outbox_waiting_idx ON amqp.outbox (broker_id, next_attempt_at, id) WHERE next_attempt_at IS NOT NULL;
-- Whether anything with the same key stands before a message is asked for each of them: one look must be enough.
CREATE INDEX outbox_ready_key_idx ON amqp.outbox (broker_id, ordering_key, id)
    WHERE ordering_key IS NOT NULL AND next_attempt_at IS NULL;
CREATE INDEX outbox_waiting_key_idx ON amqp.outbox (broker_id, ordering_key, id)
    WHERE ordering_key IS NOT NULL AND next_attempt_at IS NOT NULL;

-- Every row comes and goes: vacuum by the number of rows, not by their share, and without pauses.
ALTER TABLE amqp.outbox SET (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0,
    toast.autovacuum_vacuum_threshold = 20000,
    toast.autovacuum_vacuum_cost_delay = 0
);

COMMENT ON TABLE amqp.outbox IS
'Messages that wait for delivery to RabbitMQ by pg-amqp relay or amqp.publish_outbox_batch(). A row goes when the broker has confirmed its message.';
COMMENT ON COLUMN amqp.outbox.id IS 'The messages of a broker are delivered in this order, as far as they are visible and due.';
COMMENT ON COLUMN amqp.outbox.broker_id IS 'The broker, as in amqp.broker.';
COMMENT ON COLUMN amqp.outbox.exchange IS 'Exchange; the empty name is the default exchange. This and the columns to app_id are the parameters of amqp.publish_outbox().';
COMMENT ON COLUMN amqp.outbox.body IS 'The message; text is in UTF-8.';
COMMENT ON COLUMN amqp.outbox.mandatory IS 'Whether the broker is to hand the message back if no queue takes it; then it is tried again.';
COMMENT ON COLUMN amqp.outbox.message_id IS 'The same at every attempt, for consumers to recognise what they have had.';
COMMENT ON COLUMN amqp.outbox.ordering_key IS 'Messages of a broker with the same key are delivered strictly in order of id: a later one waits while an earlier one is delayed, tried again or dead.';
COMMENT ON COLUMN amqp.outbox.created_at IS 'Start of the transaction that published the message.';
COMMENT ON COLUMN amqp.outbox.attempts IS 'How often the broker has refused the message; a broker that is away does not count.';
COMMENT ON COLUMN amqp.outbox.next_attempt_at IS 'Not to be delivered before; NULL is at once.';
COMMENT ON COLUMN amqp.outbox.last_error IS 'Why the last attempt failed.';
