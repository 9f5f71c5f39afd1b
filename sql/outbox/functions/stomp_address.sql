-- As RabbitMQ reads a destination (rabbit_routing_parser, and before 4.0 rabbit_routing_util): of all escapes it knows %2F alone.
-- It takes a bare word for the name of a queue, which its documentation does not say; here that is an error.
CREATE FUNCTION amqp.stomp_address(destination text, OUT exchange text, OUT routing_key text) RETURNS record
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- Byte by byte, whatever the collation of what is given.
    name text COLLATE "C" := destination;
    parts text[] COLLATE "C" := string_to_array(name, '/');
    kind text COLLATE "C" := parts[2];
    queue text COLLATE "C";
    detail text;
BEGIN
    IF destination IS NULL THEN
        RAISE EXCEPTION 'destination must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF parts[1] <> '' OR cardinality(parts) < 3 THEN
        kind := NULL;
    ELSIF kind = 'amq' AND parts[3] = 'queue' THEN
        kind := 'queue';
        parts := parts[2:];
    END IF;
    CASE
    WHEN kind = 'exchange' AND parts[3] <> '' AND cardinality(parts) <= 4 THEN
        exchange := replace(parts[3], '%2F', '/');
        routing_key := replace(COALESCE(parts[4], ''), '%2F', '/');
        RETURN;
    WHEN kind = 'topic' AND parts[3] <> '' AND cardinality(parts) = 3 THEN
        exchange := 'amq.topic';
        routing_key := replace(parts[3], '%2F', '/');
        RETURN;
    WHEN kind = 'queue' AND parts[3] <> '' AND cardinality(parts) = 3 THEN
        queue := parts[3];
    WHEN kind = 'reply-queue' THEN
        -- What RabbitMQ makes of an AMQP reply_to: all behind it is the name.
        queue := substr(name, length('/reply-queue/') + 1);
    ELSE
    END CASE;
    IF queue <> '' THEN
        exchange := '';
        routing_key := replace(queue, '%2F', '/');
        RETURN;
    END IF;
    detail := CASE
        WHEN kind = 'temp-queue' THEN 'A temporary queue is known to the connection alone that has named it.'
        WHEN kind IN ('exchange', 'topic', 'queue', 'reply-queue')
            THEN 'A name is missing or empty, or there is a "/" too many.' END;
    RAISE EXCEPTION 'invalid STOMP destination "%"', left(destination, 300)
        USING ERRCODE = 'invalid_parameter_value',
              DETAIL = COALESCE(detail, 'RabbitMQ knows no such destination.'),
              HINT = CASE
                  WHEN kind = 'temp-queue' THEN 'An answer goes to the default exchange, with the message''s reply_to as routing key.'
                  ELSE 'Destinations are /exchange/NAME, /exchange/NAME/KEY, /topic/KEY, /queue/NAME and /amq/queue/NAME. A "/" in a name or key is written %2F.' END;
END
$$;

COMMENT ON FUNCTION amqp.stomp_address(text) IS
'Exchange and routing key of a STOMP destination, as RabbitMQ reads it in a SEND frame.
Destinations are /exchange/NAME or /exchange/NAME/KEY, /topic/KEY (exchange amq.topic, whatever
stomp.default_topic_exchange of the node says), /queue/NAME, /amq/queue/NAME and /reply-queue/NAME
(default exchange, so that exchange is empty). %2F stands for a slash; nothing else is decoded.
Errors: 22004 NULL; 22023 no such destination, as /queue/a/b or /topic/a/b.';
