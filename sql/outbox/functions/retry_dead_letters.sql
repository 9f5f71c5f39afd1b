CREATE FUNCTION amqp.retry_dead_letters(broker_id integer DEFAULT NULL, ids bigint[] DEFAULT NULL) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    WITH back AS (
        DELETE FROM amqp.outbox_dead AS d
        WHERE ($1 IS NULL OR d.broker_id = $1) AND ($2 IS NULL OR d.id = ANY ($2))
        RETURNING d.*
    ), put AS (
        INSERT INTO amqp.outbox (
            id, broker_id, exchange, routing_key, body, delivery_mode, content_type, reply_to, correlation_id, mandatory,
            headers, content_encoding, priority, expiration, message_id, "timestamp", type, user_id, app_id, ordering_key,
            created_at, last_error)
        SELECT b.id, b.broker_id, b.exchange, b.routing_key, b.body, b.delivery_mode, b.content_type, b.reply_to,
               b.correlation_id, b.mandatory, b.headers, b.content_encoding, b.priority, b.expiration, b.message_id,
               b."timestamp", b.type, b.user_id, b.app_id, b.ordering_key, b.created_at, b.last_error
        FROM back AS b
        RETURNING 1
    )
    SELECT count(*) FROM put;
END;

COMMENT ON FUNCTION amqp.retry_dead_letters(integer, bigint[]) IS
'Puts dead letters back into amqp.outbox, as new as at first, and returns their number: those of a broker (NULL: of all), or of these only those with the given ids.';
