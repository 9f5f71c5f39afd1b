CREATE VIEW amqp.dead_letters AS
SELECT d.id, d.broker_id, d.exchange, d.routing_key, d.attempts, d.last_error, d.died_at, d.created_at,
       d.message_id, d.ordering_key, d.body, d.delivery_mode, d.content_type, d.reply_to, d.correlation_id,
       d.mandatory, d.headers, d.content_encoding, d.priority, d.expiration, d."timestamp", d.type, d.user_id, d.app_id,
       d.retain, amqp_inner.shown_text(d.body) AS message
FROM amqp.outbox_dead AS d;

COMMENT ON VIEW amqp.dead_letters IS
'Messages of the outbox that were set aside; last_error says why.
The broker refused them amqp.max_attempts times, or they cannot be encoded.
amqp.retry_dead_letters() puts them back, amqp.discard_dead_letters() deletes them.';
COMMENT ON COLUMN amqp.dead_letters.message IS
'body as text, its first 1,000 characters; NULL if it is none in this database.
It is for looking at: what was to be sent is body.';
COMMENT ON COLUMN amqp.dead_letters.id IS 'That of its row in amqp.outbox.';
COMMENT ON COLUMN amqp.dead_letters.attempts IS 'How often it was tried.';
COMMENT ON COLUMN amqp.dead_letters.last_error IS 'Why it was refused at last.';
COMMENT ON COLUMN amqp.dead_letters.died_at IS 'When it was set aside.';
COMMENT ON COLUMN amqp.dead_letters.created_at IS 'When it was put into the outbox.';
COMMENT ON COLUMN amqp.dead_letters.ordering_key IS 'Later messages with it wait for this one.';
COMMENT ON COLUMN amqp.dead_letters.body IS 'What was to be sent.';
