-- The one list of what a message is on its way in: the tables of the inbox and the daemon's stage are made like it.
CREATE TYPE amqp.message AS (
    broker_id        integer,
    queue            text,
    exchange         text,
    routing_key      text,
    redelivered      boolean,
    content_type     text,
    content_encoding text,
    headers          jsonb,
    delivery_mode    integer,
    priority         integer,
    correlation_id   text,
    reply_to         text,
    expiration       text,
    message_id       text,
    "timestamp"      timestamptz,
    type             text,
    user_id          text,
    app_id           text,
    cluster_id       text,
    body             bytea,
    received_at      timestamptz,
    stream_offset    bigint
);

COMMENT ON TYPE amqp.message IS
'A message from a queue, as a consumer''s function gets it: broker_id and queue that it came from, '
'exchange and routing_key that it was published to, whether it was delivered before (redelivered), '
'all 14 properties of AMQP 0-9-1 (class basic; NULL: not sent), body, the time at which the daemon '
'received it, and on a stream its offset. See amqp.body_text() and amqp.body_json().';
