CREATE TABLE amqp.outbox_progress (
    broker_id integer     NOT NULL,
    second    timestamptz NOT NULL,
    messages  bigint      NOT NULL,
    PRIMARY KEY (broker_id, second)
);

COMMENT ON TABLE amqp.outbox_progress IS
'How many messages were delivered in each second of the last minute: for amqp.outbox_status().';
