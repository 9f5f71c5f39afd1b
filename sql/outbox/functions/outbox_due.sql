-- Without SET, so that PostgreSQL inlines it into a prepared statement and plans it once. Callers turn enable_seqscan,
-- enable_bitmapscan and enable_sort off: the statistics may be of a moment when the table was empty. What stands before
-- a message with an ordering key is looked for in an order that only one index has, and is its first entry there: any
-- other way would read much, for each message.
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
            SELECT r.*
            FROM amqp.outbox AS r
            -- Written so that no index but outbox_ready_idx has this order.
            WHERE (r.broker_id, r.id) > (outbox_due.broker_id, COALESCE(outbox_due.after_id, -9223372036854775808))
              AND r.broker_id <= outbox_due.broker_id
              AND r.next_attempt_at IS NULL
              -- Not what this transaction has published itself: it may yet be rolled back.
              AND age(r.xmin) NOT BETWEEN -1000000000 AND 0
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
            SELECT w.*
            FROM amqp.outbox AS w
            WHERE outbox_due.after_id IS NULL
              AND w.broker_id = outbox_due.broker_id
              AND w.next_attempt_at <= statement_timestamp()
              AND age(w.xmin) NOT BETWEEN -1000000000 AND 0
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
    )
    SELECT c.id, c.ordering_key, c.exchange, c.routing_key, COALESCE(c.mandatory, false), c.delivery_mode,
           c.content_type, c.reply_to, c.correlation_id, c.headers::text, c.content_encoding, c.priority, c.expiration,
           c.message_id,
           CASE WHEN isfinite(c."timestamp") THEN floor(date_part('epoch', c."timestamp"))::bigint
                WHEN c."timestamp" IS NOT NULL THEN -1 END,
           c.type, c.user_id, c.app_id, c.body
    FROM (
        SELECT d.*,
               sum(octet_length(d.body) + COALESCE(octet_length(d.headers::text), 0)) OVER (
                   ORDER BY d.id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
               ) AS before
        FROM due AS d
        ORDER BY d.id
        LIMIT outbox_due.row_limit
    ) AS c
    WHERE COALESCE(c.before, 0) < outbox_due.byte_limit
      AND (c.ordering_key IS NULL OR c.ordering_key NOT IN (SELECT l.ordering_key FROM late AS l))
    ORDER BY c.id;
END;

COMMENT ON FUNCTION amqp.outbox_due(integer, bigint, bigint, integer, bigint) IS
'Part of the outbox, for whoever holds its lock: the messages of a broker to deliver next, in order of id, row_limit at most and no more once byte_limit bytes are reached. after_id: only ready ones behind it; NULL: from the beginning, those that waited and are due among them. settled_id: what is not delivered up to here holds back what has its ordering_key.';
