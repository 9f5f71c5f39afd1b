-- In SQL, not in PL/pgSQL: a session that has not loaded that language yet would pay 1 ms. The body is parsed
-- when the function is created, so nothing in it is looked up by name later. SET keeps PostgreSQL from trying to inline
-- it, which cannot be, but takes as long as reading the body once more; a single message needs no JIT. What a message must
-- be is a constraint of the table.
CREATE FUNCTION amqp.publish_outbox(
    broker_id integer,
    exchange text,
    routing_key text,
    message bytea,
    delivery_mode integer DEFAULT NULL,
    content_type text DEFAULT NULL,
    reply_to text DEFAULT NULL,
    correlation_id text DEFAULT NULL,
    mandatory boolean DEFAULT NULL,
    headers jsonb DEFAULT NULL,
    content_encoding text DEFAULT NULL,
    priority integer DEFAULT NULL,
    expiration text DEFAULT NULL,
    message_id text DEFAULT NULL,
    "timestamp" timestamptz DEFAULT NULL,
    type text DEFAULT NULL,
    user_id text DEFAULT NULL,
    app_id text DEFAULT NULL,
    deliver_at timestamptz DEFAULT NULL,
    ordering_key text DEFAULT NULL
) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET jit = off
BEGIN ATOMIC
    INSERT INTO amqp.outbox (
        broker_id, exchange, routing_key, body, delivery_mode, content_type, reply_to, correlation_id, mandatory,
        headers, content_encoding, priority, expiration, message_id, "timestamp", type, user_id, app_id, ordering_key,
        next_attempt_at)
    VALUES (
        $1, COALESCE($2, 'amq.direct'), COALESCE($3, ''),
        COALESCE($4, ''), $5, $6, $7, $8, $9, $10, $11, $12, $13, COALESCE($14, gen_random_uuid()::text), $15, $16, $17,
        $18, $20, $19)
    RETURNING id;
END;

CREATE FUNCTION amqp.publish_outbox(
    broker_id integer,
    exchange text,
    routing_key text,
    message text,
    delivery_mode integer DEFAULT NULL,
    content_type text DEFAULT NULL,
    reply_to text DEFAULT NULL,
    correlation_id text DEFAULT NULL,
    mandatory boolean DEFAULT NULL,
    headers jsonb DEFAULT NULL,
    content_encoding text DEFAULT NULL,
    priority integer DEFAULT NULL,
    expiration text DEFAULT NULL,
    message_id text DEFAULT NULL,
    "timestamp" timestamptz DEFAULT NULL,
    type text DEFAULT NULL,
    user_id text DEFAULT NULL,
    app_id text DEFAULT NULL,
    deliver_at timestamptz DEFAULT NULL,
    ordering_key text DEFAULT NULL
) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN amqp.publish_outbox(
    $1, $2, $3, convert_to($4, 'UTF8'), $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20);

CREATE FUNCTION amqp.publish_outbox(
    broker_id integer,
    exchange text,
    routing_key text,
    message jsonb,
    delivery_mode integer DEFAULT NULL,
    content_type text DEFAULT NULL,
    reply_to text DEFAULT NULL,
    correlation_id text DEFAULT NULL,
    mandatory boolean DEFAULT NULL,
    headers jsonb DEFAULT NULL,
    content_encoding text DEFAULT NULL,
    priority integer DEFAULT NULL,
    expiration text DEFAULT NULL,
    message_id text DEFAULT NULL,
    "timestamp" timestamptz DEFAULT NULL,
    type text DEFAULT NULL,
    user_id text DEFAULT NULL,
    app_id text DEFAULT NULL,
    deliver_at timestamptz DEFAULT NULL,
    ordering_key text DEFAULT NULL
) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN amqp.publish_outbox(
    $1, $2, $3, convert_to($4::text, 'UTF8'), $5, COALESCE($6, 'application/json'), $7, $8, $9, $10, $11, $12, $13, $14,
    $15, $16, $17, $18, $19, $20);

COMMENT ON FUNCTION amqp.publish_outbox(integer, text, text, bytea, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text, timestamptz, text) IS
'Puts a message into amqp.outbox, with the transaction, and returns its id; pg-amqp relay or amqp.publish_outbox_batch() delivers it, at least once. Parameters: those of amqp.publish(), with message as text, jsonb or bytea; message_id, which a UUID stands in for, is the same at every attempt; delivery_mode is 2 (persistent) unless given; deliver_at: not before this time, which is finite; ordering_key: strictly behind earlier messages of the broker with the same key. Needs no PL/Python and no broker: whether broker and exchange exist shows when the message is delivered. Errors: 22001, 22003, 22004, 22023, 54000 bad parameter.';

COMMENT ON FUNCTION amqp.publish_outbox(integer, text, text, text, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text, timestamptz, text) IS
'Puts a message into amqp.outbox, with the transaction, and returns its id; pg-amqp relay or amqp.publish_outbox_batch() delivers it, at least once. Parameters: those of amqp.publish(), with message as text, jsonb or bytea; message_id, which a UUID stands in for, is the same at every attempt; delivery_mode is 2 (persistent) unless given; deliver_at: not before this time, which is finite; ordering_key: strictly behind earlier messages of the broker with the same key. Needs no PL/Python and no broker: whether broker and exchange exist shows when the message is delivered. Errors: 22001, 22003, 22004, 22023, 54000 bad parameter.';

COMMENT ON FUNCTION amqp.publish_outbox(integer, text, text, jsonb, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text, timestamptz, text) IS
'Puts a message into amqp.outbox, with the transaction, and returns its id; pg-amqp relay or amqp.publish_outbox_batch() delivers it, at least once. Parameters: those of amqp.publish(), with message as text, jsonb or bytea; message_id, which a UUID stands in for, is the same at every attempt; delivery_mode is 2 (persistent) unless given; deliver_at: not before this time, which is finite; ordering_key: strictly behind earlier messages of the broker with the same key. Needs no PL/Python and no broker: whether broker and exchange exist shows when the message is delivered. Errors: 22001, 22003, 22004, 22023, 54000 bad parameter.';
