CREATE VIEW amqp.dead_messages AS
SELECT d.id, d.consumer, d.sqlstate, d.error, amqp_inner.shown_text(d.body) AS message, d.exchange, d.routing_key,
       d.message_id, d.died_at, d.attempts, d.retry
FROM amqp.inbox_dead AS d;

COMMENT ON VIEW amqp.dead_messages IS
'Messages that could not be stored by their own fault, to be looked at; amqp.inbox_dead has them
whole.
See amqp.retry_dead_messages() and amqp.discard_dead_messages().';
COMMENT ON COLUMN amqp.dead_messages.id IS 'That of its row in amqp.inbox_dead.';
COMMENT ON COLUMN amqp.dead_messages.consumer IS 'amqp.consumer.name.';
COMMENT ON COLUMN amqp.dead_messages.sqlstate IS 'PostgreSQL''s error code.';
COMMENT ON COLUMN amqp.dead_messages.error IS 'What is wrong with the message.';
COMMENT ON COLUMN amqp.dead_messages.message IS
'Its body as text, the first 1,000 characters; NULL if it is none in this database.';
COMMENT ON COLUMN amqp.dead_messages.died_at IS 'Start of the transaction that set it aside.';
COMMENT ON COLUMN amqp.dead_messages.attempts IS 'How often it was tried.';
COMMENT ON COLUMN amqp.dead_messages.retry IS 'Whether it is to be tried again.';
