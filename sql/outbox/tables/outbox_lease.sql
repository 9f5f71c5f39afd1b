-- An advisory lock can be taken by everybody who connects, and its key is seen in pg_locks. So the key of a broker's lock
-- is a number that another one can take the place of, and only those who may work the outbox can say which it is.
CREATE TABLE amqp.outbox_lease (
    broker_id integer PRIMARY KEY,
    lock_key  bigint  NOT NULL
);

COMMENT ON TABLE amqp.outbox_lease IS
'The key of the advisory lock under which each broker''s outbox is worked: see amqp_inner.outbox_lock().';
