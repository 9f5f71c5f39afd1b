-- Written in every batch, so the row shall stay on its page.
CREATE TABLE amqp.inbox_state (
    consumer        text        NOT NULL PRIMARY KEY,
    worker_pid      integer,
    worker_started  timestamptz,
    batch_id        uuid,
    stored          bigint      NOT NULL DEFAULT 0,
    duplicates      bigint      NOT NULL DEFAULT 0,
    skipped         bigint      NOT NULL DEFAULT 0,
    without_id      bigint      NOT NULL DEFAULT 0,
    received        bigint      NOT NULL DEFAULT 0,
    unacked         integer     NOT NULL DEFAULT 0,
    ready           bigint,
    oldest_unstored timestamptz,
    rate            real        NOT NULL DEFAULT 0,
    last_error      text,
    last_error_at   timestamptz,
    ended_at        timestamptz
) WITH (fillfactor = 10);

COMMENT ON TABLE amqp.inbox_state IS
'Who works each consumer, and what became of its messages: see amqp.inbox_status().';
COMMENT ON COLUMN amqp.inbox_state.worker_pid IS
'The session that works it, with worker_started: the only one that stores.';
COMMENT ON COLUMN amqp.inbox_state.batch_id IS
'The last batch that was stored, for a daemon that lost its session during the COMMIT.';
COMMENT ON COLUMN amqp.inbox_state.without_id IS
'Messages stored that had nothing to tell a copy by.';
COMMENT ON COLUMN amqp.inbox_state.ended_at IS
'Since when messages are stored again; NULL: last_error keeps them from being stored now.';
COMMENT ON COLUMN amqp.inbox_state.consumer IS 'amqp.consumer.name.';
COMMENT ON COLUMN amqp.inbox_state.worker_started IS 'When that session began.';
COMMENT ON COLUMN amqp.inbox_state.stored IS 'Messages stored since the beginning.';
COMMENT ON COLUMN amqp.inbox_state.duplicates IS 'Messages passed over as copies.';
COMMENT ON COLUMN amqp.inbox_state.skipped IS 'Messages of content types that were not asked for.';
COMMENT ON COLUMN amqp.inbox_state.received IS 'Messages received since the daemon began to work it.';
COMMENT ON COLUMN amqp.inbox_state.unacked IS 'Messages held that are not stored yet.';
COMMENT ON COLUMN amqp.inbox_state.ready IS 'Messages ready in the queue; NULL: not known, or a stream.';
COMMENT ON COLUMN amqp.inbox_state.oldest_unstored IS 'When the oldest message that is held arrived.';
COMMENT ON COLUMN amqp.inbox_state.rate IS 'Messages stored a second, over the last minute.';
COMMENT ON COLUMN amqp.inbox_state.last_error IS 'What last kept messages from being received or stored.';
COMMENT ON COLUMN amqp.inbox_state.last_error_at IS 'When it was last seen.';
