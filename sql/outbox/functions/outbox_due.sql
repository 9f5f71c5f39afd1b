-- Without SET, so that PostgreSQL inlines it into a prepared statement and plans it once. Callers turn enable_seqscan,
-- enable_bitmapscan and enable_sort off: the statistics may be of a moment when the table was empty. What stands before
-- a message with an ordering key is looked for in an order that only one index has, and is its first entry there: any
-- other way would read much, for each message.
--
-- Headers are not read before it is known that they come along: as text they may be large, however small they are in the
-- table. So the limit counts what they may be at most. amqp.outbox_check() sees to it that 131,000 bytes are the most, and
-- that where they are not compressed it is not more than this.
CREATE FUNCTION amqp.outbox_due(
    broker_id integer,
    after_id bigint,
    settled_id bigint,
    row_limit integer,
    byte_limit bigint
) RETURNS TABLE (
    id bigint,
    ordering_key text,
    exchange text,
    routing_key text,
    mandatory boolean,
    delivery_mode integer,
    content_type text,
    reply_to text,
    correlation_id text,
    headers text,
    content_encoding text,
    priority integer,
    expiration text,
    message_id text,
    "timestamp" bigint,
    type text,
    user_id text,
    app_id text,
    body bytea
)
LANGUAGE sql STABLE PARALLEL UNSAFE
BEGIN ATOMIC
    WITH due AS (
        (
            SELECT r.id, r.broker_id, r.exchange, r.routing_key, r.body, r.delivery_mode, r.content_type,
                   r.reply_to, r.correlation_id, r.mandatory, r.headers, r.content_encoding, r.priority,
                   r.expiration, r.message_id, r."timestamp", r.type, r.user_id, r.app_id,
                   r.ordering_key,
                   octet_length(r.body)::bigint
                       + CASE WHEN r.headers IS NULL THEN 0
                              WHEN pg_column_compression(r.headers) IS NULL
                                  THEN least(131000, 6 * pg_column_size(r.headers) + 500)
                              ELSE 131000 END AS most_bytes
            FROM amqp.outbox AS r
            -- Written so that no index but outbox_ready_idx has this order.
            WHERE (r.broker_id, r.id) > (outbox_due.broker_id, COALESCE(outbox_due.after_id, -9223372036854775808))
              AND r.broker_id <= outbox_due.broker_id
              AND r.next_attempt_at IS NULL
              -- Not what this transaction has published itself: it may yet be rolled back.
              AND (r.transaction_id <> pg_current_xact_id_if_assigned()) IS NOT FALSE
              AND (r.ordering_key IS NULL OR NOT EXISTS (
                      SELECT FROM (
                          SELECT e.ordering_key, e.id FROM amqp.outbox AS e
                          WHERE e.broker_id = outbox_due.broker_id AND e.ordering_key >= r.ordering_key
                            AND e.next_attempt_at IS NOT NULL
                          ORDER BY e.ordering_key, e.id LIMIT 1
                      ) AS f WHERE f.ordering_key = r.ordering_key AND f.id < r.id
                  ) AND NOT EXISTS (
                      SELECT FROM (
                          SELECT e.ordering_key, e.id FROM amqp.outbox_dead AS e
                          WHERE e.broker_id = outbox_due.broker_id AND e.ordering_key >= r.ordering_key
                          ORDER BY e.ordering_key, e.id LIMIT 1
                      ) AS f WHERE f.ordering_key = r.ordering_key AND f.id < r.id
                  ))
            ORDER BY r.broker_id, r.id
            LIMIT outbox_due.row_limit
        ) UNION ALL (
            SELECT w.id, w.broker_id, w.exchange, w.routing_key, w.body, w.delivery_mode, w.content_type,
                   w.reply_to, w.correlation_id, w.mandatory, w.headers, w.content_encoding, w.priority,
                   w.expiration, w.message_id, w."timestamp", w.type, w.user_id, w.app_id,
                   w.ordering_key,
                   octet_length(w.body)::bigint
                       + CASE WHEN w.headers IS NULL THEN 0
                              WHEN pg_column_compression(w.headers) IS NULL
                                  THEN least(131000, 6 * pg_column_size(w.headers) + 500)
                              ELSE 131000 END AS most_bytes
            FROM amqp.outbox AS w
            WHERE outbox_due.after_id IS NULL
              AND w.broker_id = outbox_due.broker_id
              AND w.next_attempt_at <= statement_timestamp()
              AND (w.transaction_id <> pg_current_xact_id_if_assigned()) IS NOT FALSE
              -- Only the first of its key: of those behind it, any may be due, and any may be cut off by the limit.
              AND (w.ordering_key IS NULL OR NOT EXISTS (
                      SELECT FROM (
                          SELECT e.ordering_key, e.id FROM amqp.outbox AS e
                          WHERE e.broker_id = outbox_due.broker_id AND e.ordering_key >= w.ordering_key
                            AND e.next_attempt_at IS NOT NULL
                          ORDER BY e.ordering_key, e.id LIMIT 1
                      ) AS f WHERE f.ordering_key = w.ordering_key AND f.id < w.id
                  ) AND NOT EXISTS (
                      SELECT FROM (
                          SELECT e.ordering_key, e.id FROM amqp.outbox AS e
                          WHERE e.broker_id = outbox_due.broker_id AND e.ordering_key >= w.ordering_key
                            AND e.next_attempt_at IS NULL
                          ORDER BY e.ordering_key, e.id LIMIT 1
                      ) AS f WHERE f.ordering_key = w.ordering_key AND f.id < w.id
                  ) AND NOT EXISTS (
                      SELECT FROM (
                          SELECT e.ordering_key, e.id FROM amqp.outbox_dead AS e
                          WHERE e.broker_id = outbox_due.broker_id AND e.ordering_key >= w.ordering_key
                          ORDER BY e.ordering_key, e.id LIMIT 1
                      ) AS f WHERE f.ordering_key = w.ordering_key AND f.id < w.id
                  ))
            ORDER BY w.broker_id, w.next_attempt_at, w.id
            LIMIT outbox_due.row_limit
        )
    ), late AS (
        -- Once for each key: the entries of many that were delivered may still be in the index.
        SELECT k.ordering_key
        FROM (SELECT DISTINCT d.ordering_key FROM due AS d WHERE d.ordering_key IS NOT NULL) AS k
        CROSS JOIN LATERAL (
            SELECT e.ordering_key, e.id FROM amqp.outbox AS e
            WHERE e.broker_id = outbox_due.broker_id AND e.ordering_key >= k.ordering_key
              AND e.next_attempt_at IS NULL
            ORDER BY e.ordering_key, e.id LIMIT 1
        ) AS f
        WHERE f.ordering_key = k.ordering_key AND f.id <= outbox_due.settled_id
    ), own AS MATERIALIZED (
        -- What this transaction has published itself holds back what is behind it. Looked for once, not for each message.
        SELECT k.ordering_key, f.id
        FROM (
            SELECT d.ordering_key, max(d.id) AS last_id FROM due AS d
            WHERE d.ordering_key IS NOT NULL AND pg_current_xact_id_if_assigned() IS NOT NULL
            GROUP BY d.ordering_key
        ) AS k
        CROSS JOIN LATERAL (
            SELECT e.id FROM amqp.outbox AS e
            WHERE e.broker_id = outbox_due.broker_id AND e.ordering_key = k.ordering_key AND e.id < k.last_id
              AND e.next_attempt_at IS NULL AND e.transaction_id = pg_current_xact_id_if_assigned()
            ORDER BY e.broker_id, e.ordering_key, e.id LIMIT 1
        ) AS f
    )
    SELECT c.id, c.ordering_key, c.exchange, c.routing_key, COALESCE(c.mandatory, false),
           COALESCE(c.delivery_mode, 2),
           c.content_type, c.reply_to, c.correlation_id, c.headers::text, c.content_encoding, c.priority, c.expiration,
           c.message_id,
           CASE WHEN isfinite(c."timestamp") THEN date_part('epoch', date_trunc('second', c."timestamp"))::bigint
                WHEN c."timestamp" IS NOT NULL THEN -1 END,
           c.type, c.user_id, c.app_id, c.body
    FROM (
        SELECT d.id, d.exchange, d.routing_key, d.body, d.delivery_mode, d.content_type, d.reply_to, d.correlation_id,
               d.mandatory, d.headers, d.content_encoding, d.priority, d.expiration, d.message_id, d."timestamp", d.type,
               d.user_id, d.app_id, d.ordering_key,
               sum(d.most_bytes) OVER (ORDER BY d.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
        FROM due AS d
        ORDER BY d.id
        LIMIT outbox_due.row_limit
    ) AS c
    WHERE COALESCE(c.before, 0) < outbox_due.byte_limit
      AND (c.ordering_key IS NULL OR c.ordering_key NOT IN (SELECT l.ordering_key FROM late AS l))
      AND NOT EXISTS (SELECT FROM own AS o WHERE o.ordering_key = c.ordering_key AND o.id < c.id)
    ORDER BY c.id;
END;

COMMENT ON FUNCTION amqp.outbox_due(integer, bigint, bigint, integer, bigint) IS
'Part of the outbox, for whoever holds its lock: the messages of a broker to deliver next, in order of id, row_limit at most and no more once byte_limit bytes may be reached (of headers that are compressed, 131,000 are counted). after_id: only ready ones behind it; NULL: from the beginning, those that waited and are due among them. settled_id: what is not delivered up to here holds back what has its ordering_key.';
