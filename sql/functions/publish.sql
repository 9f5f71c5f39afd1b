-- One body for three types of message; PL/Python hands over text, JSON text or bytes.
CREATE FUNCTION amqp.publish(
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
    app_id text DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.publish(broker_id, exchange, routing_key, message, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, timestamp, type, user_id, app_id)$$;

CREATE FUNCTION amqp.publish(
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
    app_id text DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.publish(broker_id, exchange, routing_key, message, delivery_mode, "application/json" if content_type is None else content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, timestamp, type, user_id, app_id)$$;

CREATE FUNCTION amqp.publish(
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
    app_id text DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.publish(broker_id, exchange, routing_key, message, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, timestamp, type, user_id, app_id)$$;

COMMENT ON FUNCTION amqp.publish(integer, text, text, text, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Publishes a message when the transaction commits, once, after its data is visible; never if the transaction or the savepoint around the call is rolled back. Returns true; a failure that can be known now is an error, or with amqp.on_failure = warn a WARNING and false. With amqp.on_failure = outbox, what the broker cannot take goes to amqp.outbox instead, in the same transaction, with one WARNING for it and each broker; so does what is published while messages to the broker wait there, without one. What fails after the commit is a WARNING, and tried again at the next transactions of the session. Parameters: exchange (NULL is amq.direct, '''' the default exchange) and routing_key (NULL is empty), at most 255 bytes each; message (NULL is empty), as text in UTF-8, as jsonb (content_type becomes application/json unless given) or as bytea; mandatory, to be warned if no queue takes it; and the properties of AMQP 0-9-1, class basic, none of which is sent unless given: delivery_mode 1 (transient) or 2 (persistent), priority 0 to 255, expiration in milliseconds, headers as a JSON object, timestamp in whole seconds, short texts of at most 255 bytes. Errors: 42704 no such broker or exchange; 08001, 08004, 08P01, 28P01 no connection; 53000 broker blocked, or too many messages to this exchange and routing key not confirmed; 25000 in a parallel query; 42501 without USAGE on schema amqp; 22001, 22003, 22023, 54000 bad parameter.';

COMMENT ON FUNCTION amqp.publish(integer, text, text, jsonb, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Publishes a message when the transaction commits, once, after its data is visible; never if the transaction or the savepoint around the call is rolled back. Returns true; a failure that can be known now is an error, or with amqp.on_failure = warn a WARNING and false. With amqp.on_failure = outbox, what the broker cannot take goes to amqp.outbox instead, in the same transaction, with one WARNING for it and each broker; so does what is published while messages to the broker wait there, without one. What fails after the commit is a WARNING, and tried again at the next transactions of the session. Parameters: exchange (NULL is amq.direct, '''' the default exchange) and routing_key (NULL is empty), at most 255 bytes each; message (NULL is empty), as text in UTF-8, as jsonb (content_type becomes application/json unless given) or as bytea; mandatory, to be warned if no queue takes it; and the properties of AMQP 0-9-1, class basic, none of which is sent unless given: delivery_mode 1 (transient) or 2 (persistent), priority 0 to 255, expiration in milliseconds, headers as a JSON object, timestamp in whole seconds, short texts of at most 255 bytes. Errors: 42704 no such broker or exchange; 08001, 08004, 08P01, 28P01 no connection; 53000 broker blocked, or too many messages to this exchange and routing key not confirmed; 25000 in a parallel query; 42501 without USAGE on schema amqp; 22001, 22003, 22023, 54000 bad parameter.';

COMMENT ON FUNCTION amqp.publish(integer, text, text, bytea, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Publishes a message when the transaction commits, once, after its data is visible; never if the transaction or the savepoint around the call is rolled back. Returns true; a failure that can be known now is an error, or with amqp.on_failure = warn a WARNING and false. With amqp.on_failure = outbox, what the broker cannot take goes to amqp.outbox instead, in the same transaction, with one WARNING for it and each broker; so does what is published while messages to the broker wait there, without one. What fails after the commit is a WARNING, and tried again at the next transactions of the session. Parameters: exchange (NULL is amq.direct, '''' the default exchange) and routing_key (NULL is empty), at most 255 bytes each; message (NULL is empty), as text in UTF-8, as jsonb (content_type becomes application/json unless given) or as bytea; mandatory, to be warned if no queue takes it; and the properties of AMQP 0-9-1, class basic, none of which is sent unless given: delivery_mode 1 (transient) or 2 (persistent), priority 0 to 255, expiration in milliseconds, headers as a JSON object, timestamp in whole seconds, short texts of at most 255 bytes. Errors: 42704 no such broker or exchange; 08001, 08004, 08P01, 28P01 no connection; 53000 broker blocked, or too many messages to this exchange and routing key not confirmed; 25000 in a parallel query; 42501 without USAGE on schema amqp; 22001, 22003, 22023, 54000 bad parameter.';
