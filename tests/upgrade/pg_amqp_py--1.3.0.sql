-- Complain if the script is sourced in psql rather than by CREATE EXTENSION.
\echo Use "CREATE EXTENSION pg_amqp_py CASCADE" to load this file. \quit

-- PostgreSQL puts schema amqp before its own: what its owner has put there would be taken for what is meant here.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

DO $$
DECLARE
    schema_name pg_catalog.name;
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'amqp') THEN
        RAISE EXCEPTION 'extension "amqp" is installed in this database'
            USING ERRCODE = 'duplicate_object',
                  DETAIL = 'Both extensions own schema "amqp" and table "amqp.broker".',
                  HINT = 'Save its broker rows, DROP EXTENSION amqp, create this extension and put them back: see docs/how-to/migrate-from-pg_amqp.md.';
    END IF;
    IF pg_catalog.to_regprocedure('amqp.outbox_version()') IS NOT NULL THEN
        RAISE EXCEPTION 'the outbox is installed in this database without the extension'
            USING ERRCODE = 'duplicate_object',
                  DETAIL = 'Both own schema "amqp" and tables "amqp.broker" and "amqp.outbox".',
                  HINT = 'Save the rows of amqp.broker, deliver what is in the outbox, remove it with pg-amqp install-outbox --uninstall, and create this extension, which brings an outbox of its own.';
    END IF;
    SELECT n.nspname INTO schema_name
    FROM pg_catalog.pg_namespace AS n
    WHERE n.nspname OPERATOR(pg_catalog.=) ANY ('{amqp,amqp_python}')
      AND pg_catalog.pg_get_userbyid(n.nspowner) OPERATOR(pg_catalog.<>) CURRENT_USER;
    IF FOUND THEN
        RAISE EXCEPTION 'schema "%" belongs to another role', schema_name
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'Its owner could put objects of his own in the place of those of the extension.',
                  HINT = pg_catalog.format('ALTER SCHEMA %I OWNER TO CURRENT_USER; or DROP SCHEMA %I;', schema_name, schema_name);
    END IF;
END
$$;

-- What the functions must find by name, whoever owns schema amqp: its owner can rename it, and put
-- another in its place.
CREATE SCHEMA amqp_python;
GRANT USAGE ON SCHEMA amqp_python TO PUBLIC;
COMMENT ON SCHEMA amqp_python IS 'Inner parts of extension pg_amqp_py, of no use to anybody else.';

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
'Trigger function of amqp.broker: raises check_violation for a row that cannot work, without '
'showing its password.';

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
'RabbitMQ brokers to publish to. Several rows with one broker_id are the hosts of one cluster, '
'tried in the order of host and port. A change counts from the next transaction on. Holds '
'passwords: grant nothing on it to those who publish.';
COMMENT ON COLUMN amqp.broker.broker_id IS
'What amqp.publish() and the other functions call the broker.';
COMMENT ON COLUMN amqp.broker.host IS 'Host name or address, resolved by the database server.';
COMMENT ON COLUMN amqp.broker.port IS 'TCP port; RabbitMQ listens on 5672, with TLS on 5671.';
COMMENT ON COLUMN amqp.broker.vhost IS 'Virtual host; NULL is "/".';
COMMENT ON COLUMN amqp.broker.username IS 'User to log in as (SASL PLAIN); NULL is "guest".';
COMMENT ON COLUMN amqp.broker.password IS 'Password of the user; NULL is "guest".';
COMMENT ON COLUMN amqp.broker.ssl IS 'Whether to use TLS.';
COMMENT ON COLUMN amqp.broker.ssl_cacert IS
'File of trusted CA certificates (PEM), readable by the database server; NULL is the system''s.';
COMMENT ON COLUMN amqp.broker.ssl_cert IS
'File of the client certificate chain (PEM), if the broker asks for one.';
COMMENT ON COLUMN amqp.broker.ssl_key IS
'File of the client certificate''s unencrypted key (PEM); NULL if ssl_cert holds it too.';
COMMENT ON COLUMN amqp.broker.ssl_verify_peer IS
'Whether the broker''s certificate must come from a trusted CA.';
COMMENT ON COLUMN amqp.broker.ssl_verify_hostname IS
'Whether it must also be issued for host. Means nothing without ssl_verify_peer.';

-- Whatever default privileges say.
REVOKE ALL ON TABLE amqp.broker FROM PUBLIC;
REVOKE ALL ON SEQUENCE amqp.broker_broker_id_seq FROM PUBLIC;

CREATE TRIGGER broker_check BEFORE INSERT OR UPDATE ON amqp.broker
    FOR EACH ROW EXECUTE FUNCTION amqp.broker_check();
ALTER TABLE amqp.broker ENABLE ALWAYS TRIGGER broker_check;

COMMENT ON TRIGGER broker_check ON amqp.broker IS
'Refuses rows that cannot work.';

CREATE TABLE amqp.outbox (
    -- As an identity: to draw a number from it, nobody needs a privilege on its sequence.
    id               bigint      GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    broker_id        integer,
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
    last_error       text,
    transaction_id   xid8        DEFAULT pg_catalog.pg_current_xact_id()
);

-- What can go now is read by id, and nothing else stands in the way there; what waits is read by time.
CREATE INDEX outbox_ready_idx ON amqp.outbox (broker_id, id) WHERE next_attempt_at IS NULL;
CREATE INDEX outbox_waiting_idx ON amqp.outbox (broker_id, next_attempt_at, id) WHERE next_attempt_at IS NOT NULL;
-- Whether anything with the same key stands before a message is asked for each of them: one look must be enough.
CREATE INDEX outbox_ready_key_idx ON amqp.outbox (broker_id, ordering_key, id)
    WHERE ordering_key IS NOT NULL AND next_attempt_at IS NULL;
CREATE INDEX outbox_waiting_key_idx ON amqp.outbox (broker_id, ordering_key, id)
    WHERE ordering_key IS NOT NULL AND next_attempt_at IS NOT NULL;

-- What everybody may read of these, to publish, pg_stats would show to whoever connects. No plan needs it: see
-- amqp.outbox_due().
ALTER TABLE amqp.outbox
    ALTER COLUMN id SET STATISTICS 0,
    ALTER COLUMN broker_id SET STATISTICS 0,
    ALTER COLUMN next_attempt_at SET STATISTICS 0;

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
'Messages that wait for delivery to RabbitMQ by pg-amqp relay or amqp.publish_outbox_batch(). A '
'row goes when the broker has confirmed its message.';
COMMENT ON COLUMN amqp.outbox.id IS
'The messages of a broker are delivered in this order, as far as they are visible and due.';
COMMENT ON COLUMN amqp.outbox.broker_id IS 'The broker, as in amqp.broker.';
COMMENT ON COLUMN amqp.outbox.exchange IS
'Exchange; the empty name is the default exchange. This and the columns to app_id are the '
'parameters of amqp.publish_outbox().';
COMMENT ON COLUMN amqp.outbox.body IS 'The message; text is in UTF-8.';
COMMENT ON COLUMN amqp.outbox.delivery_mode IS
'1 (transient) or 2 (persistent); NULL is 2: what must not be lost is not to be lost by a restart '
'of the broker either.';
COMMENT ON COLUMN amqp.outbox.mandatory IS
'Whether the broker is to hand the message back if no queue takes it; then it is tried again.';
COMMENT ON COLUMN amqp.outbox.message_id IS
'The same at every attempt, for consumers to recognise what they have had.';
COMMENT ON COLUMN amqp.outbox.ordering_key IS
'Messages of a broker with the same key are delivered strictly in order of id: a later one waits '
'while an earlier one is delayed, tried again or dead.';
COMMENT ON COLUMN amqp.outbox.created_at IS 'Start of the transaction that published the message.';
COMMENT ON COLUMN amqp.outbox.attempts IS
'How often the broker has refused the message; a broker that is away does not count.';
COMMENT ON COLUMN amqp.outbox.next_attempt_at IS 'Not to be delivered before; NULL is at once.';
COMMENT ON COLUMN amqp.outbox.last_error IS 'Why the last attempt failed.';
COMMENT ON COLUMN amqp.outbox.transaction_id IS
'The transaction that put the message here: it does not deliver its own messages, as it may yet '
'be rolled back.';

-- A key of its own, which logical replication needs: an id may come again, and so may a message_id that a publisher has
-- chosen. Where columns are added to amqp.outbox, none is here.
CREATE TABLE amqp.outbox_dead (
    id               bigint      NOT NULL,
    broker_id        integer     NOT NULL,
    exchange         text        NOT NULL,
    routing_key      text        NOT NULL,
    body             bytea       NOT NULL,
    delivery_mode    integer,
    content_type     text,
    reply_to         text,
    correlation_id   text,
    mandatory        boolean,
    headers          jsonb,
    content_encoding text,
    priority         integer,
    expiration       text,
    message_id       text        NOT NULL,
    "timestamp"      timestamptz,
    type             text,
    user_id          text,
    app_id           text,
    ordering_key     text,
    created_at       timestamptz NOT NULL,
    attempts         integer     NOT NULL,
    next_attempt_at  timestamptz,
    last_error       text,
    died_at          timestamptz NOT NULL DEFAULT pg_catalog.now(),
    row_id           uuid        PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid()
);
CREATE INDEX outbox_dead_idx ON amqp.outbox_dead (broker_id, id);
CREATE INDEX outbox_dead_ordering_key_idx ON amqp.outbox_dead (broker_id, ordering_key, id)
    WHERE ordering_key IS NOT NULL;

COMMENT ON TABLE amqp.outbox_dead IS
'Messages that a broker has refused amqp.max_attempts times, or that cannot be encoded: see the '
'view amqp.dead_letters.';

-- A key of its own, which logical replication needs: an id may come again, and so may a message_id that a publisher has
-- chosen. Where columns are added to amqp.outbox, none is here.
CREATE TABLE amqp.outbox_delivered (
    id               bigint      NOT NULL,
    broker_id        integer     NOT NULL,
    exchange         text        NOT NULL,
    routing_key      text        NOT NULL,
    body             bytea       NOT NULL,
    delivery_mode    integer,
    content_type     text,
    reply_to         text,
    correlation_id   text,
    mandatory        boolean,
    headers          jsonb,
    content_encoding text,
    priority         integer,
    expiration       text,
    message_id       text        NOT NULL,
    "timestamp"      timestamptz,
    type             text,
    user_id          text,
    app_id           text,
    ordering_key     text,
    created_at       timestamptz NOT NULL,
    attempts         integer     NOT NULL,
    next_attempt_at  timestamptz,
    last_error       text,
    delivered_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    row_id           uuid        PRIMARY KEY DEFAULT pg_catalog.gen_random_uuid()
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
    last_error_at timestamptz NOT NULL,
    ended_at      timestamptz
);

COMMENT ON TABLE amqp.outbox_trouble IS
'What last went wrong in delivering to each broker: for amqp.outbox_status().';
COMMENT ON COLUMN amqp.outbox_trouble.ended_at IS
'Since when messages are delivered again; NULL: it keeps them from being delivered now.';

-- An advisory lock can be taken by everybody who connects, and its key is seen in pg_locks. So the key of a broker's lock
-- is a number that another one can take the place of, and only those who may work the outbox can say which it is.
CREATE TABLE amqp.outbox_lease (
    broker_id integer PRIMARY KEY,
    lock_key  bigint  NOT NULL
);

COMMENT ON TABLE amqp.outbox_lease IS
'The key of the advisory lock under which each broker''s outbox is worked: see amqp.outbox_lock().';

-- What wire/table.py and wire/properties.py refuse, and what it takes to look: a level at a time, so that the work grows
-- with the size, and with no more levels than any Python can follow.
CREATE FUNCTION amqp.outbox_check_headers(headers jsonb, properties_bytes integer) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    most_levels CONSTANT integer := 200;
    frame_max CONSTANT integer := 131072;
    level jsonb[] := ARRAY[headers];
    levels integer := 0;
    -- Its own length, and that of each table and array below.
    bytes bigint := 4 + properties_bytes;
    more bigint;
    long_key bigint;
    number text;
