-- Whatever default privileges say: each of these takes a GRANT of its own.
REVOKE ALL ON TABLE amqp.listener, amqp.listener_state, amqp.listener_lease FROM PUBLIC;
REVOKE ALL ON SEQUENCE amqp.listener_listener_id_seq FROM PUBLIC;
