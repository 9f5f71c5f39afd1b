-- Instead of CHECK and NOT NULL, whose errors show the whole row, its password included.
CREATE FUNCTION amqp.broker_check() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
    wrong pg_catalog.text := CASE
        WHEN NEW.broker_id IS NULL THEN 'broker_id must not be null'
        WHEN COALESCE(NEW.host, '') OPERATOR(pg_catalog.=) '' THEN 'host must not be empty'
        WHEN NEW.port IS NULL OR NEW.port OPERATOR(pg_catalog.<) 1 OR NEW.port OPERATOR(pg_catalog.>) 65535
            THEN 'port must be between 1 and 65535'
        WHEN NEW.vhost OPERATOR(pg_catalog.=) '' THEN 'vhost must not be empty'
        WHEN pg_catalog.octet_length(pg_catalog.convert_to(NEW.vhost, 'UTF8')) OPERATOR(pg_catalog.>) 255
            THEN 'vhost must not be longer than 255 bytes'
        WHEN NEW.ssl IS NULL OR NEW.ssl_verify_peer IS NULL OR NEW.ssl_verify_hostname IS NULL
            THEN 'ssl, ssl_verify_peer and ssl_verify_hostname must not be null'
        WHEN NEW.ssl_key IS NOT NULL AND NEW.ssl_cert IS NULL THEN 'ssl_key needs ssl_cert'
        WHEN NOT NEW.ssl AND (NEW.ssl_cacert IS NOT NULL OR NEW.ssl_cert IS NOT NULL)
            THEN 'ssl_cacert and ssl_cert need ssl'
        END;
BEGIN
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'invalid row for table "amqp.broker": %', wrong
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION amqp.broker_check() IS
'Trigger function of amqp.broker: raises check_violation for a row that cannot work, without showing its password.';
CREATE TABLE amqp.broker (
    broker_id           serial  NOT NULL,
    host                text    NOT NULL,
    port                integer NOT NULL DEFAULT 5672,
    vhost               text,
    username            text,
    password            text,
    ssl                 boolean NOT NULL DEFAULT false,
    ssl_cacert          text,
    ssl_cert            text,
    ssl_key             text,
    ssl_verify_peer     boolean NOT NULL DEFAULT true,
    ssl_verify_hostname boolean NOT NULL DEFAULT true,
    PRIMARY KEY (broker_id, host, port)
);

COMMENT ON TABLE amqp.broker IS
'RabbitMQ brokers to publish to. Several rows with one broker_id are the hosts of one cluster, tried in the order of host and port. A change counts from the next transaction on. Holds passwords: grant nothing on it to those who publish.';
COMMENT ON COLUMN amqp.broker.broker_id IS 'What amqp.publish() and the other functions call the broker.';
COMMENT ON COLUMN amqp.broker.host IS 'Host name or address, resolved by the database server.';
COMMENT ON COLUMN amqp.broker.port IS 'TCP port; RabbitMQ listens on 5672, with TLS on 5671.';
COMMENT ON COLUMN amqp.broker.vhost IS 'Virtual host; NULL is "/".';
COMMENT ON COLUMN amqp.broker.username IS 'User to log in as (SASL PLAIN); NULL is "guest".';
COMMENT ON COLUMN amqp.broker.password IS 'Password of the user; NULL is "guest".';
COMMENT ON COLUMN amqp.broker.ssl IS 'Whether to use TLS.';
COMMENT ON COLUMN amqp.broker.ssl_cacert IS 'File of trusted CA certificates (PEM), readable by the database server; NULL is the system''s.';
COMMENT ON COLUMN amqp.broker.ssl_cert IS 'File of the client certificate chain (PEM), if the broker asks for one.';
COMMENT ON COLUMN amqp.broker.ssl_key IS 'File of the client certificate''s unencrypted key (PEM); NULL if ssl_cert holds it too.';
COMMENT ON COLUMN amqp.broker.ssl_verify_peer IS 'Whether the broker''s certificate must come from a trusted CA.';
COMMENT ON COLUMN amqp.broker.ssl_verify_hostname IS 'Whether it must also be issued for host. Means nothing without ssl_verify_peer.';

-- Whatever default privileges say.
REVOKE ALL ON TABLE amqp.broker FROM PUBLIC;
REVOKE ALL ON SEQUENCE amqp.broker_broker_id_seq FROM PUBLIC;
CREATE TRIGGER broker_check BEFORE INSERT OR UPDATE ON amqp.broker
    FOR EACH ROW EXECUTE FUNCTION amqp.broker_check();
ALTER TABLE amqp.broker ENABLE ALWAYS TRIGGER broker_check;

COMMENT ON TRIGGER broker_check ON amqp.broker IS
'Refuses rows that cannot work.';
CREATE TABLE amqp.outbox (
    id               bigserial   PRIMARY KEY,
    broker_id        integer     NOT NULL,
    exchange         text        NOT NULL DEFAULT 'amq.direct',
    routing_key      text        NOT NULL DEFAULT '',
    body             bytea       NOT NULL DEFAULT '',
    delivery_mode    integer,
    content_type     text,
    reply_to         text,
    correlation_id   text,
    mandatory        boolean,
    headers          jsonb,
    content_encoding text,
    priority         integer,
    expiration       text,
    message_id       text        NOT NULL DEFAULT pg_catalog.gen_random_uuid()::pg_catalog.text,
    "timestamp"      timestamptz,
    type             text,
    user_id          text,
    app_id           text,
    ordering_key     text,
    created_at       timestamptz NOT NULL DEFAULT pg_catalog.now(),
    attempts         integer     NOT NULL DEFAULT 0,
    next_attempt_at  timestamptz,
    last_error       text
);

-- What can go now is read by id, and nothing else stands in the way there; what waits is read by time.
CREATE INDEX outbox_ready_idx ON amqp.outbox (broker_id, id) WHERE next_attempt_at IS NULL;
CREATE INDEX outbox_waiting_idx ON amqp.outbox (broker_id, next_attempt_at, id) WHERE next_attempt_at IS NOT NULL;
-- Whether anything with the same key stands before a message is asked for each of them: one look must be enough.
CREATE INDEX outbox_ready_key_idx ON amqp.outbox (broker_id, ordering_key, id)
    WHERE ordering_key IS NOT NULL AND next_attempt_at IS NULL;
CREATE INDEX outbox_waiting_key_idx ON amqp.outbox (broker_id, ordering_key, id)
    WHERE ordering_key IS NOT NULL AND next_attempt_at IS NOT NULL;