BEGIN
    IF jsonb_typeof(headers) <> 'object' THEN
        RAISE EXCEPTION 'headers must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an object, such as ''{"key": "value"}''.';
    END IF;
    -- The second is about numbers: see amqp.outbox_due(). What || gives is never compressed.
    IF octet_length(headers::text) > 131000 OR octet_length(headers::text) > 6 * pg_column_size(headers || '{}') + 400 THEN
        RAISE EXCEPTION 'headers are too large'
            USING ERRCODE = 'program_limit_exceeded',
                  DETAIL = 'As text, 131,000 bytes are allowed, and numbers without thousands of digits.',
                  HINT = 'Move what is large into the message.';
    END IF;
    IF EXISTS (
        SELECT FROM jsonb_each(headers) AS h
        WHERE h.key IN ('CC', 'BCC')
          AND (jsonb_typeof(h.value) <> 'array'
               OR jsonb_path_exists(h.value, 'strict $[*] ? (@.type() != "string")'))) THEN
        RAISE EXCEPTION 'invalid value for headers: CC and BCC must be arrays of strings'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'RabbitMQ would refuse the message.';
    END IF;
    WHILE level IS NOT NULL LOOP
        levels := levels + 1;
        IF levels > most_levels THEN
            RAISE EXCEPTION 'headers are too large'
                USING ERRCODE = 'program_limit_exceeded', DETAIL = 'They are nested too deeply: 200 levels are allowed.',
                      HINT = 'Move what is large into the message.';
        END IF;
        -- A key and its length, the type, and by type: a length and a text, eight bytes or four, one, or nothing.
        SELECT sum(COALESCE(1 + v.key_bytes, 0) + 1
                   + CASE v.type WHEN 'string' THEN 4 + octet_length(convert_to(v.text, 'UTF8'))
                                 WHEN 'number' THEN CASE WHEN v.number BETWEEN -2147483648 AND 2147483647
                                                              AND strpos(v.text, '.') = 0 THEN 4 ELSE 8 END
                                 WHEN 'boolean' THEN 1
                                 WHEN 'null' THEN 0
                                 ELSE 4 END),
               max(v.key_bytes),
               max(left(v.text, 40)) FILTER (
                   WHERE v.number IS NOT NULL
                     AND CASE WHEN strpos(v.text, '.') = 0 THEN v.number NOT BETWEEN -9223372036854775808 AND 9223372036854775807
                              ELSE abs(v.number) > 1.7976931348623157e308 END),
               array_agg(v.value) FILTER (WHERE v.type IN ('object', 'array'))
        INTO more, long_key, number, level
        FROM (
            SELECT octet_length(convert_to(c.key, 'UTF8')) AS key_bytes, c.value, jsonb_typeof(c.value) AS type,
                   CASE WHEN jsonb_typeof(c.value) IN ('string', 'number') THEN c.value #>> '{}' END AS text,
                   CASE WHEN jsonb_typeof(c.value) = 'number' THEN c.value::numeric END AS number
            FROM unnest(level) AS p (value)
            CROSS JOIN LATERAL (
                SELECT e.key, e.value
                FROM jsonb_each(CASE WHEN jsonb_typeof(p.value) = 'object' THEN p.value END) AS e
                UNION ALL
                SELECT NULL, e.value
                FROM jsonb_array_elements(CASE WHEN jsonb_typeof(p.value) = 'array' THEN p.value END) AS e
            ) AS c
        ) AS v;
        IF long_key > 255 THEN
            RAISE EXCEPTION 'key in headers is too long'
                USING ERRCODE = 'string_data_right_truncation',
                      DETAIL = format('The headers hold a key of %s bytes; the limit is 255 bytes.', long_key);
        ELSIF number IS NOT NULL THEN
            RAISE EXCEPTION 'invalid value for headers: number % is out of range', number
                USING ERRCODE = 'numeric_value_out_of_range';
        END IF;
        bytes := bytes + COALESCE(more, 0);
        IF bytes > frame_max THEN
            RAISE EXCEPTION 'headers are too large'
                USING ERRCODE = 'program_limit_exceeded',
                      DETAIL = format('With the other properties they must fit into a frame of %s bytes.', frame_max),
                      HINT = 'Move what is large into the message.';
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION amqp.outbox_check_headers(jsonb, integer) IS
'Part of amqp.outbox_check(): raises what is wrong with headers beside properties of so many '
'bytes.';

-- For a CHECK constraint, which asks it about messages that are not plainly right; so it holds for whoever inserts. In
-- PL/pgSQL, so that each error has its own SQLSTATE. SET keeps PostgreSQL from loading that language before it is called.
CREATE FUNCTION amqp.outbox_check(message amqp.outbox) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    field text;
    invalid text;
    properties integer;
BEGIN
    IF message.broker_id IS NULL THEN
        RAISE EXCEPTION 'broker_id must not be null' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    -- As they are sent, whatever the encoding of the database.
    properties := octet_length(convert_to(concat(
        message.exchange, message.routing_key, message.content_type, message.reply_to, message.correlation_id,
        message.content_encoding, message.message_id, message.type, message.user_id, message.app_id), 'UTF8'));
    IF properties > 255 THEN
        SELECT t.name INTO field
        FROM unnest(
            ARRAY['exchange', 'routing_key', 'content_type', 'reply_to', 'correlation_id', 'content_encoding',
                  'message_id', 'type', 'user_id', 'app_id'],
            ARRAY[message.exchange, message.routing_key, message.content_type, message.reply_to, message.correlation_id,
                  message.content_encoding, message.message_id, message.type, message.user_id,
                  message.app_id]) WITH ORDINALITY AS t (name, value, position)
        WHERE octet_length(convert_to(t.value, 'UTF8')) > 255 ORDER BY t.position LIMIT 1;
        IF field IS NOT NULL THEN
            RAISE EXCEPTION '% is too long', field
                USING ERRCODE = 'string_data_right_truncation', DETAIL = 'AMQP allows 255 bytes.';
        END IF;
    END IF;
    -- A relay keeps those of everything that it reads.
    IF octet_length(message.ordering_key) > 1000 THEN
        RAISE EXCEPTION 'ordering_key is too long'
            USING ERRCODE = 'string_data_right_truncation', DETAIL = 'It may have 1,000 bytes.';
    END IF;
    IF message.headers IS NOT NULL THEN
        -- The frame that holds them holds the other properties as well. At most: its own 20 bytes, flags, 10 bytes of numbers
        -- and times, an expiration, and a length before each of 9 texts; the address, which it does not hold, is counted too.
        PERFORM amqp.outbox_check_headers(message.headers, properties + 52);
    END IF;
    IF message.delivery_mode <> ALL ('{1,2}') THEN
        field := 'delivery_mode';
        invalid := message.delivery_mode;
    ELSIF message.priority < 0 OR message.priority > 255 THEN
        field := 'priority';
        invalid := message.priority;
    ELSIF (CASE WHEN message.expiration ~ '^[0-9]{1,10}$' THEN message.expiration::bigint > 4294967295
                ELSE message.expiration IS NOT NULL END) THEN
        field := 'expiration';
        invalid := left(message.expiration, 40);
    ELSIF message."timestamp" < 'epoch' OR NOT isfinite(message."timestamp") THEN
        field := 'timestamp';
        invalid := message."timestamp";
    ELSIF NOT isfinite(message.next_attempt_at) THEN
        field := 'deliver_at';
        invalid := message.next_attempt_at;
    ELSIF message.reply_to = 'amq.rabbitmq.reply-to' THEN
        RAISE EXCEPTION 'invalid value for reply_to: it needs a consumer on the same channel'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'RabbitMQ would refuse the message.';
    ELSE
        RETURN true;
    END IF;
    RAISE EXCEPTION 'invalid value for %: %', field, invalid
        USING ERRCODE = 'invalid_parameter_value',
              HINT = CASE
                  WHEN field = 'delivery_mode' THEN 'Use 1 (transient) or 2 (persistent).'
                  WHEN field = 'priority' THEN 'A priority is between 0 and 255.'
                  WHEN field = 'expiration' THEN 'An expiration is a number of milliseconds, such as ''60000'', below 2^32.'
                  WHEN field = 'deliver_at' THEN 'A time that never comes would hold up its ordering key for ever.'
                  ELSE 'A timestamp is not before 1970-01-01 00:00:00 UTC and is finite.' END;
END
$$;

COMMENT ON FUNCTION amqp.outbox_check(amqp.outbox) IS
'Part of amqp.outbox: true, or raises what is wrong with a message, as amqp.publish() would. '
'Errors: 22001, 22003, 22004, 22023, 54000.';

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
    INSERT INTO amqp.outbox (broker_id, exchange, routing_key, body, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, "timestamp", type, user_id, app_id, ordering_key, next_attempt_at)
    VALUES (broker_id, COALESCE(exchange, 'amq.direct'), COALESCE(routing_key, ''), COALESCE(message, ''), delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, COALESCE(message_id, gen_random_uuid()::text), "timestamp", type, user_id, app_id, ordering_key, deliver_at)
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
RETURN amqp.publish_outbox(broker_id, exchange, routing_key, convert_to(message, 'UTF8'), delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, "timestamp", type, user_id, app_id, deliver_at, ordering_key);


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
RETURN amqp.publish_outbox(broker_id, exchange, routing_key, convert_to(message::text, 'UTF8'), delivery_mode, COALESCE(content_type, 'application/json'), reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, "timestamp", type, user_id, app_id, deliver_at, ordering_key);

COMMENT ON FUNCTION amqp.publish_outbox(integer, text, text, bytea, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text, timestamptz, text) IS
'Puts a message into amqp.outbox, with the transaction, and returns its id; pg-amqp relay or '
'amqp.publish_outbox_batch() delivers it, at least once. Parameters: those of amqp.publish(), '
'with message as text, jsonb or bytea; message_id, which a UUID stands in for, is the same at '
'every attempt; delivery_mode is 2 (persistent) unless given; deliver_at: not before this time, '
'which is finite; ordering_key: strictly behind earlier messages of the broker with the same key. '
'Needs no PL/Python and no broker: whether broker and exchange exist shows when the message is '
'delivered. Errors: 22001, 22003, 22004, 22023, 54000 bad parameter.';


COMMENT ON FUNCTION amqp.publish_outbox(integer, text, text, text, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text, timestamptz, text) IS
'Puts a message into amqp.outbox, with the transaction, and returns its id; pg-amqp relay or '
'amqp.publish_outbox_batch() delivers it, at least once. Parameters: those of amqp.publish(), '
'with message as text, jsonb or bytea; message_id, which a UUID stands in for, is the same at '
'every attempt; delivery_mode is 2 (persistent) unless given; deliver_at: not before this time, '
'which is finite; ordering_key: strictly behind earlier messages of the broker with the same key. '
'Needs no PL/Python and no broker: whether broker and exchange exist shows when the message is '
'delivered. Errors: 22001, 22003, 22004, 22023, 54000 bad parameter.';


COMMENT ON FUNCTION amqp.publish_outbox(integer, text, text, jsonb, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text, timestamptz, text) IS
'Puts a message into amqp.outbox, with the transaction, and returns its id; pg-amqp relay or '
'amqp.publish_outbox_batch() delivers it, at least once. Parameters: those of amqp.publish(), '
'with message as text, jsonb or bytea; message_id, which a UUID stands in for, is the same at '
'every attempt; delivery_mode is 2 (persistent) unless given; deliver_at: not before this time, '
'which is finite; ordering_key: strictly behind earlier messages of the broker with the same key. '
'Needs no PL/Python and no broker: whether broker and exchange exist shows when the message is '
'delivered. Errors: 22001, 22003, 22004, 22023, 54000 bad parameter.';


-- A member of a role may have become it since it connected.
CREATE FUNCTION amqp.outbox_may_work(role oid) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN has_table_privilege($1, 'amqp.outbox'::regclass, 'DELETE')
       OR EXISTS (SELECT FROM pg_roles AS r
                  WHERE pg_has_role($1, r.oid, 'MEMBER') AND has_table_privilege(r.oid, 'amqp.outbox'::regclass, 'DELETE'));

COMMENT ON FUNCTION amqp.outbox_may_work(oid) IS
'Part of the outbox: whether a role, or one that it may become, may work it: DELETE on '
'amqp.outbox.';

