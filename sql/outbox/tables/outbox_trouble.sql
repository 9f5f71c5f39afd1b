CREATE TABLE amqp.outbox_trouble (
    broker_id     integer     PRIMARY KEY,
    last_error    text        NOT NULL,
    last_error_at timestamptz NOT NULL
);

COMMENT ON TABLE amqp.outbox_trouble IS
'What last went wrong in delivering to each broker: for amqp.outbox_status().';
