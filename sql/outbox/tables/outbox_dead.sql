-- A key of its own, which logical replication needs: an id may come again, and so may a message_id that a publisher has
-- chosen. Where columns are added to amqp.outbox, none is here.
CREATE TABLE amqp.outbox_dead (
    id               bigint      NOT NULL,
    broker_id        integer     NOT NULL,
    exchange         text        NOT NULL,
    routing_key      text        NOT NULL,
    body             bytea       NOT NULL,
    delivery_mode    integer,
    content_type     text,
    reply_to         text,
    correlation_id   text,
    mandatory        boolean,
    headers          jsonb,
    content_encoding text,
    priority         integer,
    expiration       text,
    message_id       text        NOT NULL,
    "timestamp"      timestamptz,
    type             text,
    user_id          text,
    app_id           text,
    ordering_key     text,
    created_at       timestamptz NOT NULL,
    attempts         integer     NOT NULL,
    next_attempt_at  timestamptz,
    last_error       text,
    died_at          timestamptz NOT NULL DEFAULT pg_catalog.now(),
    row_id           uuid        PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    retain           boolean
);
CREATE INDEX outbox_dead_idx ON amqp.outbox_dead (broker_id, id);
CREATE INDEX outbox_dead_ordering_key_idx ON amqp.outbox_dead (broker_id, ordering_key, id)
    WHERE ordering_key IS NOT NULL;

COMMENT ON TABLE amqp.outbox_dead IS
'Messages that a broker has refused amqp.max_attempts times, or that cannot be encoded: see the '
'view amqp.dead_letters.';
