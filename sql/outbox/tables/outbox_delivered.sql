CREATE TABLE amqp.outbox_delivered (
    LIKE amqp.outbox,
    delivered_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
CREATE INDEX outbox_delivered_delivered_at_idx ON amqp.outbox_delivered (delivered_at);

COMMENT ON TABLE amqp.outbox_delivered IS
'Messages that were delivered in the last amqp.keep_delivered; nothing, unless that is set.';
