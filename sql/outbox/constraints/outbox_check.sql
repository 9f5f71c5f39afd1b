-- Of one function alone, because a table's constraints are read from their text, and planned, in each statement.
ALTER TABLE amqp.outbox ADD CONSTRAINT outbox_check CHECK (amqp_inner.outbox_sound(outbox));

COMMENT ON CONSTRAINT outbox_check ON amqp.outbox IS
'What could never be sent is refused, whoever inserts it.';
