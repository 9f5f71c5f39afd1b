-- Of sql/extension/privileges.sql, what is new: what was granted since must stay.
REVOKE EXECUTE ON FUNCTION amqp.publish_outbox_batch(integer, integer) FROM PUBLIC;
