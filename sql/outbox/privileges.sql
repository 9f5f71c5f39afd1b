-- USAGE on schema amqp, which nobody but its owner has at first, is the right to publish: to add messages, and to see
-- whether any wait. Delivering them, and the dead letters, take a GRANT of their own, whatever default
-- privileges say. The sequence of an identity needs none.
REVOKE ALL ON TABLE amqp.outbox, amqp.outbox_dead, amqp.outbox_delivered, amqp.outbox_progress, amqp.outbox_trouble,
    amqp.outbox_lease, amqp.dead_letters FROM PUBLIC;
REVOKE ALL ON SEQUENCE amqp.outbox_id_seq FROM PUBLIC;
GRANT INSERT (broker_id, exchange, routing_key, body, delivery_mode, content_type, reply_to, correlation_id, mandatory,
              headers, content_encoding, priority, expiration, message_id, "timestamp", type, user_id, app_id, ordering_key,
              next_attempt_at),
      SELECT (id, broker_id, next_attempt_at)
ON amqp.outbox TO PUBLIC;