-- Who has just connected, or belongs to no role, is respected.
CREATE FUNCTION amqp.outbox_worked(lock_key bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Sessions are shown as they were when the transaction first looked at any.
    PERFORM pg_stat_clear_snapshot();
    RETURN EXISTS (
        SELECT FROM pg_locks AS l
        LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
        -- A prepared transaction has no session, but the lock of its own number.
        LEFT JOIN pg_locks AS t ON l.pid IS NULL AND t.pid IS NULL AND t.locktype = 'transactionid'
            AND t.virtualtransaction = l.virtualtransaction
        LEFT JOIN pg_prepared_xacts AS x ON x.transaction = t.transactionid
        CROSS JOIN LATERAL (SELECT COALESCE(a.usesysid, to_regrole(quote_ident(x.owner))::oid) AS id) AS u
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
          AND (l.classid::bigint << 32 | l.objid::bigint) = outbox_worked.lock_key
          AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
          AND l.pid IS DISTINCT FROM pg_backend_pid()
          AND (u.id IS NULL OR amqp.outbox_may_work(u.id)));
END
$$;

COMMENT ON FUNCTION amqp.outbox_worked(bigint) IS
'Part of the outbox: whether another session whose role may work the outbox '
'(amqp.outbox_may_work()) holds the advisory lock with this key.';

-- One relay works a broker, and while it does, no batch is delivered beside it. The key in amqp.outbox_lease is changed
-- when somebody holds the lock who may not: the row is locked for it, and whoever has got the lock looks under a lock of
-- the row whether it was the right key.
CREATE FUNCTION amqp.outbox_lock(broker_id integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    tried bigint;
    found_key bigint;
BEGIN
    SELECT l.lock_key INTO tried FROM amqp.outbox_lease AS l WHERE l.broker_id = outbox_lock.broker_id;
    IF NOT FOUND THEN
        BEGIN
            INSERT INTO amqp.outbox_lease (broker_id, lock_key)
            VALUES (outbox_lock.broker_id, uuid_hash_extended(gen_random_uuid(), 0))
            ON CONFLICT DO NOTHING;
        EXCEPTION WHEN lock_not_available THEN
            -- A batch, the first ever for this broker.
            RETURN false;
        END;
        SELECT l.lock_key INTO STRICT tried FROM amqp.outbox_lease AS l WHERE l.broker_id = outbox_lock.broker_id;
    END IF;
    IF NOT pg_try_advisory_lock(tried) THEN
        IF amqp.outbox_worked(tried) THEN
            RETURN false;
        END IF;
        -- Held by strangers. Who has the row is about to work the broker.
        SELECT l.lock_key INTO found_key FROM amqp.outbox_lease AS l
        WHERE l.broker_id = outbox_lock.broker_id FOR UPDATE SKIP LOCKED;
        IF found_key IS DISTINCT FROM tried OR amqp.outbox_worked(tried) THEN
            RETURN false;
        END IF;
        tried := uuid_hash_extended(gen_random_uuid(), 0);
        IF NOT pg_try_advisory_lock(tried) THEN
            RETURN false;
        END IF;
        UPDATE amqp.outbox_lease AS l SET lock_key = tried WHERE l.broker_id = outbox_lock.broker_id;
        RETURN true;
    END IF;
    SELECT l.lock_key INTO found_key FROM amqp.outbox_lease AS l
    WHERE l.broker_id = outbox_lock.broker_id FOR UPDATE SKIP LOCKED;
    IF found_key IS DISTINCT FROM tried THEN
        PERFORM pg_advisory_unlock(tried);
        RETURN false;
    END IF;
    RETURN true;
END
$$;

COMMENT ON FUNCTION amqp.outbox_lock(integer) IS
'Part of the outbox: makes this session the one that works a broker''s outbox, until it ends. '
'False: another one does, or is about to; roles that may not work it do not count.';

-- Batches take turns by the row of amqp.outbox_lease. The advisory lock, shared, keeps relays away, which do not wait.
CREATE FUNCTION amqp.outbox_lock_batch(broker_id integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    tried bigint;
    found_key bigint;
    locked boolean;
BEGIN
    LOOP
        SELECT l.lock_key INTO tried FROM amqp.outbox_lease AS l WHERE l.broker_id = outbox_lock_batch.broker_id;
        IF NOT FOUND THEN
            INSERT INTO amqp.outbox_lease (broker_id, lock_key)
            VALUES (outbox_lock_batch.broker_id, uuid_hash_extended(gen_random_uuid(), 0))
            ON CONFLICT DO NOTHING;
            CONTINUE;
        END IF;
        -- Before the row, which stays locked: a relay is not to find it so.
        locked := pg_try_advisory_xact_lock_shared(tried);
        IF NOT locked AND amqp.outbox_worked(tried) THEN
            RETURN false;
        END IF;
        SELECT l.lock_key INTO found_key FROM amqp.outbox_lease AS l
        WHERE l.broker_id = outbox_lock_batch.broker_id FOR UPDATE;
        CONTINUE WHEN found_key IS DISTINCT FROM tried;
        IF locked THEN
            RETURN true;
        END IF;
        IF amqp.outbox_worked(tried) THEN
            RETURN false;
        END IF;
        -- Held by strangers: by another key, then, from here on.
        tried := uuid_hash_extended(gen_random_uuid(), 0);
        IF pg_try_advisory_xact_lock_shared(tried) THEN
            UPDATE amqp.outbox_lease AS l SET lock_key = tried WHERE l.broker_id = outbox_lock_batch.broker_id;
            RETURN true;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION amqp.outbox_lock_batch(integer) IS
'Part of amqp.publish_outbox_batch(): waits for others who deliver a batch to the broker, and '
'keeps them waiting until the transaction ends. False: a relay works it.';

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
            SELECT r.id, r.broker_id, r.exchange, r.routing_key, r.body, r.delivery_mode, r.content_type, r.reply_to, r.correlation_id, r.mandatory, r.headers, r.content_encoding, r.priority, r.expiration, r.message_id, r."timestamp", r.type, r.user_id, r.app_id, r.ordering_key,
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
            SELECT w.id, w.broker_id, w.exchange, w.routing_key, w.body, w.delivery_mode, w.content_type, w.reply_to, w.correlation_id, w.mandatory, w.headers, w.content_encoding, w.priority, w.expiration, w.message_id, w."timestamp", w.type, w.user_id, w.app_id, w.ordering_key,
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
        SELECT d.id, d.broker_id, d.exchange, d.routing_key, d.body, d.delivery_mode, d.content_type, d.reply_to, d.correlation_id, d.mandatory, d.headers, d.content_encoding, d.priority, d.expiration, d.message_id, d."timestamp", d.type, d.user_id, d.app_id, d.ordering_key,
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
'Part of the outbox, for whoever holds its lock: the messages of a broker to deliver next, in '
'order of id, row_limit at most and no more once byte_limit bytes may be reached (of headers that '
'are compressed, 131,000 are counted). after_id: only ready ones behind it; NULL: from the '
'beginning, those that waited and are due among them. settled_id: what is not delivered up to '
'here holds back what has its ordering_key.';

CREATE FUNCTION amqp.outbox_wake(broker_id integer) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    WITH woken AS (
        UPDATE amqp.outbox AS o SET next_attempt_at = NULL
        -- What somebody has locked is left as it is: waiting for him would keep everything else waiting.
        WHERE o.id = ANY (ARRAY(
            SELECT e.id FROM amqp.outbox AS e
            WHERE e.broker_id = $1 AND e.next_attempt_at <= statement_timestamp() AND e.ordering_key IS NOT NULL
            ORDER BY e.next_attempt_at, e.id LIMIT 10000
            FOR UPDATE SKIP LOCKED))
        RETURNING 1
    )
    SELECT count(*) FROM woken;
END;

COMMENT ON FUNCTION amqp.outbox_wake(integer) IS
'Part of the outbox, for whoever holds its lock: makes messages with an ordering key that waited '
'and are due ready, to be read in order of id; returns how many. 10,000 at most, those that have '
'been due for longest: a statement must not take long.';

CREATE FUNCTION amqp.outbox_note(broker_id integer, error text) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET lock_timeout = '50ms'
BEGIN ATOMIC
    UPDATE amqp.outbox_trouble AS t SET ended_at = clock_timestamp()
    WHERE $2 IS NULL AND t.broker_id = $1 AND t.ended_at IS NULL;
    INSERT INTO amqp.outbox_trouble (broker_id, last_error, last_error_at)
    SELECT $1, $2, clock_timestamp() WHERE $2 IS NOT NULL
    ON CONFLICT ON CONSTRAINT outbox_trouble_pkey
    DO UPDATE SET last_error = EXCLUDED.last_error, last_error_at = EXCLUDED.last_error_at, ended_at = NULL;
END;

COMMENT ON FUNCTION amqp.outbox_note(integer, text) IS
'Part of the outbox: remembers for amqp.outbox_status() what keeps messages from being delivered '
'to a broker from now on; NULL: it is over.';

CREATE FUNCTION amqp.outbox_settle(
    broker_id integer,
    delivered bigint[],
    delivered_message_ids text[],
    refused bigint[],
    refused_message_ids text[],
    verdicts text[],
    errors text[]
) RETURNS bigint[]
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
    patience text := current_setting('lock_timeout');
    done bigint;
    free bigint[];
    locked bigint[];
BEGIN
    -- Somebody may have locked a row for as long as he likes. Whether anybody has costs much to ask, so it is tried; if
    -- that fails, those rows are passed over.
    LOOP
        BEGIN
            IF locked IS NULL THEN
                PERFORM set_config('lock_timeout', '50ms', true);
            END IF;
            -- By message_id as well, because ids come again after TRUNCATE ... RESTART IDENTITY. IS TRUE keeps the planner
            -- from making a join of it, which could read the whole table.
            IF keep > '0' THEN
                WITH gone AS (
                    DELETE FROM amqp.outbox AS o
                    WHERE o.id = ANY (delivered)
                      AND ((o.id, o.message_id) IN (
                              SELECT d.id, d.message_id FROM unnest(delivered, delivered_message_ids) AS d (id, message_id)
                          )) IS TRUE
                    RETURNING o.id, o.broker_id, o.exchange, o.routing_key, o.body, o.delivery_mode, o.content_type, o.reply_to, o.correlation_id, o.mandatory, o.headers, o.content_encoding, o.priority, o.expiration, o.message_id, o."timestamp", o.type, o.user_id, o.app_id, o.ordering_key, o.created_at,
                        o.attempts, o.next_attempt_at, o.last_error
                )
                INSERT INTO amqp.outbox_delivered (
                    id, broker_id, exchange, routing_key, body, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, "timestamp", type, user_id, app_id, ordering_key, created_at, attempts, next_attempt_at, last_error)
                SELECT g.id, g.broker_id, g.exchange, g.routing_key, g.body, g.delivery_mode, g.content_type, g.reply_to, g.correlation_id, g.mandatory, g.headers, g.content_encoding, g.priority, g.expiration, g.message_id, g."timestamp", g.type, g.user_id, g.app_id, g.ordering_key, g.created_at, g.attempts,
                       g.next_attempt_at, g.last_error
                FROM gone AS g;
            ELSE
                DELETE FROM amqp.outbox AS o
                WHERE o.id = ANY (delivered)
                  AND ((o.id, o.message_id) IN (
                          SELECT d.id, d.message_id FROM unnest(delivered, delivered_message_ids) AS d (id, message_id)
                      )) IS TRUE;
            END IF;
            GET DIAGNOSTICS done = ROW_COUNT;
            -- After 1, 2, 4, ... seconds, up to five minutes; a little earlier or later, so that they do not all come at
            -- once.
            UPDATE amqp.outbox AS o
            SET attempts = o.attempts + 1,
                last_error = r.error,
                next_attempt_at = clock_timestamp()
                    + make_interval(secs => least(300, power(2, least(o.attempts, 20))) * (0.75 + random() / 2))
            FROM unnest(refused, refused_message_ids, errors) AS r (id, message_id, error)
            WHERE o.id = r.id AND o.message_id = r.message_id;
            WITH dead AS (
                DELETE FROM amqp.outbox AS o
                USING unnest(refused, refused_message_ids, verdicts) AS r (id, message_id, verdict)
                WHERE o.id = r.id AND o.message_id = r.message_id
                  AND (r.verdict = 'invalid' OR r.verdict = 'refused' AND o.attempts >= most)
                RETURNING o.id, o.broker_id, o.exchange, o.routing_key, o.body, o.delivery_mode, o.content_type, o.reply_to, o.correlation_id, o.mandatory, o.headers, o.content_encoding, o.priority, o.expiration, o.message_id, o."timestamp", o.type, o.user_id, o.app_id, o.ordering_key, o.created_at, o.attempts,
                    o.next_attempt_at, o.last_error
            )
            INSERT INTO amqp.outbox_dead (
                    id, broker_id, exchange, routing_key, body, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, "timestamp", type, user_id, app_id, ordering_key, created_at, attempts, next_attempt_at, last_error, died_at)
            SELECT d.id, d.broker_id, d.exchange, d.routing_key, d.body, d.delivery_mode, d.content_type, d.reply_to, d.correlation_id, d.mandatory, d.headers, d.content_encoding, d.priority, d.expiration, d.message_id, d."timestamp", d.type, d.user_id, d.app_id, d.ordering_key, d.created_at, d.attempts,
                   d.next_attempt_at, d.last_error, clock_timestamp()
            FROM dead AS d;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            IF locked IS NOT NULL THEN
                -- Not rows, but a table.
                RAISE;
            END IF;
            free := ARRAY(
                SELECT o.id FROM amqp.outbox AS o WHERE o.id = ANY (delivered || refused) FOR UPDATE SKIP LOCKED);
            locked := ARRAY(
                SELECT o.id FROM amqp.outbox AS o
                WHERE o.id = ANY (delivered || refused)
                  AND ((o.id, o.message_id) IN (
                          SELECT d.id, d.message_id
                          FROM unnest(delivered || refused, delivered_message_ids || refused_message_ids)
                              AS d (id, message_id)
                      )) IS TRUE
                  AND o.id NOT IN (SELECT f.id FROM unnest(free) AS f (id))
                ORDER BY o.id);
            SELECT COALESCE(array_agg(d.id), '{}'), COALESCE(array_agg(d.message_id), '{}')
            INTO delivered, delivered_message_ids
            FROM unnest(delivered, delivered_message_ids) AS d (id, message_id)
            WHERE d.id IN (SELECT f.id FROM unnest(free) AS f (id));
            SELECT COALESCE(array_agg(r.id), '{}'), COALESCE(array_agg(r.message_id), '{}'),
                   COALESCE(array_agg(r.verdict), '{}'), COALESCE(array_agg(r.error), '{}')
            INTO refused, refused_message_ids, verdicts, errors
            FROM unnest(refused, refused_message_ids, verdicts, errors) AS r (id, message_id, verdict, error)
            WHERE r.id IN (SELECT f.id FROM unnest(free) AS f (id));
        END;
    END LOOP;
    -- What is remembered beside it must not wait for anybody either, nor fail: without it, the rest is as true.
    BEGIN
        PERFORM set_config('lock_timeout', '50ms', true);
        DELETE FROM amqp.outbox_delivered AS d
        WHERE d.row_id IN (
            SELECT e.row_id FROM amqp.outbox_delivered AS e
            WHERE e.delivered_at < clock_timestamp() - keep FOR UPDATE SKIP LOCKED);
        INSERT INTO amqp.outbox_progress AS p (broker_id, second, messages)
        SELECT outbox_settle.broker_id, date_trunc('second', clock_timestamp()), done WHERE done > 0
        ON CONFLICT (broker_id, second) DO UPDATE SET messages = p.messages + EXCLUDED.messages;
        DELETE FROM amqp.outbox_progress AS p
        WHERE p.broker_id = outbox_settle.broker_id AND p.second < clock_timestamp() - interval '1 minute';
        INSERT INTO amqp.outbox_trouble AS t (broker_id, last_error, last_error_at, ended_at)
        SELECT outbox_settle.broker_id, errors[cardinality(errors)], clock_timestamp(), clock_timestamp()
        WHERE cardinality(errors) > 0
        ON CONFLICT (broker_id) DO UPDATE
        SET last_error = EXCLUDED.last_error, last_error_at = EXCLUDED.last_error_at, ended_at = EXCLUDED.ended_at;
        UPDATE amqp.outbox_trouble AS t SET ended_at = clock_timestamp()
        WHERE t.broker_id = outbox_settle.broker_id AND t.ended_at IS NULL AND done > 0 AND locked IS NULL;
    EXCEPTION WHEN lock_not_available THEN
        NULL;
    END;
    PERFORM set_config('lock_timeout', patience, true);
    RETURN COALESCE(locked, '{}');
END
$$;

COMMENT ON FUNCTION amqp.outbox_settle(integer, bigint[], text[], bigint[], text[], text[], text[]) IS
'Part of the outbox, for whoever holds its lock: deletes what was delivered (or keeps it for '
'amqp.keep_delivered), and sets aside what was refused until its next attempt. A message is named '
'by its id and its message_id. verdicts: refused, which ends after amqp.max_attempts as a dead '
'letter; invalid, which does at once; busy, which never does. Returns the ids of messages whose '
'rows somebody else has locked: nothing was done to these. Ends what amqp.outbox_note() has '
'remembered, unless there are any.';

-- Vacuum cannot free what a transaction that began earlier might still look at. TRUNCATE can. Rows that are alive must be
-- put back so that every snapshot sees them, also one that is older than the TRUNCATE: only COPY ... FREEZE does that.
CREATE FUNCTION amqp.outbox_lock_to_compact() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
AS $$
DECLARE
    obstacle text;
BEGIN
    IF pg_table_size('amqp.outbox') < 64 * 1024 * 1024 OR NOT has_table_privilege('amqp.outbox', 'TRUNCATE') THEN
        RETURN false;
    END IF;
    -- What an old snapshot hides must not be thrown away.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN false;
    END IF;
    -- Nor what a policy hides; and what is put back is to be what it was, unseen by anybody's code.
    obstacle := CASE
        WHEN row_security_active('amqp.outbox') THEN 'Row-level security is active for this role.'
        WHEN EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = 'amqp.outbox'::regclass AND NOT t.tgisinternal)
            THEN 'The table has a trigger.'
        WHEN EXISTS (SELECT FROM pg_rewrite AS r WHERE r.ev_class = 'amqp.outbox'::regclass) THEN 'The table has a rule.'
        WHEN EXISTS (SELECT FROM pg_constraint AS c WHERE c.confrelid = 'amqp.outbox'::regclass AND c.contype = 'f')
            THEN 'A foreign key references the table.'
        WHEN EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = 'amqp.outbox'::regclass)
            THEN 'The table has children.'
        WHEN EXISTS (SELECT FROM pg_publication_tables AS t JOIN pg_publication AS p ON p.pubname = t.pubname
                     WHERE t.schemaname = 'amqp' AND t.tablename = 'outbox' AND p.pubinsert AND NOT p.pubtruncate)
            THEN 'A publication has what is inserted into the table, and not its TRUNCATE.'
        END;
    IF obstacle IS NOT NULL THEN
        RAISE EXCEPTION 'the space of table "amqp.outbox" cannot be given back by TRUNCATE'
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = obstacle,
                  HINT = 'Messages are delivered all the same; the space is left to VACUUM.';
    END IF;
    -- Before the lock, which keeps publishers waiting. They hold theirs until they commit. What is large is not read.
    IF (SELECT count(*) > 1000 OR sum(o.bytes) > 4 * 1024 * 1024
        FROM (SELECT octet_length(t.body)::bigint + COALESCE(pg_column_size(t.headers), 0) AS bytes
              FROM amqp.outbox AS t LIMIT 1001) AS o) THEN
        RETURN false;
    END IF;
    BEGIN
        LOCK TABLE amqp.outbox IN ACCESS EXCLUSIVE MODE;
        -- What came while waiting for the lock is little, but look.
        IF (SELECT count(*) > 10000 OR sum(o.bytes) > 16 * 1024 * 1024
            FROM (SELECT octet_length(t.body)::bigint + COALESCE(pg_column_size(t.headers), 0) AS bytes
                  FROM amqp.outbox AS t LIMIT 10001) AS o) THEN
            -- Let it go.
            RAISE lock_not_available;
        END IF;
    EXCEPTION WHEN lock_not_available THEN
        RETURN false;
    END;
    RETURN true;
END
$$;

COMMENT ON FUNCTION amqp.outbox_lock_to_compact() IS
'Part of the outbox: whether its table has grown to 64 MB and holds nearly nothing, so that '
'TRUNCATE gives the space back; if so, this transaction has it locked against everybody. Waits at '
'most 50 ms for those that have used the outbox. Errors: 55000 if something on the table is in '
'the way of that: row-level security, a trigger, a rule, a foreign key, a child.';

-- Where a row is alive, that is not seen by a snapshot older than the TRUNCATE, it is left to a relay.
CREATE FUNCTION amqp.outbox_compact() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- The size first: of a large table that holds nothing, the rest reads all.
    IF pg_table_size('amqp.outbox') < 64 * 1024 * 1024 OR EXISTS (SELECT FROM amqp.outbox)
       OR NOT amqp.outbox_lock_to_compact() THEN
        RETURN false;
    END IF;
    IF EXISTS (SELECT FROM amqp.outbox) THEN
        RAISE lock_not_available;
    END IF;
    TRUNCATE amqp.outbox;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    -- Together with the lock.
    RETURN false;
END
$$;

COMMENT ON FUNCTION amqp.outbox_compact() IS
'Part of amqp.publish_outbox_batch(): if the outbox has grown to 64 MB and holds nothing, gives '
'the space back, whatever transactions are open. true: it is done. Errors: those of '
'amqp.outbox_lock_to_compact().';

CREATE FUNCTION amqp.outbox_overdue(broker_id integer) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
SET jit = off
RETURN EXISTS (
    SELECT FROM amqp.outbox_due($1, NULL, -1, 1, 1) AS d
    JOIN amqp.outbox AS o ON o.id = d.id
    WHERE greatest(o.created_at, o.next_attempt_at) < clock_timestamp() - interval '1 minute');

COMMENT ON FUNCTION amqp.outbox_overdue(integer) IS
'Part of amqp.outbox_status(): whether the next message of a broker has been due for over a '
'minute.';

CREATE FUNCTION amqp.outbox_status() RETURNS TABLE (
    broker_id integer,
    pending bigint,
    waiting bigint,
    oldest_age interval,
    dead bigint,
    delivered_last_minute bigint,
    relay text,
    last_error text,
    last_error_at timestamptz,
    trouble text
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
           s.messages,
           w.relay,
           t.last_error,
           t.last_error_at,
           CASE WHEN t.last_error IS NOT NULL AND t.ended_at IS NULL THEN t.last_error
                WHEN p.messages > 0 AND NOT EXISTS (SELECT FROM amqp.broker AS k WHERE k.broker_id = b.broker_id)
                    THEN 'the broker has no row in amqp.broker'
                WHEN p.messages > 0 AND w.relay IS NULL AND s.messages = 0 AND amqp.outbox_overdue(b.broker_id)
                    THEN 'messages are due and no relay works them' END
    FROM (
        SELECT k.broker_id FROM amqp.broker AS k
        UNION SELECT p.broker_id FROM pending AS p
        UNION SELECT d.broker_id FROM dead AS d
    ) AS b
    LEFT JOIN pending AS p ON p.broker_id = b.broker_id
    LEFT JOIN dead AS d ON d.broker_id = b.broker_id
    LEFT JOIN amqp.outbox_trouble AS t ON t.broker_id = b.broker_id
    CROSS JOIN LATERAL (
        SELECT COALESCE(sum(g.messages), 0)::bigint AS messages
        FROM amqp.outbox_progress AS g
        WHERE g.broker_id = b.broker_id AND g.second > clock_timestamp() - interval '1 minute'
    ) AS s
    LEFT JOIN LATERAL (
        SELECT a.application_name AS relay
        FROM amqp.outbox_lease AS e
        JOIN pg_locks AS l ON (l.classid::bigint << 32 | l.objid::bigint) = e.lock_key
        JOIN pg_stat_activity AS a ON a.pid = l.pid
        WHERE e.broker_id = b.broker_id
          AND l.locktype = 'advisory' AND l.granted AND l.mode = 'ExclusiveLock' AND l.objsubid = 1
          AND l.database = (SELECT c.oid FROM pg_database AS c WHERE c.datname = current_database())
          -- Anybody may hold the lock; see amqp.outbox_lock().
          AND amqp.outbox_may_work(a.usesysid)
    ) AS w ON true
    ORDER BY b.broker_id;
END;

COMMENT ON FUNCTION amqp.outbox_status() IS
'The outbox, by broker: messages pending, those of them that wait for a time or another attempt, '
'age of the oldest, dead letters, messages delivered in the last minute, the relay that works it '
'(NULL if none does), the last error, and the trouble: what keeps its messages from being '
'delivered now (NULL if nothing).';

-- Each keeps its id, and with it its place, where that is free and will not come again. Both may be otherwise after TRUNCATE
-- ... RESTART IDENTITY. A number is drawn for each: what is below it has been drawn before.
CREATE FUNCTION amqp.retry_dead_letters(broker_id integer DEFAULT NULL, ids bigint[] DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    letter record;
    drawn bigint;
    letters bigint := 0;
BEGIN
    FOR letter IN
        SELECT d.id, d.broker_id, d.exchange, d.routing_key, d.body, d.delivery_mode, d.content_type, d.reply_to, d.correlation_id, d.mandatory, d.headers, d.content_encoding, d.priority, d.expiration, d.message_id, d."timestamp", d.type, d.user_id, d.app_id, d.ordering_key, d.created_at, d.last_error,
               d.row_id
        FROM amqp.outbox_dead AS d
        WHERE (retry_dead_letters.broker_id IS NULL OR d.broker_id = retry_dead_letters.broker_id)
          AND (ids IS NULL OR d.id = ANY (ids))
        ORDER BY d.id, d.died_at
        FOR UPDATE
    LOOP
        BEGIN
            INSERT INTO amqp.outbox (broker_id, exchange, routing_key, body, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, "timestamp", type, user_id, app_id, ordering_key, created_at, last_error)
            VALUES (letter.broker_id, letter.exchange, letter.routing_key, letter.body, letter.delivery_mode, letter.content_type, letter.reply_to, letter.correlation_id, letter.mandatory, letter.headers, letter.content_encoding, letter.priority, letter.expiration, letter.message_id, letter."timestamp", letter.type, letter.user_id, letter.app_id, letter.ordering_key, letter.created_at, letter.last_error)
            RETURNING id INTO drawn;
            DELETE FROM amqp.outbox_dead AS d WHERE d.row_id = letter.row_id;
        EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
            -- It could never be sent; the others are.
            UPDATE amqp.outbox_dead AS d SET last_error = SQLERRM WHERE d.row_id = letter.row_id;
            CONTINUE;
        END;
        IF letter.id < drawn THEN
            BEGIN
                UPDATE amqp.outbox AS o SET id = letter.id WHERE o.id = drawn;
            EXCEPTION WHEN unique_violation THEN
                NULL;
            END;
        END IF;
        letters := letters + 1;
    END LOOP;
    RETURN letters;
END
$$;

COMMENT ON FUNCTION amqp.retry_dead_letters(integer, bigint[]) IS
'Puts dead letters back into amqp.outbox, as new as at first, and returns their number: those of '
'a broker (NULL: of all), or of these only those with the given ids. A letter keeps its id unless '
'a message has the same by now, or may yet get it. One that could never be sent stays, with the '
'reason as its last_error. Needs SELECT, UPDATE and DELETE on amqp.outbox_dead, and SELECT, '
'INSERT and UPDATE on amqp.outbox.';

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
'Deletes dead letters for good and returns their number: those of a broker (NULL: of all), or of '
'these only those with the given ids.';

-- What amqp.publish_outbox() does, with less to check.
CREATE FUNCTION amqp.publish_outbox_change(broker_id integer, exchange text, routing_key text, message text) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    INSERT INTO amqp.outbox (broker_id, exchange, routing_key, body, content_type)
    VALUES ($1, $2, $3, convert_to($4, 'UTF8'), 'application/json')
    RETURNING true;
END;

COMMENT ON FUNCTION amqp.publish_outbox_change(integer, text, text, text) IS
'Part of amqp.publish_change_outbox(): puts the message for one row into amqp.outbox.';

CREATE FUNCTION amqp.publish_outbox_change(
    broker_id integer, exchange text, routing_key text, message text, properties jsonb, ordering_key text
) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    INSERT INTO amqp.outbox (
        broker_id, exchange, routing_key, body, content_type, delivery_mode, headers, type, app_id, priority, expiration,
        mandatory, ordering_key)
    VALUES (
        $1, $2, $3, convert_to($4, 'UTF8'), 'application/json', ($5 ->> 'delivery_mode')::integer, $5 -> 'headers',
        $5 ->> 'type', $5 ->> 'app_id', ($5 ->> 'priority')::integer, $5 ->> 'expiration', ($5 ->> 'mandatory')::boolean, $6)
    RETURNING true;
END;

COMMENT ON FUNCTION amqp.publish_outbox_change(integer, text, text, text, jsonb, text) IS
'Part of amqp.publish_change_outbox(): puts the message for one row into amqp.outbox, with '
'properties as amqp.change_properties() gives them.';

CREATE VIEW amqp.dead_letters AS
SELECT d.id, d.broker_id, d.exchange, d.routing_key, d.attempts, d.last_error, d.died_at, d.created_at,
       d.message_id, d.ordering_key, d.body, d.delivery_mode, d.content_type, d.reply_to, d.correlation_id,
       d.mandatory, d.headers, d.content_encoding, d.priority, d.expiration, d."timestamp", d.type, d.user_id, d.app_id
FROM amqp.outbox_dead AS d;

COMMENT ON VIEW amqp.dead_letters IS
'Messages that were set aside: the broker refused them amqp.max_attempts times, or they cannot be '
'encoded; last_error says why. amqp.retry_dead_letters() puts them back, '
'amqp.discard_dead_letters() deletes them.';

-- USAGE on schema amqp, which nobody but its owner has at first, is the right to publish: to add messages, and to see
-- whether any wait. Delivering them, and the dead letters, take a GRANT of their own, whatever default
-- privileges say. The sequence of an identity needs none.
REVOKE ALL ON TABLE amqp.outbox, amqp.outbox_dead, amqp.outbox_delivered, amqp.outbox_progress, amqp.outbox_trouble,
    amqp.outbox_lease, amqp.dead_letters FROM PUBLIC;
REVOKE ALL ON SEQUENCE amqp.outbox_id_seq FROM PUBLIC;
GRANT INSERT (broker_id, exchange, routing_key, body, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, "timestamp", type, user_id, app_id, ordering_key, next_attempt_at),
      SELECT (id, broker_id, next_attempt_at)
ON amqp.outbox TO PUBLIC;

-- What plainly is right is not looked at closer: PL/pgSQL would have to be loaded for it, by each new session. Headers of
-- 255 bytes as text have no longer key, nor too many levels. In as few functions, operators and columns as will do, because
-- PostgreSQL reads this from its text in each statement, which for a message by amqp.publish_outbox() takes longer than to
-- evaluate it.
ALTER TABLE amqp.outbox ADD CONSTRAINT outbox_check CHECK (
    CASE WHEN broker_id IS NULL OR delivery_mode <> ALL ('{1,2}') OR priority < 0 OR priority > 255
              OR expiration !~ '^[0-9]{1,9}$' OR reply_to = 'amq.rabbitmq.reply-to'
              OR "timestamp" < 'epoch' OR "timestamp" = 'infinity' OR NOT isfinite(next_attempt_at)
              OR octet_length(convert_to(concat(exchange, routing_key, content_type, reply_to, correlation_id,
                                                content_encoding, message_id, type, user_id, app_id, ordering_key), 'UTF8')) > 255
              OR octet_length(headers::text) > 255 OR headers::text ~ '^[^{]|[0-9]{19}|"B?CC":'
         THEN amqp.outbox_check(outbox) ELSE true END);

COMMENT ON CONSTRAINT outbox_check ON amqp.outbox IS
'What could never be sent is refused, whoever inserts it.';

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
'Fills in a routing key template of amqp.publish_change(): {op}, {schema}, {table}, {new.column}, '
'{old.column}. For a row that the operation does not have, as the new one of a DELETE, the other '
'row is taken; NULL is empty.';

CREATE FUNCTION amqp.change_properties(properties text, for_outbox boolean) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
DECLARE
    found pg_catalog.jsonb := properties;
    property pg_catalog.text;
    value pg_catalog.jsonb;
    kind pg_catalog.text;
BEGIN
    IF pg_catalog.jsonb_typeof(found) OPERATOR(pg_catalog.<>) 'object' THEN
        RAISE EXCEPTION 'properties must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an object, such as ''{"delivery_mode": 2}''.';
    END IF;
    FOR property, value IN SELECT e.key, e.value FROM pg_catalog.jsonb_each(found) AS e LOOP
        kind := CASE
            WHEN property OPERATOR(pg_catalog.=) ANY ('{delivery_mode,priority}') THEN 'a whole number'
            WHEN property OPERATOR(pg_catalog.=) 'mandatory' THEN 'boolean'
            WHEN property OPERATOR(pg_catalog.=) 'headers' THEN 'object'
            WHEN property OPERATOR(pg_catalog.=) ANY ('{type,app_id,expiration}') THEN 'string'
            WHEN property OPERATOR(pg_catalog.=) 'ordering_key' AND for_outbox THEN 'string'
            END;
        IF kind IS NULL THEN
            RAISE EXCEPTION 'unknown property "%"', property
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = CASE WHEN for_outbox
                          THEN 'Properties are delivery_mode, headers, type, app_id, priority, expiration, mandatory and ordering_key.'
                          ELSE 'Properties are delivery_mode, headers, type, app_id, priority, expiration and mandatory; ordering_key is for amqp.publish_change_outbox().' END;
        ELSIF NOT (CASE WHEN kind OPERATOR(pg_catalog.=) 'a whole number'
                        THEN value::pg_catalog.text OPERATOR(pg_catalog.~) '^(-?[0-9]{1,9}|null)$'
                        ELSE pg_catalog.jsonb_typeof(value) OPERATOR(pg_catalog.=) ANY (ARRAY[kind, 'null']) END) THEN
            RAISE EXCEPTION 'invalid value for %: %', property, pg_catalog.left(value::pg_catalog.text, 40)
                USING ERRCODE = 'invalid_parameter_value', HINT = pg_catalog.format('The type must be: %s.', kind);
        END IF;
    END LOOP;
    -- A property that is null is not given.
    RETURN pg_catalog.jsonb_strip_nulls(found OPERATOR(pg_catalog.-) 'headers') OPERATOR(pg_catalog.||)
        CASE WHEN pg_catalog.jsonb_typeof(found OPERATOR(pg_catalog.->) 'headers') OPERATOR(pg_catalog.=) 'object'
             THEN pg_catalog.jsonb_build_object('headers', found OPERATOR(pg_catalog.->) 'headers') ELSE '{}' END;
END
$$;

COMMENT ON FUNCTION amqp.change_properties(text, boolean) IS
'Reads the properties of amqp.publish_change() or, with for_outbox, of '
'amqp.publish_change_outbox(). Errors: 22023 unknown property, or one of a wrong type; 22P02 no '
'JSON.';

-- The text alone: transition tables are visible in the trigger function only, which executes it, and so the casts that it
-- runs find what they always find. With a search_path of anybody's, names are qualified in it.
CREATE FUNCTION amqp_python.changed_rows_query(
    publish text,
    operation text,
    new_table name,
    old_table name,
    has_template boolean,
    has_properties boolean,
    has_ordering_key boolean
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- Counted: the rows of a result would be kept in memory until its end.
RETURN format(
    'SELECT pg_catalog.count(%s($1, $2, %s, pg_catalog.concat(
         $7, COALESCE(c.new_row, ''null''), '', "old" : '', COALESCE(c.old_row, ''null''), '', "changed" : '', %s, $8)%s))
     FROM (%s) AS c',
    publish,
    CASE WHEN has_template
         THEN 'amqp_python.change_routing_key($3, $4, $5, $6, c.new_row, c.old_row)' ELSE '$3' END,
    CASE WHEN operation = 'update'
         THEN 'pg_catalog.to_jsonb(ARRAY(
                   SELECT k.key FROM (SELECT pg_catalog.jsonb_object_keys(c.new_row) AS key) AS k
                   WHERE (c.new_row OPERATOR(pg_catalog.->) k.key)::pg_catalog.text OPERATOR(pg_catalog.<>)
                         (c.old_row OPERATOR(pg_catalog.->) k.key)::pg_catalog.text))'
         ELSE '''null''' END,
    CASE WHEN has_properties
         THEN CASE WHEN has_ordering_key
                   THEN ', $9, amqp_python.change_routing_key($10, $4, $5, $6, c.new_row, c.old_row)'
                   ELSE ', $9, NULL' END END,
    CASE operation
    WHEN 'insert' THEN format(
        'SELECT pg_catalog.to_jsonb(n.*) AS new_row, NULL::pg_catalog.jsonb AS old_row FROM %I AS n OFFSET 0', new_table)
    WHEN 'delete' THEN format(
        'SELECT NULL::pg_catalog.jsonb AS new_row, pg_catalog.to_jsonb(o.*) AS old_row FROM %I AS o OFFSET 0', old_table)
    ELSE format(
        'SELECT n.r AS new_row, o.r AS old_row
         FROM (SELECT pg_catalog.to_jsonb(t.*) AS r, pg_catalog.row_number() OVER () AS position FROM %I AS t) AS n
         JOIN (SELECT pg_catalog.to_jsonb(t.*) AS r, pg_catalog.row_number() OVER () AS position FROM %I AS t) AS o
           ON n.position OPERATOR(pg_catalog.=) o.position
         ORDER BY n.position USING OPERATOR(pg_catalog.<)', new_table, old_table)
    END);

