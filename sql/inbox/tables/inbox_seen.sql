-- Nobody sorts by these texts, and to compare bytes costs least; first what mostly differs.
CREATE TABLE amqp.inbox_seen (
    consumer   text COLLATE "C" NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    seen_at    timestamptz      NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (message_id, consumer)
);
CREATE INDEX inbox_seen_seen_at_idx ON amqp.inbox_seen (consumer, seen_at);

-- Every row comes and goes: vacuum by the number of rows, not by their share, and without pauses.
ALTER TABLE amqp.inbox_seen SET (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 50000,
    autovacuum_vacuum_insert_scale_factor = 0.2,
    autovacuum_vacuum_cost_delay = 0
);

COMMENT ON TABLE amqp.inbox_seen IS
'What each consumer has stored in the last amqp.consumer.deduplicate_for: it tells copies.
It is written in the transaction that stores a message.';
COMMENT ON COLUMN amqp.inbox_seen.message_id IS 'What amqp.consumer.deduplicate_by names.';
COMMENT ON COLUMN amqp.inbox_seen.consumer IS 'amqp.consumer.name.';
COMMENT ON COLUMN amqp.inbox_seen.seen_at IS 'Start of the transaction that stored it.';
