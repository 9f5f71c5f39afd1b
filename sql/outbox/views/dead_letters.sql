CREATE VIEW amqp.dead_letters AS
SELECT d.id, d.broker_id, d.exchange, d.routing_key, d.attempts, d.last_error, d.died_at, d.created_at,
       d.message_id, d.ordering_key, d.body, d.delivery_mode, d.content_type, d.reply_to, d.correlation_id,
       d.mandatory, d.headers, d.content_encoding, d.priority, d.expiration, d."timestamp", d.type, d.user_id, d.app_id
FROM amqp.outbox_dead AS d;

COMMENT ON VIEW amqp.dead_letters IS
'Messages that were set aside: the broker refused them amqp.max_attempts times, or they cannot be '
'encoded; last_error says why. amqp.retry_dead_letters() puts them back, '
'amqp.discard_dead_letters() deletes them.';
