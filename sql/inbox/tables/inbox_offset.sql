CREATE TABLE amqp.inbox_offset (
    consumer    text        NOT NULL,
    queue       text        NOT NULL,
    next_offset bigint,
    start_at    timestamptz,
    rewinds     bigint      NOT NULL DEFAULT 0,
    changed_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (consumer, queue)
);

COMMENT ON TABLE amqp.inbox_offset IS
'How far each consumer of a stream is, written in the transaction that stored the messages: see
amqp.rewind().';
COMMENT ON COLUMN amqp.inbox_offset.next_offset IS 'Offset of the message that comes next.';
COMMENT ON COLUMN amqp.inbox_offset.start_at IS
'Instead of next_offset, after amqp.rewind(): the time from which on messages are read.';
COMMENT ON COLUMN amqp.inbox_offset.rewinds IS
'How often it was rewound: a batch that was read before does not count any more.';
COMMENT ON COLUMN amqp.inbox_offset.consumer IS 'amqp.consumer.name.';
COMMENT ON COLUMN amqp.inbox_offset.queue IS 'The stream.';
COMMENT ON COLUMN amqp.inbox_offset.changed_at IS 'When it last went on, or was rewound.';
