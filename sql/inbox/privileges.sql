-- Whatever default privileges say: each of these takes a GRANT of its own.
REVOKE ALL ON TABLE amqp.influxdb, amqp.consumer, amqp.inbox, amqp.inbox_seen, amqp.inbox_offset, amqp.inbox_dead,
    amqp.dead_messages, amqp.inbox_state FROM PUBLIC;
REVOKE ALL ON SEQUENCE amqp.inbox_id_seq, amqp.inbox_dead_id_seq FROM PUBLIC;
