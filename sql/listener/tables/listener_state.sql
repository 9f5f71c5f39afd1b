-- Written while notifications come, so the row shall stay on its page.
CREATE TABLE amqp.listener_state (
    listener_id   integer NOT NULL PRIMARY KEY REFERENCES amqp.listener (listener_id) ON DELETE CASCADE,
    since         timestamptz,
    received      bigint  NOT NULL DEFAULT 0,
    published     bigint  NOT NULL DEFAULT 0,
    stored        bigint  NOT NULL DEFAULT 0,
    dropped       bigint  NOT NULL DEFAULT 0,
    gaps          bigint  NOT NULL DEFAULT 0,
    last_error    text,
    last_error_at timestamptz
) WITH (fillfactor = 10);

COMMENT ON TABLE amqp.listener_state IS
'What became of the notifications of each row of amqp.listener: see amqp.listener_status().';
COMMENT ON COLUMN amqp.listener_state.listener_id IS 'amqp.listener.listener_id.';
COMMENT ON COLUMN amqp.listener_state.since IS 'When the last LISTEN for it was made.';
COMMENT ON COLUMN amqp.listener_state.received IS 'Notifications received since the beginning.';
COMMENT ON COLUMN amqp.listener_state.published IS 'Of these, confirmed by the broker.';
COMMENT ON COLUMN amqp.listener_state.stored IS 'Of these, put into amqp.outbox.';
COMMENT ON COLUMN amqp.listener_state.dropped IS 'Of these, lost; a gap tells of them.';
COMMENT ON COLUMN amqp.listener_state.gaps IS 'Messages of type pg-amqp.gap that were published or stored.';
COMMENT ON COLUMN amqp.listener_state.last_error IS 'What last kept notifications from being published.';
COMMENT ON COLUMN amqp.listener_state.last_error_at IS 'When it was last seen.';
