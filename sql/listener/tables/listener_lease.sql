CREATE TABLE amqp.listener_lease (
    only_row       boolean NOT NULL DEFAULT true PRIMARY KEY CHECK (only_row),
    worker_pid     integer,
    worker_started timestamptz
);

COMMENT ON TABLE amqp.listener_lease IS
'The session that listens for all rows of amqp.listener: see amqp_inner.listener_take().';
COMMENT ON COLUMN amqp.listener_lease.only_row IS 'There is one row.';
COMMENT ON COLUMN amqp.listener_lease.worker_pid IS 'The session''s process.';
COMMENT ON COLUMN amqp.listener_lease.worker_started IS 'When that session began.';
