CREATE TABLE amqp.outbox_trouble (
    broker_id     integer     PRIMARY KEY,
    last_error    text        NOT NULL,
    last_error_at timestamptz NOT NULL,
    ended_at      timestamptz,
    mqtt_error    text
);

COMMENT ON TABLE amqp.outbox_trouble IS
'What last went wrong in delivering to each broker: for amqp.outbox_status().';
COMMENT ON COLUMN amqp.outbox_trouble.ended_at IS
'Since when messages are delivered again; NULL: it keeps them from being delivered now.';
COMMENT ON COLUMN amqp.outbox_trouble.mqtt_error IS
'What keeps retained messages, which go by MQTT, from being delivered now; NULL: nothing.';
