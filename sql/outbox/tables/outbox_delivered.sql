-- A key of its own, which logical replication needs: an id may come again, and so may a message_id that a publisher has
-- chosen. Where columns are added to amqp.outbox, none is here.
CREATE TABLE amqp.outbox_delivered (
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
    delivered_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    row_id           uuid        PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid(),
    retain           boolean
);
CREATE INDEX outbox_delivered_delivered_at_idx ON amqp.outbox_delivered (delivered_at);

COMMENT ON TABLE amqp.outbox_delivered IS
'Messages that were delivered in the last amqp.keep_delivered; nothing, unless that is set.';
