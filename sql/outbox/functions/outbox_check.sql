-- SET keeps PostgreSQL from even trying to inline this into publish_outbox(), which would cost each call more than all
-- the rest, and each session the loading of PL/pgSQL.
CREATE FUNCTION amqp.outbox_check(
    broker_id integer,
    exchange text,
    routing_key text,
    delivery_mode integer,
    content_type text,
    reply_to text,
    correlation_id text,
    headers jsonb,
    content_encoding text,
    priority integer,
    expiration text,
    message_id text,
    "timestamp" timestamptz,
    type text,
    user_id text,
    app_id text
) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE WHEN w.field IS NULL THEN COALESCE($3, '') ELSE amqp.outbox_refuse(w.field, w.problem) END
    FROM (SELECT p.field, p.problem FROM (VALUES
        ('broker_id', CASE WHEN $1 IS NULL THEN 'must not be null' END),
        ('exchange', CASE WHEN octet_length($2) > 255 THEN 'is too long' END),
        ('routing_key', CASE WHEN octet_length($3) > 255 THEN 'is too long' END),
        ('delivery_mode', CASE WHEN $4 NOT IN (1, 2) THEN $4::text END),
        ('content_type', CASE WHEN octet_length($5) > 255 THEN 'is too long' END),
        ('reply_to', CASE WHEN octet_length($6) > 255 THEN 'is too long' END),
        ('correlation_id', CASE WHEN octet_length($7) > 255 THEN 'is too long' END),
        ('headers', CASE WHEN jsonb_typeof($8) <> 'object' THEN 'must be a JSON object'
                         WHEN octet_length($8::text) > 131000 THEN 'are too large' END),
        ('content_encoding', CASE WHEN octet_length($9) > 255 THEN 'is too long' END),
        ('priority', CASE WHEN $10 NOT BETWEEN 0 AND 255 THEN $10::text END),
        ('expiration', CASE WHEN $11 !~ '^[0-9]{1,10}$' OR $11::bigint > 4294967295 THEN left($11, 40) END),
        ('message_id', CASE WHEN octet_length($12) > 255 THEN 'is too long' END),
        ('timestamp', CASE WHEN $13 < 'epoch' OR NOT isfinite($13) THEN $13::text END),
        ('type', CASE WHEN octet_length($14) > 255 THEN 'is too long' END),
        ('user_id', CASE WHEN octet_length($15) > 255 THEN 'is too long' END),
        ('app_id', CASE WHEN octet_length($16) > 255 THEN 'is too long' END)
    ) AS p (field, problem) WHERE p.problem IS NOT NULL LIMIT 1) AS w
    RIGHT JOIN (SELECT) AS always ON true;
END;

COMMENT ON FUNCTION amqp.outbox_check(integer, text, text, integer, text, text, text, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Part of amqp.publish_outbox(): returns the routing key, or raises what is wrong with a message.';