COMMENT ON FUNCTION amqp_python.changed_rows_query(text, text, name, name, boolean, boolean, boolean) IS
'Part of amqp.publish_change() FOR EACH STATEMENT: the query that publishes a message for each row of '
'its transition tables. publish: the function to call; operation: insert, update or delete; the '
'others: whether the trigger has a template for routing keys, properties, and an ordering key in '
'these. Its parameters: broker_id, exchange, routing key or template, operation, schema, table, what '
'a message has before its rows and behind them, properties, ordering key template.';

-- One text for two functions. amqp.publish_change() hands messages to amqp_python.publish_change().
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
    operation pg_catalog.text := pg_catalog.lower(TG_OP COLLATE pg_catalog."C");
    new_row pg_catalog.jsonb;
    old_row pg_catalog.jsonb;
    changed pg_catalog.jsonb;
    is_published boolean;
    new_table pg_catalog.name;
    old_table pg_catalog.name;
    as_many boolean;
    properties pg_catalog.jsonb;
    ordering_key pg_catalog.text;
    default_key pg_catalog.text;
BEGIN
    IF TG_NARGS OPERATOR(pg_catalog.<) 2 OR TG_NARGS OPERATOR(pg_catalog.>) 4 OR TG_WHEN OPERATOR(pg_catalog.<>) 'AFTER' THEN
        IF TG_WHEN OPERATOR(pg_catalog.=) 'AFTER' OR TG_NARGS OPERATOR(pg_catalog.<) 2 OR TG_NARGS OPERATOR(pg_catalog.>) 4 THEN
            RAISE EXCEPTION 'trigger "%" has the wrong arguments for amqp.publish_change()', TG_NAME
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'EXECUTE FUNCTION amqp.publish_change(broker_id, exchange [, routing key template [, properties]])';
        END IF;
        RAISE EXCEPTION 'trigger "%" must be an AFTER trigger to publish changes', TG_NAME
            USING ERRCODE = 'invalid_object_definition',
                  DETAIL = 'Before the operation, the row may still change or not come to be.';
    END IF;

    IF TG_NARGS OPERATOR(pg_catalog.=) 4 THEN
        properties := amqp_python.change_properties(TG_ARGV[3], 'publish' OPERATOR(pg_catalog.=) 'publish_outbox');
        ordering_key := properties OPERATOR(pg_catalog.->>) 'ordering_key';
        default_key := pg_catalog.concat(TG_TABLE_SCHEMA, '.', TG_TABLE_NAME, '.', operation);
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
        IF TG_NARGS OPERATOR(pg_catalog.<) 4 THEN
            is_published := amqp_python.publish_change(
                TG_ARGV[0]::integer,
                TG_ARGV[1],
                CASE WHEN pg_catalog.strpos(TG_ARGV[2], '{') OPERATOR(pg_catalog.>) 0
                     THEN amqp_python.change_routing_key(TG_ARGV[2], operation, TG_TABLE_SCHEMA, TG_TABLE_NAME, new_row, old_row)
                     ELSE COALESCE(TG_ARGV[2], pg_catalog.concat(TG_TABLE_SCHEMA, '.', TG_TABLE_NAME, '.', operation)) END,
                pg_catalog.concat(
                    '{"operation" : "', operation,
                    '", "schema" : ', pg_catalog.to_json(TG_TABLE_SCHEMA), ', "table" : ', pg_catalog.to_json(TG_TABLE_NAME),
                    ', "new" : ', COALESCE(new_row, 'null'), ', "old" : ', COALESCE(old_row, 'null'), ', "changed" : ', COALESCE(changed, 'null'),
                    ', "transaction_id" : ', pg_catalog.pg_current_xact_id(), ', "time" : ', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}'));
        ELSE
            is_published := amqp_python.publish_change(
                TG_ARGV[0]::integer,
                TG_ARGV[1],
                CASE WHEN TG_ARGV[2] OPERATOR(pg_catalog.<>) ''
                     THEN amqp_python.change_routing_key(TG_ARGV[2], operation, TG_TABLE_SCHEMA, TG_TABLE_NAME, new_row, old_row)
                     ELSE default_key END,
                pg_catalog.concat(
                    '{"operation" : "', operation,
                    '", "schema" : ', pg_catalog.to_json(TG_TABLE_SCHEMA), ', "table" : ', pg_catalog.to_json(TG_TABLE_NAME),
                    ', "new" : ', COALESCE(new_row, 'null'), ', "old" : ', COALESCE(old_row, 'null'), ', "changed" : ', COALESCE(changed, 'null'),
                    ', "transaction_id" : ', pg_catalog.pg_current_xact_id(), ', "time" : ', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}'),
                properties,
                CASE WHEN ordering_key IS NOT NULL
                     THEN amqp_python.change_routing_key(ordering_key, operation, TG_TABLE_SCHEMA, TG_TABLE_NAME, new_row, old_row) END);
        END IF;
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
    EXECUTE amqp_python.changed_rows_query(
        'amqp_python.publish_change', operation, new_table, old_table,
        pg_catalog.strpos(TG_ARGV[2], '{') OPERATOR(pg_catalog.>) 0,
        TG_NARGS OPERATOR(pg_catalog.=) 4, ordering_key IS NOT NULL)
    USING TG_ARGV[0]::integer, TG_ARGV[1],
        -- Without a template, or an empty one before properties.
        COALESCE(CASE WHEN TG_NARGS OPERATOR(pg_catalog.=) 4 AND TG_ARGV[2] OPERATOR(pg_catalog.=) '' THEN NULL ELSE TG_ARGV[2] END,
                 pg_catalog.concat(TG_TABLE_SCHEMA, '.', TG_TABLE_NAME, '.', operation)),
        operation, TG_TABLE_SCHEMA, TG_TABLE_NAME,
        -- The same for all messages of the statement.
        pg_catalog.concat(
            '{"operation" : "', operation, '", "schema" : ', pg_catalog.to_json(TG_TABLE_SCHEMA),
            ', "table" : ', pg_catalog.to_json(TG_TABLE_NAME), ', "new" : '),
        pg_catalog.concat(
            ', "transaction_id" : ', pg_catalog.pg_current_xact_id(), ', "time" : ', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}'),
        properties, ordering_key;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION amqp.publish_change() IS
'Trigger function that publishes every change of a table through amqp.publish(): CREATE TRIGGER '
'... AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION '
'amqp.publish_change(broker_id, exchange [, routing key template [, properties]]). FOR EACH STATEMENT '
'it needs transition tables (REFERENCING) and publishes one message a row too; for TRUNCATE one '
'message without rows. The message is JSON: operation, schema, table, new, old, changed (columns, '
'for UPDATE), transaction_id, time (when the trigger ran). The routing key is '
'schema.table.operation, or the template with {op}, {schema}, {table}, {new.column} and '
'{old.column} filled in. properties is a JSON object, for all messages the same: delivery_mode, '
'headers, type, app_id, priority, expiration, mandatory, and for the outbox ordering_key, a '
'template as well; before it, an empty template is the default routing key. Runs with the rights '
'of whoever changes the table, who needs USAGE on schema amqp. Errors: those of amqp.publish(), '
'42501 without USAGE on schema amqp, 22023 and 42P17 for a trigger that is defined wrongly.';


-- One text for two functions. amqp.publish_change_outbox() hands messages to amqp_python.publish_outbox_change().
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
    operation pg_catalog.text := pg_catalog.lower(TG_OP COLLATE pg_catalog."C");
    new_row pg_catalog.jsonb;
    old_row pg_catalog.jsonb;
    changed pg_catalog.jsonb;
    is_published boolean;
    new_table pg_catalog.name;
    old_table pg_catalog.name;
    as_many boolean;
    properties pg_catalog.jsonb;
    ordering_key pg_catalog.text;
    default_key pg_catalog.text;
BEGIN
    IF TG_NARGS OPERATOR(pg_catalog.<) 2 OR TG_NARGS OPERATOR(pg_catalog.>) 4 OR TG_WHEN OPERATOR(pg_catalog.<>) 'AFTER' THEN
        IF TG_WHEN OPERATOR(pg_catalog.=) 'AFTER' OR TG_NARGS OPERATOR(pg_catalog.<) 2 OR TG_NARGS OPERATOR(pg_catalog.>) 4 THEN
            RAISE EXCEPTION 'trigger "%" has the wrong arguments for amqp.publish_change_outbox()', TG_NAME
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'EXECUTE FUNCTION amqp.publish_change_outbox(broker_id, exchange [, routing key template [, properties]])';
        END IF;
        RAISE EXCEPTION 'trigger "%" must be an AFTER trigger to publish changes', TG_NAME
            USING ERRCODE = 'invalid_object_definition',
                  DETAIL = 'Before the operation, the row may still change or not come to be.';
    END IF;

    IF TG_NARGS OPERATOR(pg_catalog.=) 4 THEN
        properties := amqp_python.change_properties(TG_ARGV[3], 'publish_outbox' OPERATOR(pg_catalog.=) 'publish_outbox');
        ordering_key := properties OPERATOR(pg_catalog.->>) 'ordering_key';
        default_key := pg_catalog.concat(TG_TABLE_SCHEMA, '.', TG_TABLE_NAME, '.', operation);
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
        IF TG_NARGS OPERATOR(pg_catalog.<) 4 THEN
            is_published := amqp_python.publish_outbox_change(
                TG_ARGV[0]::integer,
                TG_ARGV[1],
                CASE WHEN pg_catalog.strpos(TG_ARGV[2], '{') OPERATOR(pg_catalog.>) 0
                     THEN amqp_python.change_routing_key(TG_ARGV[2], operation, TG_TABLE_SCHEMA, TG_TABLE_NAME, new_row, old_row)
                     ELSE COALESCE(TG_ARGV[2], pg_catalog.concat(TG_TABLE_SCHEMA, '.', TG_TABLE_NAME, '.', operation)) END,
                pg_catalog.concat(
                    '{"operation" : "', operation,
                    '", "schema" : ', pg_catalog.to_json(TG_TABLE_SCHEMA), ', "table" : ', pg_catalog.to_json(TG_TABLE_NAME),
                    ', "new" : ', COALESCE(new_row, 'null'), ', "old" : ', COALESCE(old_row, 'null'), ', "changed" : ', COALESCE(changed, 'null'),
                    ', "transaction_id" : ', pg_catalog.pg_current_xact_id(), ', "time" : ', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}'));
        ELSE
            is_published := amqp_python.publish_outbox_change(
                TG_ARGV[0]::integer,
                TG_ARGV[1],
                CASE WHEN TG_ARGV[2] OPERATOR(pg_catalog.<>) ''
                     THEN amqp_python.change_routing_key(TG_ARGV[2], operation, TG_TABLE_SCHEMA, TG_TABLE_NAME, new_row, old_row)
                     ELSE default_key END,
                pg_catalog.concat(
                    '{"operation" : "', operation,
                    '", "schema" : ', pg_catalog.to_json(TG_TABLE_SCHEMA), ', "table" : ', pg_catalog.to_json(TG_TABLE_NAME),
                    ', "new" : ', COALESCE(new_row, 'null'), ', "old" : ', COALESCE(old_row, 'null'), ', "changed" : ', COALESCE(changed, 'null'),
                    ', "transaction_id" : ', pg_catalog.pg_current_xact_id(), ', "time" : ', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}'),
                properties,
                CASE WHEN ordering_key IS NOT NULL
                     THEN amqp_python.change_routing_key(ordering_key, operation, TG_TABLE_SCHEMA, TG_TABLE_NAME, new_row, old_row) END);
        END IF;
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
    EXECUTE amqp_python.changed_rows_query(
        'amqp_python.publish_outbox_change', operation, new_table, old_table,
        pg_catalog.strpos(TG_ARGV[2], '{') OPERATOR(pg_catalog.>) 0,
        TG_NARGS OPERATOR(pg_catalog.=) 4, ordering_key IS NOT NULL)
    USING TG_ARGV[0]::integer, TG_ARGV[1],
        -- Without a template, or an empty one before properties.
        COALESCE(CASE WHEN TG_NARGS OPERATOR(pg_catalog.=) 4 AND TG_ARGV[2] OPERATOR(pg_catalog.=) '' THEN NULL ELSE TG_ARGV[2] END,
                 pg_catalog.concat(TG_TABLE_SCHEMA, '.', TG_TABLE_NAME, '.', operation)),
        operation, TG_TABLE_SCHEMA, TG_TABLE_NAME,
        -- The same for all messages of the statement.
        pg_catalog.concat(
            '{"operation" : "', operation, '", "schema" : ', pg_catalog.to_json(TG_TABLE_SCHEMA),
            ', "table" : ', pg_catalog.to_json(TG_TABLE_NAME), ', "new" : '),
        pg_catalog.concat(
            ', "transaction_id" : ', pg_catalog.pg_current_xact_id(), ', "time" : ', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}'),
        properties, ordering_key;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION amqp.publish_change_outbox() IS
'Trigger function that publishes every change of a table through amqp.publish_outbox(): CREATE TRIGGER '
'... AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION '
'amqp.publish_change_outbox(broker_id, exchange [, routing key template [, properties]]). FOR EACH STATEMENT '
'it needs transition tables (REFERENCING) and publishes one message a row too; for TRUNCATE one '
'message without rows. The message is JSON: operation, schema, table, new, old, changed (columns, '
'for UPDATE), transaction_id, time (when the trigger ran). The routing key is '
'schema.table.operation, or the template with {op}, {schema}, {table}, {new.column} and '
'{old.column} filled in. properties is a JSON object, for all messages the same: delivery_mode, '
'headers, type, app_id, priority, expiration, mandatory, and for the outbox ordering_key, a '
'template as well; before it, an empty template is the default routing key. Runs with the rights '
'of whoever changes the table, who needs USAGE on schema amqp. Errors: those of amqp.publish_outbox(), '
'42501 without USAGE on schema amqp, 22023 and 42P17 for a trigger that is defined wrongly.';


CREATE FUNCTION amqp.add_broker(
    uri text
) RETURNS integer
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).add_broker(uri)$$;

COMMENT ON FUNCTION amqp.add_broker(text) IS
'Adds a broker to amqp.broker from an AMQP URI, amqp://user:password@host:port/vhost or amqps:// '
'for TLS, with percent-encoding and, for a cluster, several hosts with commas; returns its '
'broker_id. Ports default to 5672 and 5671. The rows are inserted with the rights of the owner of '
'amqp.broker. Errors: 22023 invalid URI.';

-- The parameters of amqp.publish(), in the same order.
CREATE FUNCTION amqp.autonomous_publish(
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
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).publish(broker_id, exchange, routing_key, message, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, timestamp, type, user_id, app_id, True)$$;

COMMENT ON FUNCTION amqp.autonomous_publish(integer, text, text, text, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Publishes a message now, whatever becomes of the transaction, and returns true when the broker '
'has confirmed it. If it has not within amqp.confirm_timeout, refuses it or cannot route it '
'(mandatory), that is an error, also with amqp.on_failure = outbox, or with warn a WARNING and '
'false. Parameters: exchange (NULL is amq.direct, '''' the default exchange) and routing_key '
'(NULL is empty), at most 255 bytes each; message (NULL is empty), as text in UTF-8, as jsonb '
'(content_type becomes application/json unless given) or as bytea; mandatory, to be warned if no '
'queue takes it; and the properties of AMQP 0-9-1, class basic, none of which is sent unless '
'given: delivery_mode 1 (transient) or 2 (persistent), priority 0 to 255, expiration in '
'milliseconds, headers as a JSON object, timestamp in whole seconds, short texts of at most 255 '
'bytes. Errors: those of amqp.publish(), 08006 not confirmed, 55000 refused or unroutable.';


CREATE FUNCTION amqp.autonomous_publish(
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
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).publish(broker_id, exchange, routing_key, message, delivery_mode, "application/json" if content_type is None else content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, timestamp, type, user_id, app_id, True)$$;

COMMENT ON FUNCTION amqp.autonomous_publish(integer, text, text, jsonb, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Publishes a message now, whatever becomes of the transaction, and returns true when the broker '
'has confirmed it. If it has not within amqp.confirm_timeout, refuses it or cannot route it '
'(mandatory), that is an error, also with amqp.on_failure = outbox, or with warn a WARNING and '
'false. Parameters: exchange (NULL is amq.direct, '''' the default exchange) and routing_key '
'(NULL is empty), at most 255 bytes each; message (NULL is empty), as text in UTF-8, as jsonb '
'(content_type becomes application/json unless given) or as bytea; mandatory, to be warned if no '
'queue takes it; and the properties of AMQP 0-9-1, class basic, none of which is sent unless '
'given: delivery_mode 1 (transient) or 2 (persistent), priority 0 to 255, expiration in '
'milliseconds, headers as a JSON object, timestamp in whole seconds, short texts of at most 255 '
'bytes. Errors: those of amqp.publish(), 08006 not confirmed, 55000 refused or unroutable.';


CREATE FUNCTION amqp.autonomous_publish(
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
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).publish(broker_id, exchange, routing_key, message, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, timestamp, type, user_id, app_id, True)$$;

COMMENT ON FUNCTION amqp.autonomous_publish(integer, text, text, bytea, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Publishes a message now, whatever becomes of the transaction, and returns true when the broker '
'has confirmed it. If it has not within amqp.confirm_timeout, refuses it or cannot route it '
'(mandatory), that is an error, also with amqp.on_failure = outbox, or with warn a WARNING and '
'false. Parameters: exchange (NULL is amq.direct, '''' the default exchange) and routing_key '
'(NULL is empty), at most 255 bytes each; message (NULL is empty), as text in UTF-8, as jsonb '
'(content_type becomes application/json unless given) or as bytea; mandatory, to be warned if no '
'queue takes it; and the properties of AMQP 0-9-1, class basic, none of which is sent unless '
'given: delivery_mode 1 (transient) or 2 (persistent), priority 0 to 255, expiration in '
'milliseconds, headers as a JSON object, timestamp in whole seconds, short texts of at most 255 '
'bytes. Errors: those of amqp.publish(), 08006 not confirmed, 55000 refused or unroutable.';


CREATE FUNCTION amqp.broker_changed() RETURNS trigger
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$(GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).announce_change(TD["relid"])$$;

COMMENT ON FUNCTION amqp.broker_changed() IS
'Trigger function of amqp.broker: makes all sessions read its rows again from their next '
'transaction on.';

-- As amqp_python.change_routing_key().
CREATE FUNCTION amqp_python.change_properties(properties text, for_outbox boolean) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN amqp.change_properties($1, $2);

COMMENT ON FUNCTION amqp_python.change_properties(text, boolean) IS
'amqp.change_properties(), for amqp.publish_change() and amqp.publish_change_outbox().';

-- Finds the function itself by what was parsed when this was created, not by its name.
CREATE FUNCTION amqp_python.change_routing_key(
    template text,
    operation text,
    schema_name name,
    table_name name,
    new_row jsonb,
    old_row jsonb
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN amqp.change_routing_key($1, $2, $3, $4, $5, $6);

COMMENT ON FUNCTION amqp_python.change_routing_key(text, text, name, name, jsonb, jsonb) IS
'amqp.change_routing_key(), for amqp.publish_change() and amqp.publish_change_outbox().';

CREATE FUNCTION amqp_python.deny_publishing() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
BEGIN
    RAISE EXCEPTION 'permission denied for schema amqp' USING ERRCODE = 'insufficient_privilege';
END
$$;

COMMENT ON FUNCTION amqp_python.deny_publishing() IS
'Raises the error for who has no USAGE on schema amqp.';

CREATE FUNCTION amqp.disconnect(
    broker_id integer
) RETURNS void
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).disconnect(broker_id)$$;

COMMENT ON FUNCTION amqp.disconnect(integer) IS
'Closes this session''s connection to a broker, if there is one. Messages pending in the '
'transaction still go out at commit, and those that are kept because they were not confirmed are '
'written again, also if their confirms were only awaited. Hosts that just failed are tried again '
'at the next call.';

CREATE FUNCTION amqp.exchange_bind(
    broker_id integer,
    destination text,
    source text,
    routing_key text DEFAULT '',
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).exchange_bind(broker_id, destination, source, routing_key, arguments)$$;

COMMENT ON FUNCTION amqp.exchange_bind(integer, text, text, text, jsonb) IS
'Routes what is published to exchange source with a matching routing key to exchange destination '
'too. Takes effect at once, not at commit. Returns true. RabbitMQ extension to AMQP 0-9-1: '
'exchange.bind. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501 '
'access refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';

CREATE FUNCTION amqp.exchange_declare(
    broker_id integer,
    exchange text,
    exchange_type text,
    passive boolean,
    durable boolean,
    auto_delete boolean DEFAULT false,
    internal boolean DEFAULT false,
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).exchange_declare(broker_id, exchange, exchange_type, passive, durable, auto_delete, internal, arguments)$$;

COMMENT ON FUNCTION amqp.exchange_declare(integer, text, text, boolean, boolean, boolean, boolean, jsonb) IS
'Creates an exchange of type direct, fanout, topic, headers or one of a plugin; with passive, '
'only makes sure that it exists. durable: it survives a restart of the broker; auto_delete: it '
'goes with its last binding; internal: only other exchanges publish to it. Takes effect at once, '
'not at commit. Returns true. AMQP 0-9-1: exchange.declare. Errors: those of a connection as for '
'amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition failed, 55006 in use, '
'22004 and 22023 bad parameter.';

CREATE FUNCTION amqp.exchange_delete(
    broker_id integer,
    exchange text,
    if_unused boolean DEFAULT false
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).exchange_delete(broker_id, exchange, if_unused)$$;

COMMENT ON FUNCTION amqp.exchange_delete(integer, text, boolean) IS
'Deletes an exchange; with if_unused only if nothing is bound to it. Takes effect at once, not at '
'commit. Returns true, also if there is none. AMQP 0-9-1: exchange.delete. Errors: those of a '
'connection as for amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition '
'failed, 55006 in use, 22004 and 22023 bad parameter.';

CREATE FUNCTION amqp.exchange_unbind(
    broker_id integer,
    destination text,
    source text,
    routing_key text DEFAULT '',
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).exchange_unbind(broker_id, destination, source, routing_key, arguments)$$;

COMMENT ON FUNCTION amqp.exchange_unbind(integer, text, text, text, jsonb) IS
'Removes the binding that amqp.exchange_bind() made with the same parameters. Takes effect at '
'once, not at commit. Returns true, also if there is none. RabbitMQ extension to AMQP 0-9-1: '
'exchange.unbind. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501 '
'access refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';

-- PL/Python looks for modules in the system's places only, and the extension's own are not
-- there. Where they are must be asked of the running server: a path written into a function
-- would be the old one after pg_upgrade. SECURITY DEFINER, because pg_config() is for superusers.
CREATE FUNCTION amqp_python.load_python() RETURNS void
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
__import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000")
import sys
folder = plpy.execute("SELECT setting FROM pg_catalog.pg_config() WHERE name = 'PKGLIBDIR'")[0]["setting"] + "/pg_amqp_py"
sys.path.insert(0, folder)
try:
    from pg_amqp_py.backend import functions
except ModuleNotFoundError as error:
    plpy.error(
        f"could not load the Python part of pg_amqp_py: {error}",
        detail=f'It is looked for in "{folder}".',
        hint="Run make install of pg_amqp_py for this PostgreSQL server.",
        sqlstate="58P01",
    )
finally:
    sys.path.remove(folder)
GD["pg_amqp_py"] = functions
$$;

COMMENT ON FUNCTION amqp_python.load_python() IS
'Loads the Python part of pg_amqp_py into this session. The other functions call it when they '
'need it.';

CREATE FUNCTION amqp.pending() RETURNS TABLE (
    broker_id integer,
    exchange text,
    routing_key text,
    message text,
    body bytea,
    delivery_mode integer,
    content_type text,
    reply_to text,
    correlation_id text,
    mandatory boolean,
    headers jsonb,
    content_encoding text,
    priority integer,
    expiration text,
    message_id text,
    "timestamp" timestamptz,
    type text,
    user_id text,
    app_id text,
    captured boolean
)
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).pending()$$;

COMMENT ON FUNCTION amqp.pending() IS
'The messages that wait for the commit of this transaction, in the order of the calls: those that '
'the caller has published, or a role whose privileges it has. message is NULL where body is not '
'valid text. captured: published under amqp.capture, or amqp.capture is on now: not to be sent.';

CREATE FUNCTION amqp.ping(
    broker_id integer,
    OUT host text,
    OUT port integer,
    OUT server_product text,
    OUT server_version text,
    OUT round_trip interval
) RETURNS record
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).ping(broker_id)$$;

COMMENT ON FUNCTION amqp.ping(integer) IS
'Asks a broker for an answer, connecting if needed, also to hosts that just failed. Writes no '
'message, not even one that is kept. Returns who answered and how long that took; raises the '
'reason if nobody did, as amqp.publish() would.';

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
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).publish(broker_id, exchange, routing_key, message, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, timestamp, type, user_id, app_id)$$;

COMMENT ON FUNCTION amqp.publish(integer, text, text, text, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Publishes a message when the transaction commits, once, after its data is visible; never if the '
'transaction or the savepoint around the call is rolled back. Returns true; a failure that can be '
'known now is an error, or with amqp.on_failure = warn a WARNING and false. With amqp.on_failure '
'= outbox, what the broker cannot take goes to amqp.outbox instead, in the same transaction, with '
'one WARNING for it and each broker; so does what is published while messages to the broker wait '
'there, without one. What fails after the commit is a WARNING, and tried again at the next '
'transactions of the session. Parameters: exchange (NULL is amq.direct, '''' the default '
'exchange) and routing_key (NULL is empty), at most 255 bytes each; message (NULL is empty), as '
'text in UTF-8, as jsonb (content_type becomes application/json unless given) or as bytea; '
'mandatory, to be warned if no queue takes it; and the properties of AMQP 0-9-1, class basic, '
'none of which is sent unless given: delivery_mode 1 (transient) or 2 (persistent), priority 0 to '
'255, expiration in milliseconds, headers as a JSON object, timestamp in whole seconds, short '
'texts of at most 255 bytes. Errors: 42704 no such broker or exchange; 08001, 08004, 08P01, 28P01 '
'no connection; 53000 broker blocked, or too many messages to this exchange and routing key not '
'confirmed; 25000 in a parallel query; 42501 without USAGE on schema amqp; 22001, 22003, 22023, '
'54000 bad parameter.';


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
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).publish(broker_id, exchange, routing_key, message, delivery_mode, "application/json" if content_type is None else content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, timestamp, type, user_id, app_id)$$;

COMMENT ON FUNCTION amqp.publish(integer, text, text, jsonb, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Publishes a message when the transaction commits, once, after its data is visible; never if the '
'transaction or the savepoint around the call is rolled back. Returns true; a failure that can be '
'known now is an error, or with amqp.on_failure = warn a WARNING and false. With amqp.on_failure '
'= outbox, what the broker cannot take goes to amqp.outbox instead, in the same transaction, with '
'one WARNING for it and each broker; so does what is published while messages to the broker wait '
'there, without one. What fails after the commit is a WARNING, and tried again at the next '
'transactions of the session. Parameters: exchange (NULL is amq.direct, '''' the default '
'exchange) and routing_key (NULL is empty), at most 255 bytes each; message (NULL is empty), as '
'text in UTF-8, as jsonb (content_type becomes application/json unless given) or as bytea; '
'mandatory, to be warned if no queue takes it; and the properties of AMQP 0-9-1, class basic, '
'none of which is sent unless given: delivery_mode 1 (transient) or 2 (persistent), priority 0 to '
'255, expiration in milliseconds, headers as a JSON object, timestamp in whole seconds, short '
'texts of at most 255 bytes. Errors: 42704 no such broker or exchange; 08001, 08004, 08P01, 28P01 '
'no connection; 53000 broker blocked, or too many messages to this exchange and routing key not '
'confirmed; 25000 in a parallel query; 42501 without USAGE on schema amqp; 22001, 22003, 22023, '
'54000 bad parameter.';


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
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).publish(broker_id, exchange, routing_key, message, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, timestamp, type, user_id, app_id)$$;

COMMENT ON FUNCTION amqp.publish(integer, text, text, bytea, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Publishes a message when the transaction commits, once, after its data is visible; never if the '
'transaction or the savepoint around the call is rolled back. Returns true; a failure that can be '
'known now is an error, or with amqp.on_failure = warn a WARNING and false. With amqp.on_failure '
'= outbox, what the broker cannot take goes to amqp.outbox instead, in the same transaction, with '
'one WARNING for it and each broker; so does what is published while messages to the broker wait '
'there, without one. What fails after the commit is a WARNING, and tried again at the next '
'transactions of the session. Parameters: exchange (NULL is amq.direct, '''' the default '
'exchange) and routing_key (NULL is empty), at most 255 bytes each; message (NULL is empty), as '
'text in UTF-8, as jsonb (content_type becomes application/json unless given) or as bytea; '
'mandatory, to be warned if no queue takes it; and the properties of AMQP 0-9-1, class basic, '
'none of which is sent unless given: delivery_mode 1 (transient) or 2 (persistent), priority 0 to '
'255, expiration in milliseconds, headers as a JSON object, timestamp in whole seconds, short '
'texts of at most 255 bytes. Errors: 42704 no such broker or exchange; 08001, 08004, 08P01, 28P01 '
'no connection; 53000 broker blocked, or too many messages to this exchange and routing key not '
'confirmed; 25000 in a parallel query; 42501 without USAGE on schema amqp; 22001, 22003, 22023, '
'54000 bad parameter.';


-- Few parameters, because each of them costs something for each row. Everybody may call it, whoever owns schema amqp:
-- it looks for itself whether the caller has USAGE there.
CREATE FUNCTION amqp_python.publish_change(broker_id integer, exchange text, routing_key text, message text) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).publish_change(broker_id, exchange, routing_key, message)$$;

COMMENT ON FUNCTION amqp_python.publish_change(integer, text, text, text) IS
'Part of amqp.publish_change(): publishes the message for one row as amqp.publish() would, for '
'whoever has USAGE on schema amqp.';

-- For a trigger that gives properties; what it shares with amqp.publish_change_outbox() calls it with an ordering key, which
-- is NULL here.
CREATE FUNCTION amqp_python.publish_change(
    broker_id integer, exchange text, routing_key text, message text, properties jsonb, ordering_key text
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).publish_change(broker_id, exchange, routing_key, message, properties)$$;

COMMENT ON FUNCTION amqp_python.publish_change(integer, text, text, text, jsonb, text) IS
'Part of amqp.publish_change(): publishes the message for one row with properties as '
'amqp.change_properties() gives them.';

CREATE FUNCTION amqp.publish_outbox_batch(
    broker_id integer DEFAULT NULL,
    batch_limit integer DEFAULT 100
) RETURNS integer
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).publish_outbox_batch(broker_id, batch_limit)$$;

COMMENT ON FUNCTION amqp.publish_outbox_batch(integer, integer) IS
'Delivers messages of amqp.outbox from this session, at most batch_limit, to a broker (NULL: to '
'all), and returns how many the broker has confirmed; for those who run no relay. Several callers '
'share the work: one works a broker until its transaction ends, and a broker that a relay works '
'is left to it. Commit at once: only then is it known that a message has gone, and if the '
'transaction is rolled back, or the session is terminated during the call, what was sent comes '
'again with the same message_id. Once a message was delivered or refused, trouble and cancel '
'requests are WARNINGs; else they are errors, or with amqp.on_failure = warn trouble with a '
'broker is a WARNING. Errors: those of amqp.publish(); 08006 not confirmed; 0A000 in REPEATABLE '
'READ and SERIALIZABLE, 55000 under amqp.capture.';

-- Finds what it calls by what was parsed when this was created. The schema is found like that, too: its name may have
-- become another one's.
CREATE FUNCTION amqp_python.publish_outbox_change(broker_id integer, exchange text, routing_key text, message text) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN CASE WHEN pg_catalog.has_schema_privilege('amqp'::pg_catalog.regnamespace, 'USAGE')
            THEN amqp.publish_outbox_change($1, $2, $3, $4)
            ELSE amqp_python.deny_publishing() END;

COMMENT ON FUNCTION amqp_python.publish_outbox_change(integer, text, text, text) IS
'Part of amqp.publish_change_outbox(): amqp.publish_outbox_change(), for whoever has USAGE on '
'schema amqp.';

CREATE FUNCTION amqp_python.publish_outbox_change(
    broker_id integer, exchange text, routing_key text, message text, properties jsonb, ordering_key text
) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN CASE WHEN pg_catalog.has_schema_privilege('amqp'::pg_catalog.regnamespace, 'USAGE')
            THEN amqp.publish_outbox_change($1, $2, $3, $4, $5, $6)
            ELSE amqp_python.deny_publishing() END;

COMMENT ON FUNCTION amqp_python.publish_outbox_change(integer, text, text, text, jsonb, text) IS
'Part of amqp.publish_change_outbox(): amqp.publish_outbox_change(), for whoever has USAGE on '
'schema amqp.';

CREATE FUNCTION amqp.queue_bind(
    broker_id integer,
    queue text,
    exchange text,
    routing_key text DEFAULT '',
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).queue_bind(broker_id, queue, exchange, routing_key, arguments)$$;

COMMENT ON FUNCTION amqp.queue_bind(integer, text, text, text, jsonb) IS
'Routes what is published to an exchange with a matching routing key to a queue. Takes effect at '
'once, not at commit. Returns true. AMQP 0-9-1: queue.bind. Errors: those of a connection as for '
'amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition failed, 55006 in use, '
'22004 and 22023 bad parameter.';

CREATE FUNCTION amqp.queue_declare(
    broker_id integer,
    queue text,
    passive boolean DEFAULT false,
    durable boolean DEFAULT true,
    exclusive boolean DEFAULT false,
    auto_delete boolean DEFAULT false,
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).queue_declare(broker_id, queue, passive, durable, exclusive, auto_delete, arguments)$$;

COMMENT ON FUNCTION amqp.queue_declare(integer, text, boolean, boolean, boolean, boolean, jsonb) IS
'Creates a queue; with passive, only makes sure that it exists. durable: it survives a restart of '
'the broker; exclusive: it belongs to this session''s connection and goes with it; auto_delete: '
'it goes with its last consumer. arguments as RabbitMQ knows them, such as {"x-queue-type": '
'"quorum"}. Takes effect at once, not at commit. Returns true. AMQP 0-9-1: queue.declare. Errors: '
'those of a connection as for amqp.publish(); 42704 not found, 42501 access refused, 55000 '
'precondition failed, 55006 in use, 22004 and 22023 bad parameter.';

CREATE FUNCTION amqp.queue_delete(
    broker_id integer,
    queue text,
    if_unused boolean DEFAULT false,
    if_empty boolean DEFAULT false
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).queue_delete(broker_id, queue, if_unused, if_empty)$$;

COMMENT ON FUNCTION amqp.queue_delete(integer, text, boolean, boolean) IS
'Deletes a queue and the messages in it; with if_unused only if it has no consumer, with if_empty '
'only if it has no message. Takes effect at once, not at commit. Returns true, also if there is '
'none. AMQP 0-9-1: queue.delete. Errors: those of a connection as for amqp.publish(); 42704 not '
'found, 42501 access refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad '
'parameter.';

CREATE FUNCTION amqp.queue_purge(
    broker_id integer,
    queue text
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).queue_purge(broker_id, queue)$$;

COMMENT ON FUNCTION amqp.queue_purge(integer, text) IS
'Drops the messages of a queue that were not handed to a consumer yet. Takes effect at once, not '
'at commit. Returns true. AMQP 0-9-1: queue.purge. Errors: those of a connection as for '
'amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition failed, 55006 in use, '
'22004 and 22023 bad parameter.';

CREATE FUNCTION amqp.queue_unbind(
    broker_id integer,
    queue text,
    exchange text,
    routing_key text DEFAULT '',
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).queue_unbind(broker_id, queue, exchange, routing_key, arguments)$$;

COMMENT ON FUNCTION amqp.queue_unbind(integer, text, text, text, jsonb) IS
'Removes the binding that amqp.queue_bind() made with the same parameters. Takes effect at once, '
'not at commit. Returns true, also if there is none. AMQP 0-9-1: queue.unbind. Errors: those of a '
'connection as for amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition '
'failed, 55006 in use, 22004 and 22023 bad parameter.';

CREATE FUNCTION amqp.status() RETURNS TABLE (
    broker_id integer,
    connected boolean,
    host text,
    port integer,
    vhost text,
    ssl boolean,
    server_product text,
    server_version text,
    connected_since timestamptz,
    published bigint,
    confirmed bigint,
    returned bigint,
    failed bigint,
    pending bigint,
    unconfirmed bigint,
    last_error text
)
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or __import__("ctypes").PyDLL(None).IsInParallelMode() & 1 and plpy.error("cannot use pg_amqp_py in a parallel query", hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.", sqlstate="25000") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).status()$$;

COMMENT ON FUNCTION amqp.status() IS
'The brokers that this session has used: where it is connected, and how many messages it has '
'published, how many of them the broker has confirmed, returned as unroutable (these count as '
'confirmed too), or refused or not taken (failed), how many wait for the commit of this '
'transaction (pending), and how many of committed ones are kept because the broker has not '
'confirmed them (unconfirmed): awaited on their connection while it lives, else written again at '
'the next transactions.';

CREATE TRIGGER broker_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON amqp.broker
    FOR EACH STATEMENT EXECUTE FUNCTION amqp.broker_changed();
-- In replication and restore as well, which fire no ordinary triggers.
ALTER TABLE amqp.broker ENABLE ALWAYS TRIGGER broker_changed;

COMMENT ON TRIGGER broker_changed ON amqp.broker IS
'Makes all sessions use the changed rows from their next transaction on.';

-- What administrators put in is theirs, and messages that wait must not get lost: pg_dump saves both.
SELECT pg_catalog.pg_extension_config_dump('amqp.broker', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.broker_broker_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.outbox', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.outbox_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.outbox_dead', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.outbox_delivered', '');

-- USAGE on schema amqp, which nobody but its owner has, is the right to publish. What changes the
-- broker takes a GRANT of its own.
REVOKE EXECUTE ON FUNCTION
    amqp.add_broker(text),
    amqp.publish_outbox_batch(integer, integer),
    amqp.exchange_delete(integer, text, boolean),
    amqp.exchange_bind(integer, text, text, text, jsonb),
    amqp.exchange_unbind(integer, text, text, text, jsonb),
    amqp.queue_declare(integer, text, boolean, boolean, boolean, boolean, jsonb),
    amqp.queue_bind(integer, text, text, text, jsonb),
    amqp.queue_unbind(integer, text, text, text, jsonb),
    amqp.queue_purge(integer, text),
    amqp.queue_delete(integer, text, boolean, boolean)
FROM PUBLIC;
