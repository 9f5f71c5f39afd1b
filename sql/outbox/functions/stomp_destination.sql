-- As RabbitMQ's format_destination() does, in rabbit_stomp_util.
CREATE FUNCTION amqp.stomp_destination(exchange text, routing_key text) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN (
    SELECT a.prefix || string_agg((
        SELECT COALESCE(string_agg(
            CASE WHEN b.octet IN (37, 47) OR b.octet < 32 OR b.octet > 127
                 THEN '%' || upper(lpad(to_hex(b.octet), 2, '0')) ELSE chr(b.octet) END, '' ORDER BY b.place), '')
        FROM (
            SELECT get_byte(convert_to(n.name, 'UTF8'), i) AS octet, i AS place
            FROM generate_series(0, octet_length(convert_to(n.name, 'UTF8')) - 1) AS i
        ) AS b), '/' ORDER BY n.place)
    FROM (
        SELECT CASE exchange WHEN '' THEN '/queue/' WHEN 'amq.topic' THEN '/topic/' ELSE '/exchange/' END AS prefix,
               CASE WHEN exchange IN ('', 'amq.topic') THEN ARRAY[routing_key]
                    WHEN routing_key = '' THEN ARRAY[exchange]
                    ELSE ARRAY[exchange, routing_key] END AS names
    ) AS a, unnest(a.names) WITH ORDINALITY AS n (name, place)
    GROUP BY a.prefix
);

COMMENT ON FUNCTION amqp.stomp_destination(text, text) IS
'The STOMP destination in the MESSAGE frame of what was published to an exchange with a routing
key.
It is /queue/KEY for the default exchange, /topic/KEY for amq.topic, else /exchange/NAME/KEY,
without a KEY that is empty. Slashes, percent signs, control characters and bytes beyond ASCII are
written %XX. A SEND decodes %2F alone, so that for the others amqp.stomp_address() gives back what
a client''s SEND to there would have: not the same. NULL if an argument is NULL.';
