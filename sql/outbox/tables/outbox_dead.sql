CREATE TABLE amqp.outbox_dead (
    LIKE amqp.outbox,
    died_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
-- Not unique: ids come again after TRUNCATE ... RESTART IDENTITY.
CREATE INDEX outbox_dead_idx ON amqp.outbox_dead (broker_id, id);
CREATE INDEX outbox_dead_ordering_key_idx ON amqp.outbox_dead (broker_id, ordering_key, id)
    WHERE ordering_key IS NOT NULL;

COMMENT ON TABLE amqp.outbox_dead IS
'Messages that a broker has refused amqp.max_attempts times, or that cannot be encoded: see the view amqp.dead_letters.';