-- Every row comes and goes: vacuum by the number of rows, not by their share, and without pauses.
ALTER TABLE amqp.outbox SET (
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0,
    toast.autovacuum_vacuum_threshold = 20000,
    toast.autovacuum_vacuum_cost_delay = 0
);

COMMENT ON TABLE amqp.outbox IS
'Messages that wait for delivery to RabbitMQ by pg-amqp relay or amqp.publish_outbox_batch(). A row goes when the broker has confirmed its message.';
COMMENT ON COLUMN amqp.outbox.id IS 'The messages of a broker are delivered in this order, as far as they are visible and due.';
COMMENT ON COLUMN amqp.outbox.broker_id IS 'The broker, as in amqp.broker.';
COMMENT ON COLUMN amqp.outbox.exchange IS 'Exchange; the empty name is the default exchange. This and the columns to app_id are the parameters of amqp.publish_outbox().';
COMMENT ON COLUMN amqp.outbox.body IS 'The message; text is in UTF-8.';
COMMENT ON COLUMN amqp.outbox.mandatory IS 'Whether the broker is to hand the message back if no queue takes it; then it is tried again.';
COMMENT ON COLUMN amqp.outbox.message_id IS 'The same at every attempt, for consumers to recognise what they have had.';
COMMENT ON COLUMN amqp.outbox.ordering_key IS 'Messages of a broker with the same key are delivered strictly in order of id: a later one waits while an earlier one is delayed, tried again or dead.';
COMMENT ON COLUMN amqp.outbox.created_at IS 'Start of the transaction that published the message.';
COMMENT ON COLUMN amqp.outbox.attempts IS 'How often the broker has refused the message; a broker that is away does not count.';
COMMENT ON COLUMN amqp.outbox.next_attempt_at IS 'Not to be delivered before; NULL is at once.';
COMMENT ON COLUMN amqp.outbox.last_error IS 'Why the last attempt failed.';
CREATE TABLE amqp.outbox_dead (
    LIKE amqp.outbox,
    died_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
-- Not unique: ids come again after TRUNCATE ... RESTART IDENTITY.
CREATE INDEX outbox_dead_idx ON amqp.outbox_dead (broker_id, id);
CREATE INDEX outbox_dead_ordering_key_idx ON amqp.outbox_dead (broker_id, ordering_key, id)
    WHERE ordering_key IS NOT NULL;

COMMENT ON TABLE amqp.outbox_dead IS
'Messages that a broker has refused amqp.max_attempts times, or that cannot be encoded: see the view amqp.dead_letters.';
CREATE TABLE amqp.outbox_delivered (
    LIKE amqp.outbox,
    delivered_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
CREATE INDEX outbox_delivered_delivered_at_idx ON amqp.outbox_delivered (delivered_at);

COMMENT ON TABLE amqp.outbox_delivered IS
'Messages that were delivered in the last amqp.keep_delivered; nothing, unless that is set.';
CREATE TABLE amqp.outbox_progress (
    broker_id integer     NOT NULL,
    second    timestamptz NOT NULL,
    messages  bigint      NOT NULL,
    PRIMARY KEY (broker_id, second)
);

COMMENT ON TABLE amqp.outbox_progress IS
'How many messages were delivered in each second of the last minute: for amqp.outbox_status().';
CREATE TABLE amqp.outbox_trouble (
    broker_id     integer     PRIMARY KEY,
    last_error    text        NOT NULL,
    last_error_at timestamptz NOT NULL
);

COMMENT ON TABLE amqp.outbox_trouble IS
'What last went wrong in delivering to each broker: for amqp.outbox_status().';
-- In PL/pgSQL: a function in SQL that is called from another one is planned anew for each row. SET keeps PostgreSQL from
-- loading that language before it is called.
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
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    field text;
    invalid text;
BEGIN
    IF broker_id IS NULL THEN
        RAISE EXCEPTION 'broker_id must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    field := CASE
        WHEN octet_length(exchange) > 255 THEN 'exchange'
        WHEN octet_length(routing_key) > 255 THEN 'routing_key'
        WHEN octet_length(content_type) > 255 THEN 'content_type'
        WHEN octet_length(reply_to) > 255 THEN 'reply_to'
        WHEN octet_length(correlation_id) > 255 THEN 'correlation_id'
        WHEN octet_length(content_encoding) > 255 THEN 'content_encoding'
        WHEN octet_length(message_id) > 255 THEN 'message_id'
        WHEN octet_length(type) > 255 THEN 'type'
        WHEN octet_length(user_id) > 255 THEN 'user_id'
        WHEN octet_length(app_id) > 255 THEN 'app_id'
        END;
    IF field IS NOT NULL THEN
        RAISE EXCEPTION '% is too long', field
            USING ERRCODE = 'string_data_right_truncation', DETAIL = 'AMQP allows 255 bytes.';
    END IF;
    IF jsonb_typeof(headers) <> 'object' THEN
        RAISE EXCEPTION 'headers must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an object, such as ''{"key": "value"}''.';
    ELSIF octet_length(headers::text) > 131000 THEN
        RAISE EXCEPTION 'headers are too large'
            USING ERRCODE = 'program_limit_exceeded', DETAIL = 'As text, 131,000 bytes are allowed.',
                  HINT = 'Move what is large into the message.';
    END IF;
    IF delivery_mode <> ALL ('{1,2}') THEN
        field := 'delivery_mode';
        invalid := delivery_mode;
    ELSIF priority < 0 OR priority > 255 THEN
        field := 'priority';
        invalid := priority;
    ELSIF expiration !~ '^[0-9]{1,10}$' OR expiration::bigint > 4294967295 THEN
        field := 'expiration';
        invalid := left(expiration, 40);
    ELSIF "timestamp" < 'epoch' OR NOT isfinite("timestamp") THEN
        field := 'timestamp';
        invalid := "timestamp";
    ELSE
        RETURN COALESCE(routing_key, '');
    END IF;
    RAISE EXCEPTION 'invalid value for %: %', field, invalid
        USING ERRCODE = 'invalid_parameter_value',
              HINT = CASE
                  WHEN field = 'delivery_mode' THEN 'Use 1 (transient) or 2 (persistent).'
                  WHEN field = 'priority' THEN 'A priority is between 0 and 255.'
                  WHEN field = 'expiration' THEN 'An expiration is a number of milliseconds, such as ''60000'', below 2^32.'
                  ELSE 'A timestamp is not before 1970-01-01 00:00:00 UTC and is finite.' END;
END
$$;

COMMENT ON FUNCTION amqp.outbox_check(integer, text, text, integer, text, text, text, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Part of amqp.publish_outbox(): returns the routing key, or raises what is wrong with a message.';
-- In SQL, not in PL/pgSQL: a session that has not loaded that language yet would pay 1 ms. The body is parsed
-- when the function is created, so nothing in it is looked up by name later. SET keeps PostgreSQL from trying to inline
-- it, which cannot be, but takes as long as reading the body once more; a single message needs no JIT.
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
        $1, COALESCE($2, 'amq.direct'),
        -- Looked at here, and closer there: every function and operator costs something in each call.
        CASE WHEN $1 IS NULL OR $5 < 1 OR $5 > 2 OR $12 < 0 OR $12 > 255
                  OR octet_length(concat($2, $3, $6, $7, $8, $11, $14, $16, $17, $18)) > 255
                  OR jsonb_typeof($10) <> 'object' OR octet_length($10::text) > 131000
                  OR $13 !~ '^[0-9]{1,9}$' OR $15 < 'epoch' OR $15 = 'infinity'
             THEN amqp.outbox_check($1, $2, $3, $5, $6, $7, $8, $10, $11, $12, $13, $14, $15, $16, $17, $18)
             ELSE COALESCE($3, '') END,
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
'Puts a message into amqp.outbox, with the transaction, and returns its id; pg-amqp relay or amqp.publish_outbox_batch() delivers it, at least once. Parameters: those of amqp.publish(), with message as text, jsonb or bytea; message_id, which a UUID stands in for, is the same at every attempt; deliver_at: not before this time; ordering_key: strictly behind earlier messages of the broker with the same key. Needs no PL/Python and no broker: whether broker and exchange exist shows when the message is delivered. Errors: 22001, 22004, 22023 bad parameter.';

COMMENT ON FUNCTION amqp.publish_outbox(integer, text, text, text, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text, timestamptz, text) IS
'Puts a message into amqp.outbox, with the transaction, and returns its id; pg-amqp relay or amqp.publish_outbox_batch() delivers it, at least once. Parameters: those of amqp.publish(), with message as text, jsonb or bytea; message_id, which a UUID stands in for, is the same at every attempt; deliver_at: not before this time; ordering_key: strictly behind earlier messages of the broker with the same key. Needs no PL/Python and no broker: whether broker and exchange exist shows when the message is delivered. Errors: 22001, 22004, 22023 bad parameter.';

COMMENT ON FUNCTION amqp.publish_outbox(integer, text, text, jsonb, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text, timestamptz, text) IS
'Puts a message into amqp.outbox, with the transaction, and returns its id; pg-amqp relay or amqp.publish_outbox_batch() delivers it, at least once. Parameters: those of amqp.publish(), with message as text, jsonb or bytea; message_id, which a UUID stands in for, is the same at every attempt; deliver_at: not before this time; ordering_key: strictly behind earlier messages of the broker with the same key. Needs no PL/Python and no broker: whether broker and exchange exist shows when the message is delivered. Errors: 22001, 22004, 22023 bad parameter.';
-- One relay works a broker, and while it does, no batch is delivered beside it. 1634562416 is "amqp" in ASCII; the
-- next two numbers are the keys of outbox_lock_batch() and of pg-amqp install-outbox.
CREATE FUNCTION amqp.outbox_lock(broker_id integer) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN pg_try_advisory_lock(1634562416, $1);

COMMENT ON FUNCTION amqp.outbox_lock(integer) IS
'Part of the outbox: makes this session the one that works a broker''s outbox, until it ends. False: another one does.';
CREATE FUNCTION amqp.outbox_lock_batch(broker_id integer) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN CASE WHEN pg_try_advisory_xact_lock_shared(1634562416, $1)
            THEN pg_advisory_xact_lock(1634562417, $1) IS NOT NULL ELSE false END;

COMMENT ON FUNCTION amqp.outbox_lock_batch(integer) IS
'Part of amqp.publish_outbox_batch(): waits for others who deliver a batch to the broker, and keeps them waiting until the transaction ends. False: a relay works it.';
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
CREATE FUNCTION amqp.outbox_wake(broker_id integer) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    UPDATE amqp.outbox AS o SET next_attempt_at = NULL
    WHERE o.broker_id = $1 AND o.next_attempt_at <= statement_timestamp() AND o.ordering_key IS NOT NULL;
END;

COMMENT ON FUNCTION amqp.outbox_wake(integer) IS
'Part of the outbox, for whoever holds its lock: makes the messages with an ordering key that waited and are due ready, to be read in order of id.';
CREATE FUNCTION amqp.outbox_note(broker_id integer, error text) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    INSERT INTO amqp.outbox_trouble (broker_id, last_error, last_error_at)
    VALUES ($1, $2, clock_timestamp())
    ON CONFLICT ON CONSTRAINT outbox_trouble_pkey
    DO UPDATE SET last_error = EXCLUDED.last_error, last_error_at = EXCLUDED.last_error_at;
END;

COMMENT ON FUNCTION amqp.outbox_note(integer, text) IS
'Part of the outbox: remembers for amqp.outbox_status() what went wrong.';
CREATE FUNCTION amqp.outbox_settle(
    broker_id integer,
    delivered bigint[],
    refused bigint[],
    verdicts text[],
    errors text[]
) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
-- Runs through all its statements even if there is nothing to report: so an empty report, which whoever holds the lock
-- makes first, shows whether a real one would fail.
#variable_conflict use_column
DECLARE
    keep interval := COALESCE(NULLIF(current_setting('amqp.keep_delivered', true), ''), '0');
    most integer := COALESCE(NULLIF(current_setting('amqp.max_attempts', true), ''), '10');
    done bigint;
BEGIN
    IF keep > '0' THEN
        WITH gone AS (DELETE FROM amqp.outbox AS o WHERE o.id = ANY (delivered) RETURNING o.*)
        INSERT INTO amqp.outbox_delivered SELECT g.* FROM gone AS g;
    ELSE
        DELETE FROM amqp.outbox AS o WHERE o.id = ANY (delivered);
    END IF;
    GET DIAGNOSTICS done = ROW_COUNT;
    DELETE FROM amqp.outbox_delivered AS d WHERE d.delivered_at < clock_timestamp() - keep;
    INSERT INTO amqp.outbox_progress AS p (broker_id, second, messages)
    SELECT outbox_settle.broker_id, date_trunc('second', clock_timestamp()), done WHERE done > 0
    ON CONFLICT (broker_id, second) DO UPDATE SET messages = p.messages + EXCLUDED.messages;
    DELETE FROM amqp.outbox_progress AS p
    WHERE p.broker_id = outbox_settle.broker_id AND p.second < clock_timestamp() - interval '1 minute';
    -- After 1, 2, 4, ... seconds, up to five minutes; a little earlier or later, so that they do not all come at once.
    UPDATE amqp.outbox AS o
    SET attempts = o.attempts + 1,
        last_error = r.error,
        next_attempt_at = clock_timestamp()
            + make_interval(secs => least(300, power(2, least(o.attempts, 20))) * (0.75 + random() / 2))
    FROM unnest(refused, verdicts, errors) AS r (id, verdict, error)
    WHERE o.id = r.id;
    WITH dead AS (
        DELETE FROM amqp.outbox AS o
        USING unnest(refused, verdicts) AS r (id, verdict)
        WHERE o.id = r.id AND (r.verdict = 'invalid' OR r.verdict = 'refused' AND o.attempts >= most)
        RETURNING o.*
    )
    INSERT INTO amqp.outbox_dead SELECT d.*, clock_timestamp() FROM dead AS d;
    IF cardinality(refused) > 0 THEN
        PERFORM amqp.outbox_note(outbox_settle.broker_id, errors[cardinality(errors)]);
    END IF;
END
$$;

COMMENT ON FUNCTION amqp.outbox_settle(integer, bigint[], bigint[], text[], text[]) IS
'Part of the outbox, for whoever holds its lock: deletes what was delivered (or keeps it for amqp.keep_delivered), and sets aside what was refused until its next attempt. verdicts: refused, which ends after amqp.max_attempts as a dead letter; invalid, which does at once; busy, which never does.';
-- Vacuum cannot free what a transaction that began earlier might still look at. TRUNCATE can: all that is alive is put
-- back behind it, in one transaction.
CREATE FUNCTION amqp.outbox_compact() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
AS $$
DECLARE
    alive amqp.outbox[];
BEGIN
    IF pg_table_size('amqp.outbox') < 64 * 1024 * 1024 OR NOT has_table_privilege('amqp.outbox', 'TRUNCATE') THEN
        RETURN false;
    END IF;
    -- What an old snapshot or a policy hides must not be thrown away.
    IF current_setting('transaction_isolation') <> 'read committed' OR row_security_active('amqp.outbox') THEN
        RETURN false;
    END IF;
    -- Before the lock, which keeps publishers waiting. They hold theirs until they commit.
    IF (SELECT count(*) > 1000 OR sum(o.bytes) > 4 * 1024 * 1024
        FROM (SELECT pg_column_size(t.*) + octet_length(t.body)::bigint AS bytes FROM amqp.outbox AS t LIMIT 1001) AS o) THEN
        RETURN false;
    END IF;
    BEGIN
        LOCK TABLE amqp.outbox IN ACCESS EXCLUSIVE MODE;
    EXCEPTION WHEN lock_not_available THEN
        RETURN false;
    END;
    -- What came while waiting for the lock is little, but look.
    IF (SELECT count(*) > 10000 OR sum(o.bytes) > 16 * 1024 * 1024
        FROM (SELECT pg_column_size(t.*) + octet_length(t.body)::bigint AS bytes FROM amqp.outbox AS t LIMIT 10001) AS o) THEN
        RETURN false;
    END IF;
    alive := ARRAY(SELECT o FROM amqp.outbox AS o);
    TRUNCATE amqp.outbox;
    INSERT INTO amqp.outbox SELECT a.* FROM unnest(alive) AS a;
    RETURN true;
END
$$;

COMMENT ON FUNCTION amqp.outbox_compact() IS
'Part of the outbox: if its table has grown to 64 MB and holds nearly nothing, gives the space back, whatever transactions are open. Waits at most 50 ms for those that have used the outbox; true: it is done.';
CREATE FUNCTION amqp.outbox_status() RETURNS TABLE (
    broker_id integer,
    pending bigint,
    waiting bigint,
    oldest_age interval,
    dead bigint,
    delivered_last_minute bigint,
    relay text,
    last_error text,
    last_error_at timestamptz
)
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    WITH pending AS (
        SELECT o.broker_id, count(*) AS messages, count(o.next_attempt_at) AS waiting, min(o.created_at) AS oldest
        FROM amqp.outbox AS o
        GROUP BY o.broker_id
    ), dead AS (
        SELECT d.broker_id, count(*) AS messages
        FROM amqp.outbox_dead AS d
        GROUP BY d.broker_id
    )
    SELECT b.broker_id,
           COALESCE(p.messages, 0),
           COALESCE(p.waiting, 0),
           clock_timestamp() - p.oldest,
           COALESCE(d.messages, 0),
           (SELECT COALESCE(sum(s.messages), 0)::bigint
            FROM amqp.outbox_progress AS s
            WHERE s.broker_id = b.broker_id AND s.second > clock_timestamp() - interval '1 minute'),
           (SELECT a.application_name
            FROM pg_locks AS l
            JOIN pg_stat_activity AS a ON a.pid = l.pid
            WHERE l.locktype = 'advisory' AND l.granted AND l.mode = 'ExclusiveLock' AND l.objsubid = 2
              AND l.classid = 1634562416::oid AND l.objid = (b.broker_id::bigint & 4294967295)::oid
              AND l.database = (SELECT c.oid FROM pg_database AS c WHERE c.datname = current_database())),
           t.last_error,
           t.last_error_at
    FROM (
        SELECT k.broker_id FROM amqp.broker AS k
        UNION SELECT p.broker_id FROM pending AS p
        UNION SELECT d.broker_id FROM dead AS d
    ) AS b
    LEFT JOIN pending AS p ON p.broker_id = b.broker_id
    LEFT JOIN dead AS d ON d.broker_id = b.broker_id
    LEFT JOIN amqp.outbox_trouble AS t ON t.broker_id = b.broker_id
    ORDER BY b.broker_id;
END;

COMMENT ON FUNCTION amqp.outbox_status() IS
'The outbox, by broker: messages pending, those of them that wait for a time or another attempt, age of the oldest, dead letters, messages delivered in the last minute, the relay that works it (NULL if none does), and the last error.';
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
CREATE FUNCTION amqp.discard_dead_letters(broker_id integer DEFAULT NULL, ids bigint[] DEFAULT NULL) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    WITH gone AS (
        DELETE FROM amqp.outbox_dead AS d
        WHERE ($1 IS NULL OR d.broker_id = $1) AND ($2 IS NULL OR d.id = ANY ($2))
        RETURNING 1
    )
    SELECT count(*) FROM gone;
END;

COMMENT ON FUNCTION amqp.discard_dead_letters(integer, bigint[]) IS
'Deletes dead letters for good and returns their number: those of a broker (NULL: of all), or of these only those with the given ids.';
-- What amqp.publish_outbox() does, with less to check.
CREATE FUNCTION amqp.publish_outbox_change(broker_id integer, exchange text, routing_key text, message text) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    INSERT INTO amqp.outbox (broker_id, exchange, routing_key, body, content_type)
    VALUES (
        $1, $2,
        CASE WHEN octet_length($2) > 255 OR octet_length($3) > 255
             THEN amqp.outbox_check($1, $2, $3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
             ELSE $3 END,
        convert_to($4, 'UTF8'), 'application/json')
    RETURNING true;
END;

COMMENT ON FUNCTION amqp.publish_outbox_change(integer, text, text, text) IS
'Part of amqp.publish_change_outbox(): puts the message for one row into amqp.outbox.';
CREATE FUNCTION amqp.change_routing_key(
    template text,
    operation text,
    schema_name name,
    table_name name,
    new_row jsonb,
    old_row jsonb
) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    -- Every part but the first begins behind a "{".
    parts pg_catalog.text[] := pg_catalog.string_to_array(template, '{');
    routing_key pg_catalog.text := parts[1];
    part pg_catalog.text;
    place integer;
    field pg_catalog.text;
    value pg_catalog.text;
BEGIN
    FOREACH part IN ARRAY parts[2:] LOOP
        place := pg_catalog.strpos(part, '}');
        field := CASE WHEN place OPERATOR(pg_catalog.>) 0 THEN pg_catalog.left(part, place OPERATOR(pg_catalog.-) 1) END;
        -- A row that the operation does not have gives way to the other one.
        value := CASE
            WHEN pg_catalog.starts_with(field, 'new.') THEN COALESCE(new_row, old_row) OPERATOR(pg_catalog.->>) pg_catalog.substr(field, 5)
            WHEN pg_catalog.starts_with(field, 'old.') THEN COALESCE(old_row, new_row) OPERATOR(pg_catalog.->>) pg_catalog.substr(field, 5)
            WHEN field OPERATOR(pg_catalog.=) 'op' THEN operation
            WHEN field OPERATOR(pg_catalog.=) 'schema' THEN schema_name::pg_catalog.text
            WHEN field OPERATOR(pg_catalog.=) 'table' THEN table_name::pg_catalog.text
            END;
        -- NULL, or no such placeholder.
        IF value IS NULL THEN
            IF COALESCE(pg_catalog.left(field, 4) OPERATOR(pg_catalog.<>) ALL ('{new.,old.}'), true) THEN
                RAISE EXCEPTION 'invalid routing key template "%"', template
                    USING ERRCODE = 'invalid_parameter_value',
                          DETAIL = pg_catalog.format('"{%s" is no placeholder of table "%s".',
                              CASE WHEN place OPERATOR(pg_catalog.>) 0 THEN pg_catalog.left(part, place) ELSE part END,
                              table_name),
                          HINT = 'Placeholders are {op}, {schema}, {table}, {new.column} and {old.column}.';
            ELSIF NOT COALESCE(new_row, old_row) OPERATOR(pg_catalog.?) pg_catalog.substr(field, 5) THEN
                RAISE EXCEPTION 'invalid routing key template "%"', template
                    USING ERRCODE = 'invalid_parameter_value',
                          DETAIL = pg_catalog.format('Table "%s" has no column "%s".', table_name, pg_catalog.substr(field, 5)),
                          HINT = 'Placeholders are {op}, {schema}, {table}, {new.column} and {old.column}.';
            END IF;
        END IF;
        routing_key := pg_catalog.concat(routing_key, value, pg_catalog.substr(part, place OPERATOR(pg_catalog.+) 1));
    END LOOP;
    RETURN routing_key;
END
$$;

COMMENT ON FUNCTION amqp.change_routing_key(text, text, name, name, jsonb, jsonb) IS
'Fills in a routing key template of amqp.publish_change(): {op}, {schema}, {table}, {new.column}, {old.column}. For a row that the operation does not have, as the new one of a DELETE, the other row is taken; NULL is empty.';
CREATE VIEW amqp.dead_letters AS
SELECT d.id, d.broker_id, d.exchange, d.routing_key, d.attempts, d.last_error, d.died_at, d.created_at,
       d.message_id, d.ordering_key, d.body, d.delivery_mode, d.content_type, d.reply_to, d.correlation_id,
       d.mandatory, d.headers, d.content_encoding, d.priority, d.expiration, d."timestamp", d.type, d.user_id, d.app_id
FROM amqp.outbox_dead AS d;

COMMENT ON VIEW amqp.dead_letters IS
'Messages that were set aside: the broker refused them amqp.max_attempts times, or they cannot be encoded; last_error says why. amqp.retry_dead_letters() puts them back, amqp.discard_dead_letters() deletes them.';
-- USAGE on schema amqp, which nobody but its owner has at first, is the right to publish: to add messages, and to see
-- whether any wait. Delivering them, and the dead letters, take a GRANT of their own, whatever default
-- privileges say.
REVOKE ALL ON TABLE amqp.outbox, amqp.outbox_dead, amqp.outbox_delivered, amqp.outbox_progress, amqp.outbox_trouble,
    amqp.dead_letters FROM PUBLIC;
REVOKE ALL ON SEQUENCE amqp.outbox_id_seq FROM PUBLIC;
GRANT USAGE ON SEQUENCE amqp.outbox_id_seq TO PUBLIC;
GRANT INSERT (broker_id, exchange, routing_key, body, delivery_mode, content_type, reply_to, correlation_id, mandatory,
              headers, content_encoding, priority, expiration, message_id, "timestamp", type, user_id, app_id, ordering_key,
              next_attempt_at),
      SELECT (id, broker_id, next_attempt_at)
ON amqp.outbox TO PUBLIC;
-- One text for two functions, and for the outbox without the extension: the Makefile and bridge/scripts.py put the names
-- in the place of what stands between at signs. Here, amqp.publish_change() hands messages to amqp.publish_outbox_change().
--
-- SECURITY INVOKER on purpose: to_jsonb() runs casts to json that the owners of column types have written, and they
-- must not run with more rights than whoever changes the table. Without a SET clause, so that these casts find what
-- they always find; every name here is qualified instead. With the extension, none of them is looked for in schema
-- amqp: an owner of the schema who is no superuser could put another one in its place, at any moment.
--
-- What is done for each row is an assignment of one expression, which PL/pgSQL computes without the executor.
CREATE FUNCTION amqp.publish_change() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
    new_row pg_catalog.jsonb;
    old_row pg_catalog.jsonb;
    changed pg_catalog.jsonb;
    is_published boolean;
    new_table pg_catalog.name;
    old_table pg_catalog.name;
    as_many boolean;
    rows_changed pg_catalog.text;
BEGIN
    IF TG_NARGS OPERATOR(pg_catalog.<) 2 OR TG_NARGS OPERATOR(pg_catalog.>) 3 OR TG_WHEN OPERATOR(pg_catalog.<>) 'AFTER' THEN
        IF TG_WHEN OPERATOR(pg_catalog.=) 'AFTER' OR TG_NARGS OPERATOR(pg_catalog.<) 2 OR TG_NARGS OPERATOR(pg_catalog.>) 3 THEN
            RAISE EXCEPTION 'trigger "%" has the wrong arguments for amqp.publish_change()', TG_NAME
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'EXECUTE FUNCTION amqp.publish_change(broker_id, exchange [, routing key template])';
        END IF;
        RAISE EXCEPTION 'trigger "%" must be an AFTER trigger to publish changes', TG_NAME
            USING ERRCODE = 'invalid_object_definition',
                  DETAIL = 'Before the operation, the row may still change or not come to be.';
    END IF;

    IF TG_LEVEL OPERATOR(pg_catalog.=) 'ROW' OR TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN
        IF TG_LEVEL OPERATOR(pg_catalog.=) 'ROW' THEN
            IF TG_OP OPERATOR(pg_catalog.<>) 'DELETE' THEN
                new_row := pg_catalog.to_jsonb(NEW);
            END IF;
            IF TG_OP OPERATOR(pg_catalog.<>) 'INSERT' THEN
                old_row := pg_catalog.to_jsonb(OLD);
            END IF;
            IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
                -- As text, because jsonb's own = takes the numerics 1.0 and 1.00 for the same. Both rows have the same
                -- keys, and a column that is NULL has the value null.
                changed := pg_catalog.to_jsonb(ARRAY(
                    SELECT k.key FROM (SELECT pg_catalog.jsonb_object_keys(new_row) AS key) AS k
                    WHERE (new_row OPERATOR(pg_catalog.->) k.key)::pg_catalog.text OPERATOR(pg_catalog.<>)
                          (old_row OPERATOR(pg_catalog.->) k.key)::pg_catalog.text));
            END IF;
        END IF;
        is_published := amqp.publish_outbox_change(
            TG_ARGV[0]::integer,
            TG_ARGV[1],
            CASE WHEN pg_catalog.strpos(TG_ARGV[2], '{') OPERATOR(pg_catalog.>) 0
                 THEN amqp.change_routing_key(TG_ARGV[2], pg_catalog.lower(TG_OP COLLATE pg_catalog."C"), TG_TABLE_SCHEMA, TG_TABLE_NAME, new_row, old_row)
                 ELSE COALESCE(TG_ARGV[2], pg_catalog.concat(TG_TABLE_SCHEMA, '.', TG_TABLE_NAME, '.', pg_catalog.lower(TG_OP COLLATE pg_catalog."C"))) END,
            pg_catalog.concat(
                '{"operation" : "', pg_catalog.lower(TG_OP COLLATE pg_catalog."C"),
                '", "schema" : ', pg_catalog.to_json(TG_TABLE_SCHEMA), ', "table" : ', pg_catalog.to_json(TG_TABLE_NAME),
                ', "new" : ', COALESCE(new_row, 'null'), ', "old" : ', COALESCE(old_row, 'null'), ', "changed" : ', COALESCE(changed, 'null'),
                ', "transaction_id" : ', pg_catalog.pg_current_xact_id(), ', "time" : ', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}'));
        RETURN NULL;
    END IF;

    -- Once for the statement: one pass over its transition tables, one message for each row.
    SELECT t.tgnewtable, t.tgoldtable INTO new_table, old_table
    FROM pg_catalog.pg_trigger AS t
    WHERE t.tgrelid OPERATOR(pg_catalog.=) TG_RELID AND t.tgname OPERATOR(pg_catalog.=) TG_NAME;
    IF new_table IS NULL AND TG_OP OPERATOR(pg_catalog.<>) 'DELETE'
       OR old_table IS NULL AND TG_OP OPERATOR(pg_catalog.<>) 'INSERT' THEN
        RAISE EXCEPTION 'trigger "%" has no transition tables to publish changes from', TG_NAME
            USING ERRCODE = 'invalid_object_definition',
                  HINT = 'Add REFERENCING NEW TABLE AS new_rows (INSERT), OLD TABLE AS old_rows (DELETE) or both (UPDATE), or use FOR EACH ROW.';
    END IF;
    -- Both tables of an UPDATE hold the same rows in the same order, unless a row that moved to another
    -- partition was swallowed there by a BEFORE trigger: then nobody can tell which.
    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
        EXECUTE pg_catalog.format(
            'SELECT (SELECT pg_catalog.count(*) FROM %I) OPERATOR(pg_catalog.=) (SELECT pg_catalog.count(*) FROM %I)',
            new_table, old_table) INTO as_many;
        IF NOT as_many THEN
            RAISE EXCEPTION 'trigger "%" cannot tell which old row belongs to which new row', TG_NAME
                USING ERRCODE = 'feature_not_supported',
                      DETAIL = 'A trigger of a partition has suppressed a row that was moved there.',
                      HINT = 'Publish the changes of this table FOR EACH ROW.';
        END IF;
    END IF;
    rows_changed := CASE
        WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN pg_catalog.format(
            'SELECT pg_catalog.to_jsonb(n.*) AS new_row, NULL::pg_catalog.jsonb AS old_row FROM %I AS n OFFSET 0', new_table)
        WHEN TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN pg_catalog.format(
            'SELECT NULL::pg_catalog.jsonb AS new_row, pg_catalog.to_jsonb(o.*) AS old_row FROM %I AS o OFFSET 0', old_table)
        ELSE pg_catalog.format(
            'SELECT n.r AS new_row, o.r AS old_row
             FROM (SELECT pg_catalog.to_jsonb(t.*) AS r, pg_catalog.row_number() OVER () AS position FROM %I AS t) AS n
             JOIN (SELECT pg_catalog.to_jsonb(t.*) AS r, pg_catalog.row_number() OVER () AS position FROM %I AS t) AS o
               ON n.position OPERATOR(pg_catalog.=) o.position
             ORDER BY n.position USING OPERATOR(pg_catalog.<)', new_table, old_table)
        END;
    -- Counted: the rows of a result would be kept in memory until its end.
    EXECUTE pg_catalog.format(
        'SELECT pg_catalog.count(amqp.publish_outbox_change($1, $2, %s, pg_catalog.concat(
             $7, COALESCE(c.new_row, ''null''), '', "old" : '', COALESCE(c.old_row, ''null''), '', "changed" : '', %s, $8)))
         FROM (%s) AS c',
        CASE WHEN pg_catalog.strpos(TG_ARGV[2], '{') OPERATOR(pg_catalog.>) 0
             THEN 'amqp.change_routing_key($3, $4, $5, $6, c.new_row, c.old_row)' ELSE '$3' END,
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'UPDATE'
             THEN 'pg_catalog.to_jsonb(ARRAY(
                       SELECT k.key FROM (SELECT pg_catalog.jsonb_object_keys(c.new_row) AS key) AS k
                       WHERE (c.new_row OPERATOR(pg_catalog.->) k.key)::pg_catalog.text OPERATOR(pg_catalog.<>)
                             (c.old_row OPERATOR(pg_catalog.->) k.key)::pg_catalog.text))'
             ELSE '''null''' END,
        rows_changed)
    USING TG_ARGV[0]::integer, TG_ARGV[1],
        COALESCE(TG_ARGV[2], pg_catalog.concat(TG_TABLE_SCHEMA, '.', TG_TABLE_NAME, '.', pg_catalog.lower(TG_OP COLLATE pg_catalog."C"))),
        pg_catalog.lower(TG_OP COLLATE pg_catalog."C"), TG_TABLE_SCHEMA, TG_TABLE_NAME,
        -- The same for all messages of the statement.
        pg_catalog.concat(
            '{"operation" : "', pg_catalog.lower(TG_OP COLLATE pg_catalog."C"), '", "schema" : ', pg_catalog.to_json(TG_TABLE_SCHEMA),
            ', "table" : ', pg_catalog.to_json(TG_TABLE_NAME), ', "new" : '),
        pg_catalog.concat(
            ', "transaction_id" : ', pg_catalog.pg_current_xact_id(), ', "time" : ', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}');
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION amqp.publish_change() IS
'Trigger function that publishes every change of a table through amqp.publish_outbox(): CREATE TRIGGER ... AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION amqp.publish_change(broker_id, exchange [, routing key template]). FOR EACH STATEMENT it needs transition tables (REFERENCING) and publishes one message a row too; for TRUNCATE one message without rows. The message is JSON: operation, schema, table, new, old, changed (columns, for UPDATE), transaction_id, time (when the trigger ran). The routing key is schema.table.operation, or the template with {op}, {schema}, {table}, {new.column} and {old.column} filled in. Runs with the rights of whoever changes the table, who needs USAGE on schema amqp. Errors: those of amqp.publish_outbox(), 42501 without USAGE on schema amqp, 22023 and 42P17 for a trigger that is defined wrongly.';
-- One text for two functions, and for the outbox without the extension: the Makefile and bridge/scripts.py put the names
-- in the place of what stands between at signs. Here, amqp.publish_change_outbox() hands messages to amqp.publish_outbox_change().
--
-- SECURITY INVOKER on purpose: to_jsonb() runs casts to json that the owners of column types have written, and they
-- must not run with more rights than whoever changes the table. Without a SET clause, so that these casts find what
-- they always find; every name here is qualified instead. With the extension, none of them is looked for in schema
-- amqp: an owner of the schema who is no superuser could put another one in its place, at any moment.
--
-- What is done for each row is an assignment of one expression, which PL/pgSQL computes without the executor.
CREATE FUNCTION amqp.publish_change_outbox() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
    new_row pg_catalog.jsonb;
    old_row pg_catalog.jsonb;
    changed pg_catalog.jsonb;
    is_published boolean;
    new_table pg_catalog.name;
    old_table pg_catalog.name;
    as_many boolean;
    rows_changed pg_catalog.text;
BEGIN
    IF TG_NARGS OPERATOR(pg_catalog.<) 2 OR TG_NARGS OPERATOR(pg_catalog.>) 3 OR TG_WHEN OPERATOR(pg_catalog.<>) 'AFTER' THEN
        IF TG_WHEN OPERATOR(pg_catalog.=) 'AFTER' OR TG_NARGS OPERATOR(pg_catalog.<) 2 OR TG_NARGS OPERATOR(pg_catalog.>) 3 THEN
            RAISE EXCEPTION 'trigger "%" has the wrong arguments for amqp.publish_change_outbox()', TG_NAME
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'EXECUTE FUNCTION amqp.publish_change_outbox(broker_id, exchange [, routing key template])';
        END IF;
        RAISE EXCEPTION 'trigger "%" must be an AFTER trigger to publish changes', TG_NAME
            USING ERRCODE = 'invalid_object_definition',
                  DETAIL = 'Before the operation, the row may still change or not come to be.';
    END IF;

    IF TG_LEVEL OPERATOR(pg_catalog.=) 'ROW' OR TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN
        IF TG_LEVEL OPERATOR(pg_catalog.=) 'ROW' THEN
            IF TG_OP OPERATOR(pg_catalog.<>) 'DELETE' THEN
                new_row := pg_catalog.to_jsonb(NEW);
            END IF;
            IF TG_OP OPERATOR(pg_catalog.<>) 'INSERT' THEN
                old_row := pg_catalog.to_jsonb(OLD);
            END IF;
            IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
                -- As text, because jsonb's own = takes the numerics 1.0 and 1.00 for the same. Both rows have the same
                -- keys, and a column that is NULL has the value null.
                changed := pg_catalog.to_jsonb(ARRAY(
                    SELECT k.key FROM (SELECT pg_catalog.jsonb_object_keys(new_row) AS key) AS k
                    WHERE (new_row OPERATOR(pg_catalog.->) k.key)::pg_catalog.text OPERATOR(pg_catalog.<>)
                          (old_row OPERATOR(pg_catalog.->) k.key)::pg_catalog.text));
            END IF;
        END IF;
        is_published := amqp.publish_outbox_change(
            TG_ARGV[0]::integer,
            TG_ARGV[1],
            CASE WHEN pg_catalog.strpos(TG_ARGV[2], '{') OPERATOR(pg_catalog.>) 0
                 THEN amqp.change_routing_key(TG_ARGV[2], pg_catalog.lower(TG_OP COLLATE pg_catalog."C"), TG_TABLE_SCHEMA, TG_TABLE_NAME, new_row, old_row)
                 ELSE COALESCE(TG_ARGV[2], pg_catalog.concat(TG_TABLE_SCHEMA, '.', TG_TABLE_NAME, '.', pg_catalog.lower(TG_OP COLLATE pg_catalog."C"))) END,
            pg_catalog.concat(
                '{"operation" : "', pg_catalog.lower(TG_OP COLLATE pg_catalog."C"),
                '", "schema" : ', pg_catalog.to_json(TG_TABLE_SCHEMA), ', "table" : ', pg_catalog.to_json(TG_TABLE_NAME),
                ', "new" : ', COALESCE(new_row, 'null'), ', "old" : ', COALESCE(old_row, 'null'), ', "changed" : ', COALESCE(changed, 'null'),
                ', "transaction_id" : ', pg_catalog.pg_current_xact_id(), ', "time" : ', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}'));
        RETURN NULL;
    END IF;

    -- Once for the statement: one pass over its transition tables, one message for each row.
    SELECT t.tgnewtable, t.tgoldtable INTO new_table, old_table
    FROM pg_catalog.pg_trigger AS t
    WHERE t.tgrelid OPERATOR(pg_catalog.=) TG_RELID AND t.tgname OPERATOR(pg_catalog.=) TG_NAME;
    IF new_table IS NULL AND TG_OP OPERATOR(pg_catalog.<>) 'DELETE'
       OR old_table IS NULL AND TG_OP OPERATOR(pg_catalog.<>) 'INSERT' THEN
        RAISE EXCEPTION 'trigger "%" has no transition tables to publish changes from', TG_NAME
            USING ERRCODE = 'invalid_object_definition',
                  HINT = 'Add REFERENCING NEW TABLE AS new_rows (INSERT), OLD TABLE AS old_rows (DELETE) or both (UPDATE), or use FOR EACH ROW.';
    END IF;
    -- Both tables of an UPDATE hold the same rows in the same order, unless a row that moved to another
    -- partition was swallowed there by a BEFORE trigger: then nobody can tell which.
    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
        EXECUTE pg_catalog.format(
            'SELECT (SELECT pg_catalog.count(*) FROM %I) OPERATOR(pg_catalog.=) (SELECT pg_catalog.count(*) FROM %I)',
            new_table, old_table) INTO as_many;
        IF NOT as_many THEN
            RAISE EXCEPTION 'trigger "%" cannot tell which old row belongs to which new row', TG_NAME
                USING ERRCODE = 'feature_not_supported',
                      DETAIL = 'A trigger of a partition has suppressed a row that was moved there.',
                      HINT = 'Publish the changes of this table FOR EACH ROW.';
        END IF;
    END IF;
    rows_changed := CASE
        WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN pg_catalog.format(
            'SELECT pg_catalog.to_jsonb(n.*) AS new_row, NULL::pg_catalog.jsonb AS old_row FROM %I AS n OFFSET 0', new_table)
        WHEN TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN pg_catalog.format(
            'SELECT NULL::pg_catalog.jsonb AS new_row, pg_catalog.to_jsonb(o.*) AS old_row FROM %I AS o OFFSET 0', old_table)
        ELSE pg_catalog.format(
            'SELECT n.r AS new_row, o.r AS old_row
             FROM (SELECT pg_catalog.to_jsonb(t.*) AS r, pg_catalog.row_number() OVER () AS position FROM %I AS t) AS n
             JOIN (SELECT pg_catalog.to_jsonb(t.*) AS r, pg_catalog.row_number() OVER () AS position FROM %I AS t) AS o
               ON n.position OPERATOR(pg_catalog.=) o.position
             ORDER BY n.position USING OPERATOR(pg_catalog.<)', new_table, old_table)
        END;
    -- Counted: the rows of a result would be kept in memory until its end.
    EXECUTE pg_catalog.format(
        'SELECT pg_catalog.count(amqp.publish_outbox_change($1, $2, %s, pg_catalog.concat(
             $7, COALESCE(c.new_row, ''null''), '', "old" : '', COALESCE(c.old_row, ''null''), '', "changed" : '', %s, $8)))
         FROM (%s) AS c',
        CASE WHEN pg_catalog.strpos(TG_ARGV[2], '{') OPERATOR(pg_catalog.>) 0
             THEN 'amqp.change_routing_key($3, $4, $5, $6, c.new_row, c.old_row)' ELSE '$3' END,
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'UPDATE'
             THEN 'pg_catalog.to_jsonb(ARRAY(
                       SELECT k.key FROM (SELECT pg_catalog.jsonb_object_keys(c.new_row) AS key) AS k
                       WHERE (c.new_row OPERATOR(pg_catalog.->) k.key)::pg_catalog.text OPERATOR(pg_catalog.<>)
                             (c.old_row OPERATOR(pg_catalog.->) k.key)::pg_catalog.text))'
             ELSE '''null''' END,
        rows_changed)
    USING TG_ARGV[0]::integer, TG_ARGV[1],
        COALESCE(TG_ARGV[2], pg_catalog.concat(TG_TABLE_SCHEMA, '.', TG_TABLE_NAME, '.', pg_catalog.lower(TG_OP COLLATE pg_catalog."C"))),
        pg_catalog.lower(TG_OP COLLATE pg_catalog."C"), TG_TABLE_SCHEMA, TG_TABLE_NAME,
        -- The same for all messages of the statement.
        pg_catalog.concat(
            '{"operation" : "', pg_catalog.lower(TG_OP COLLATE pg_catalog."C"), '", "schema" : ', pg_catalog.to_json(TG_TABLE_SCHEMA),
            ', "table" : ', pg_catalog.to_json(TG_TABLE_NAME), ', "new" : '),
        pg_catalog.concat(
            ', "transaction_id" : ', pg_catalog.pg_current_xact_id(), ', "time" : ', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}');
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION amqp.publish_change_outbox() IS
'Trigger function that publishes every change of a table through amqp.publish_outbox(): CREATE TRIGGER ... AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION amqp.publish_change_outbox(broker_id, exchange [, routing key template]). FOR EACH STATEMENT it needs transition tables (REFERENCING) and publishes one message a row too; for TRUNCATE one message without rows. The message is JSON: operation, schema, table, new, old, changed (columns, for UPDATE), transaction_id, time (when the trigger ran). The routing key is schema.table.operation, or the template with {op}, {schema}, {table}, {new.column} and {old.column} filled in. Runs with the rights of whoever changes the table, who needs USAGE on schema amqp. Errors: those of amqp.publish_outbox(), 42501 without USAGE on schema amqp, 22023 and 42P17 for a trigger that is defined wrongly.';

CREATE FUNCTION amqp.outbox_version() RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '1.1.0';

COMMENT ON FUNCTION amqp.outbox_version() IS
'Version of the outbox in this schema, put there by pg-amqp install-outbox.';
