-- Complain if the script is sourced in psql rather than by CREATE EXTENSION.
\echo Use "CREATE EXTENSION pg_amqp_py CASCADE" to load this file. \quit

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'amqp') THEN
        RAISE EXCEPTION 'extension "amqp" is installed in this database'
            USING ERRCODE = 'duplicate_object',
                  DETAIL = 'Both extensions own schema "amqp" and table "amqp.broker".',
                  HINT = 'Save its broker rows, DROP EXTENSION amqp, create this extension and put them back: see docs/migrating.md.';
    END IF;
END
$$;

-- What the functions must find by name, whoever owns schema amqp: its owner can rename it, and put
-- another in its place.
CREATE SCHEMA amqp_python;
GRANT USAGE ON SCHEMA amqp_python TO PUBLIC;
COMMENT ON SCHEMA amqp_python IS 'Inner parts of extension pg_amqp_py, of no use to anybody else.';
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

-- What administrators put in is theirs: pg_dump saves it.
SELECT pg_catalog.pg_extension_config_dump('amqp.broker', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.broker_broker_id_seq', '');
CREATE FUNCTION amqp.add_broker(
    uri text
) RETURNS integer
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).add_broker(uri)$$;

COMMENT ON FUNCTION amqp.add_broker(text) IS
'Adds a broker to amqp.broker from an AMQP URI, amqp://user:password@host:port/vhost or amqps:// for TLS, with percent-encoding and, for a cluster, several hosts with commas; returns its broker_id. Ports default to 5672 and 5671. The rows are inserted with the rights of the owner of amqp.broker. Errors: 22023 invalid URI.';
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
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).publish(broker_id, exchange, routing_key, message, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, timestamp, type, user_id, app_id, True)$$;

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
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).publish(broker_id, exchange, routing_key, message, delivery_mode, "application/json" if content_type is None else content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, timestamp, type, user_id, app_id, True)$$;

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
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).publish(broker_id, exchange, routing_key, message, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, timestamp, type, user_id, app_id, True)$$;

COMMENT ON FUNCTION amqp.autonomous_publish(integer, text, text, text, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Publishes a message now, whatever becomes of the transaction, and returns true when the broker has confirmed it. If it has not within amqp.confirm_timeout, refuses it or cannot route it (mandatory), that is an error, or with amqp.on_failure = warn a WARNING and false. Parameters: exchange (NULL is amq.direct, '''' the default exchange) and routing_key (NULL is empty), at most 255 bytes each; message (NULL is empty), as text in UTF-8, as jsonb (content_type becomes application/json unless given) or as bytea; mandatory, to be warned if no queue takes it; and the properties of AMQP 0-9-1, class basic, none of which is sent unless given: delivery_mode 1 (transient) or 2 (persistent), priority 0 to 255, expiration in milliseconds, headers as a JSON object, timestamp in whole seconds, short texts of at most 255 bytes. Errors: those of amqp.publish(), 08006 not confirmed, 55000 refused or unroutable.';

COMMENT ON FUNCTION amqp.autonomous_publish(integer, text, text, jsonb, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Publishes a message now, whatever becomes of the transaction, and returns true when the broker has confirmed it. If it has not within amqp.confirm_timeout, refuses it or cannot route it (mandatory), that is an error, or with amqp.on_failure = warn a WARNING and false. Parameters: exchange (NULL is amq.direct, '''' the default exchange) and routing_key (NULL is empty), at most 255 bytes each; message (NULL is empty), as text in UTF-8, as jsonb (content_type becomes application/json unless given) or as bytea; mandatory, to be warned if no queue takes it; and the properties of AMQP 0-9-1, class basic, none of which is sent unless given: delivery_mode 1 (transient) or 2 (persistent), priority 0 to 255, expiration in milliseconds, headers as a JSON object, timestamp in whole seconds, short texts of at most 255 bytes. Errors: those of amqp.publish(), 08006 not confirmed, 55000 refused or unroutable.';

COMMENT ON FUNCTION amqp.autonomous_publish(integer, text, text, bytea, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Publishes a message now, whatever becomes of the transaction, and returns true when the broker has confirmed it. If it has not within amqp.confirm_timeout, refuses it or cannot route it (mandatory), that is an error, or with amqp.on_failure = warn a WARNING and false. Parameters: exchange (NULL is amq.direct, '''' the default exchange) and routing_key (NULL is empty), at most 255 bytes each; message (NULL is empty), as text in UTF-8, as jsonb (content_type becomes application/json unless given) or as bytea; mandatory, to be warned if no queue takes it; and the properties of AMQP 0-9-1, class basic, none of which is sent unless given: delivery_mode 1 (transient) or 2 (persistent), priority 0 to 255, expiration in milliseconds, headers as a JSON object, timestamp in whole seconds, short texts of at most 255 bytes. Errors: those of amqp.publish(), 08006 not confirmed, 55000 refused or unroutable.';
CREATE FUNCTION amqp.broker_changed() RETURNS trigger
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$(GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).announce_change(TD["relid"])$$;

COMMENT ON FUNCTION amqp.broker_changed() IS
'Trigger function of amqp.broker: makes all sessions read its rows again from their next transaction on.';
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
-- A single expression, so that PostgreSQL inlines it. json outside, to keep the order of the keys;
-- jsonb inside, because the rows come as jsonb.
CREATE FUNCTION amqp.change_message(
    operation text,
    schema_name name,
    table_name name,
    new_row jsonb,
    old_row jsonb,
    changed jsonb
) RETURNS text
LANGUAGE sql VOLATILE PARALLEL UNSAFE
AS $$
SELECT pg_catalog.json_build_object(
    'operation', $1,
    'schema', $2,
    'table', $3,
    'new', $4,
    'old', $5,
    'changed', $6,
    'transaction_id', pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.numeric,
    'time', pg_catalog.clock_timestamp()
)::pg_catalog.text
$$;

COMMENT ON FUNCTION amqp.change_message(text, name, name, jsonb, jsonb, jsonb) IS
'The JSON message that amqp.publish_change() publishes for one row.';
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
    field pg_catalog.text;
    value pg_catalog.text;
    row_asked pg_catalog.jsonb;
    place integer;
BEGIN
    FOREACH part IN ARRAY parts[2:] LOOP
        place := pg_catalog.strpos(part, '}');
        field := pg_catalog.left(part, place OPERATOR(pg_catalog.-) 1);
        IF place OPERATOR(pg_catalog.=) 0 THEN
            field := NULL;
        ELSIF field OPERATOR(pg_catalog.=) 'op' THEN
            value := operation;
        ELSIF field OPERATOR(pg_catalog.=) 'schema' THEN
            value := schema_name;
        ELSIF field OPERATOR(pg_catalog.=) 'table' THEN
            value := table_name;
        ELSIF pg_catalog.starts_with(field, 'new.') OR pg_catalog.starts_with(field, 'old.') THEN
            -- A row that the operation does not have gives way to the other one.
            row_asked := CASE WHEN pg_catalog.starts_with(field, 'new.')
                              THEN COALESCE(new_row, old_row) ELSE COALESCE(old_row, new_row) END;
            value := row_asked OPERATOR(pg_catalog.->>) pg_catalog.substr(field, 5);
            IF NOT row_asked OPERATOR(pg_catalog.?) pg_catalog.substr(field, 5) THEN
                RAISE EXCEPTION 'invalid routing key template "%"', template
                    USING ERRCODE = 'invalid_parameter_value',
                          DETAIL = pg_catalog.format('Table "%s" has no column "%s".', table_name, pg_catalog.substr(field, 5)),
                          HINT = 'Placeholders are {op}, {schema}, {table}, {new.column} and {old.column}.';
            END IF;
        ELSE
            field := NULL;
        END IF;
        IF field IS NULL THEN
            RAISE EXCEPTION 'invalid routing key template "%"', template
                USING ERRCODE = 'invalid_parameter_value',
                      DETAIL = pg_catalog.format('"{%s" is no placeholder of table "%s".',
                          CASE WHEN place OPERATOR(pg_catalog.>) 0 THEN pg_catalog.left(part, place) ELSE part END,
                          table_name),
                      HINT = 'Placeholders are {op}, {schema}, {table}, {new.column} and {old.column}.';
        END IF;
        routing_key := pg_catalog.concat(routing_key, value, pg_catalog.substr(part, place OPERATOR(pg_catalog.+) 1));
    END LOOP;
    RETURN routing_key;
END
$$;

COMMENT ON FUNCTION amqp.change_routing_key(text, text, name, name, jsonb, jsonb) IS
'Fills in a routing key template of amqp.publish_change(): {op}, {schema}, {table}, {new.column}, {old.column}. For a row that the operation does not have, as the new one of a DELETE, the other row is taken; NULL is empty.';
CREATE FUNCTION amqp.changed_columns(new_row jsonb, old_row jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $$
BEGIN
    -- As text, because jsonb's own = takes the numerics 1.0 and 1.00 for the same. Both rows have
    -- the same keys, and a column that is NULL has the value null.
    RETURN COALESCE(
        (SELECT pg_catalog.jsonb_agg(c.key)
         FROM pg_catalog.jsonb_each(new_row) AS c
         WHERE c.value::pg_catalog.text OPERATOR(pg_catalog.<>)
               (old_row OPERATOR(pg_catalog.->) c.key)::pg_catalog.text),
        '[]');
END
$$;

COMMENT ON FUNCTION amqp.changed_columns(jsonb, jsonb) IS
'Names of the columns whose values differ between two versions of a row, as a JSON array. Part of amqp.publish_change().';
CREATE FUNCTION amqp.disconnect(
    broker_id integer
) RETURNS void
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).disconnect(broker_id)$$;

COMMENT ON FUNCTION amqp.disconnect(integer) IS
'Closes this session''s connection to a broker, if there is one. Messages pending in the transaction still go out at commit. Hosts that just failed are tried again at the next call.';
CREATE FUNCTION amqp.exchange_bind(
    broker_id integer,
    destination text,
    source text,
    routing_key text DEFAULT '',
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).exchange_bind(broker_id, destination, source, routing_key, arguments)$$;

COMMENT ON FUNCTION amqp.exchange_bind(integer, text, text, text, jsonb) IS
'Routes what is published to exchange source with a matching routing key to exchange destination too. Takes effect at once, not at commit. Returns true. RabbitMQ extension to AMQP 0-9-1: exchange.bind. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';
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
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).exchange_declare(broker_id, exchange, exchange_type, passive, durable, auto_delete, internal, arguments)$$;

COMMENT ON FUNCTION amqp.exchange_declare(integer, text, text, boolean, boolean, boolean, boolean, jsonb) IS
'Creates an exchange of type direct, fanout, topic, headers or one of a plugin; with passive, only makes sure that it exists. durable: it survives a restart of the broker; auto_delete: it goes with its last binding; internal: only other exchanges publish to it. Takes effect at once, not at commit. Returns true. AMQP 0-9-1: exchange.declare. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';
CREATE FUNCTION amqp.exchange_delete(
    broker_id integer,
    exchange text,
    if_unused boolean DEFAULT false
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).exchange_delete(broker_id, exchange, if_unused)$$;

COMMENT ON FUNCTION amqp.exchange_delete(integer, text, boolean) IS
'Deletes an exchange; with if_unused only if nothing is bound to it. Takes effect at once, not at commit. Returns true, also if there is none. AMQP 0-9-1: exchange.delete. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';
CREATE FUNCTION amqp.exchange_unbind(
    broker_id integer,
    destination text,
    source text,
    routing_key text DEFAULT '',
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).exchange_unbind(broker_id, destination, source, routing_key, arguments)$$;

COMMENT ON FUNCTION amqp.exchange_unbind(integer, text, text, text, jsonb) IS
'Removes the binding that amqp.exchange_bind() made with the same parameters. Takes effect at once, not at commit. Returns true, also if there is none. RabbitMQ extension to AMQP 0-9-1: exchange.unbind. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';
-- PL/Python looks for modules in the system's places only, and the extension's own are not
-- there. Where they are must be asked of the running server: a path written into a function
-- would be the old one after pg_upgrade. SECURITY DEFINER, because pg_config() is for superusers.
CREATE FUNCTION amqp_python.load_python() RETURNS void
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
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
'Loads the Python part of pg_amqp_py into this session. The other functions call it when they need it.';
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
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).pending()$$;

COMMENT ON FUNCTION amqp.pending() IS
'The messages that wait for the commit of this transaction, in the order of the calls. message is NULL where body is not valid text. captured: published under amqp.capture, or amqp.capture is on now: not to be sent.';
CREATE FUNCTION amqp.ping(
    broker_id integer,
    OUT host text,
    OUT port integer,
    OUT server_product text,
    OUT server_version text,
    OUT round_trip interval
) RETURNS record
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).ping(broker_id)$$;

COMMENT ON FUNCTION amqp.ping(integer) IS
'Asks a broker for an answer, connecting if needed, also to hosts that just failed. Returns who answered and how long that took; raises the reason if nobody did, as amqp.publish() would.';
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
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).publish(broker_id, exchange, routing_key, message, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, timestamp, type, user_id, app_id)$$;

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
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).publish(broker_id, exchange, routing_key, message, delivery_mode, "application/json" if content_type is None else content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, timestamp, type, user_id, app_id)$$;

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
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).publish(broker_id, exchange, routing_key, message, delivery_mode, content_type, reply_to, correlation_id, mandatory, headers, content_encoding, priority, expiration, message_id, timestamp, type, user_id, app_id)$$;

COMMENT ON FUNCTION amqp.publish(integer, text, text, text, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Publishes a message when the transaction commits, once, after its data is visible; never if the transaction or the savepoint around the call is rolled back. Returns true; a failure that can be known now is an error, or with amqp.on_failure = warn a WARNING and false. What fails after the commit is a WARNING. Parameters: exchange (NULL is amq.direct, '''' the default exchange) and routing_key (NULL is empty), at most 255 bytes each; message (NULL is empty), as text in UTF-8, as jsonb (content_type becomes application/json unless given) or as bytea; mandatory, to be warned if no queue takes it; and the properties of AMQP 0-9-1, class basic, none of which is sent unless given: delivery_mode 1 (transient) or 2 (persistent), priority 0 to 255, expiration in milliseconds, headers as a JSON object, timestamp in whole seconds, short texts of at most 255 bytes. Errors: 42704 no such broker or exchange; 08001, 08004, 08P01, 28P01 no connection; 53000 broker blocked; 22001, 22003, 22023, 54000 bad parameter.';

COMMENT ON FUNCTION amqp.publish(integer, text, text, jsonb, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Publishes a message when the transaction commits, once, after its data is visible; never if the transaction or the savepoint around the call is rolled back. Returns true; a failure that can be known now is an error, or with amqp.on_failure = warn a WARNING and false. What fails after the commit is a WARNING. Parameters: exchange (NULL is amq.direct, '''' the default exchange) and routing_key (NULL is empty), at most 255 bytes each; message (NULL is empty), as text in UTF-8, as jsonb (content_type becomes application/json unless given) or as bytea; mandatory, to be warned if no queue takes it; and the properties of AMQP 0-9-1, class basic, none of which is sent unless given: delivery_mode 1 (transient) or 2 (persistent), priority 0 to 255, expiration in milliseconds, headers as a JSON object, timestamp in whole seconds, short texts of at most 255 bytes. Errors: 42704 no such broker or exchange; 08001, 08004, 08P01, 28P01 no connection; 53000 broker blocked; 22001, 22003, 22023, 54000 bad parameter.';

COMMENT ON FUNCTION amqp.publish(integer, text, text, bytea, integer, text, text, text, boolean, jsonb, text, integer, text, text, timestamptz, text, text, text) IS
'Publishes a message when the transaction commits, once, after its data is visible; never if the transaction or the savepoint around the call is rolled back. Returns true; a failure that can be known now is an error, or with amqp.on_failure = warn a WARNING and false. What fails after the commit is a WARNING. Parameters: exchange (NULL is amq.direct, '''' the default exchange) and routing_key (NULL is empty), at most 255 bytes each; message (NULL is empty), as text in UTF-8, as jsonb (content_type becomes application/json unless given) or as bytea; mandatory, to be warned if no queue takes it; and the properties of AMQP 0-9-1, class basic, none of which is sent unless given: delivery_mode 1 (transient) or 2 (persistent), priority 0 to 255, expiration in milliseconds, headers as a JSON object, timestamp in whole seconds, short texts of at most 255 bytes. Errors: 42704 no such broker or exchange; 08001, 08004, 08P01, 28P01 no connection; 53000 broker blocked; 22001, 22003, 22023, 54000 bad parameter.';
-- SECURITY INVOKER on purpose: to_jsonb() runs casts to json that the owners of column types have
-- written, and they must not run with more rights than whoever changes the table. Without a SET
-- clause, so that these casts find what they always find; every name here is qualified instead. Calls
-- into schema amqp have all arguments in their exact types: an overload that the owner of the schema
-- may add cannot come before them.
CREATE FUNCTION amqp.publish_change() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
    operation pg_catalog.text := pg_catalog.lower(TG_OP);
    broker_id integer := TG_ARGV[0];
    exchange pg_catalog.text := TG_ARGV[1];
    template pg_catalog.text := COALESCE(TG_ARGV[2], pg_catalog.format('%s.%s.%s', TG_TABLE_SCHEMA, TG_TABLE_NAME, operation));
    has_placeholders boolean := TG_NARGS OPERATOR(pg_catalog.=) 3 AND pg_catalog.strpos(template, '{') OPERATOR(pg_catalog.>) 0;
    new_row pg_catalog.jsonb;
    old_row pg_catalog.jsonb;
    changed pg_catalog.jsonb;
    new_table pg_catalog.name;
    old_table pg_catalog.name;
    rows_changed pg_catalog.text;
    as_many boolean;
BEGIN
    -- Below, functions of schema amqp are called by name. An owner of the schema who is no superuser
    -- could have renamed it and put another in its place, for superusers to run his functions.
    IF pg_catalog.current_setting('is_superuser') OPERATOR(pg_catalog.=) 'on' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_trigger AS t
        JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
        JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
        WHERE t.tgrelid OPERATOR(pg_catalog.=) TG_RELID AND t.tgname OPERATOR(pg_catalog.=) TG_NAME
          AND n.nspname OPERATOR(pg_catalog.=) 'amqp'
    ) THEN
        RAISE EXCEPTION 'the schema of extension "pg_amqp_py" is no longer named "amqp"'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF TG_NARGS OPERATOR(pg_catalog.<) 2 OR TG_NARGS OPERATOR(pg_catalog.>) 3 OR broker_id IS NULL THEN
        RAISE EXCEPTION 'trigger "%" has the wrong arguments for amqp.publish_change()', TG_NAME
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'EXECUTE FUNCTION amqp.publish_change(broker_id, exchange [, routing key template])';
    END IF;
    IF TG_WHEN OPERATOR(pg_catalog.<>) 'AFTER' THEN
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
                changed := amqp.changed_columns(new_row, old_row);
            END IF;
        END IF;
        PERFORM amqp.publish(
            broker_id,
            exchange,
            CASE WHEN has_placeholders
                 THEN amqp.change_routing_key(template, operation, TG_TABLE_SCHEMA, TG_TABLE_NAME, new_row, old_row)
                 ELSE template END,
            amqp.change_message(operation, TG_TABLE_SCHEMA, TG_TABLE_NAME, new_row, old_row, changed),
            NULL::integer, 'application/json'::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::boolean, NULL::pg_catalog.jsonb, NULL::pg_catalog.text,
            NULL::integer, NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.timestamptz, NULL::pg_catalog.text,
            NULL::pg_catalog.text, NULL::pg_catalog.text);
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
            'SELECT pg_catalog.to_jsonb(n.*) AS new_row, NULL::pg_catalog.jsonb AS old_row FROM %I AS n', new_table)
        WHEN TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN pg_catalog.format(
            'SELECT NULL::pg_catalog.jsonb AS new_row, pg_catalog.to_jsonb(o.*) AS old_row FROM %I AS o', old_table)
        ELSE pg_catalog.format(
            'SELECT n.r AS new_row, o.r AS old_row
             FROM (SELECT pg_catalog.to_jsonb(t.*) AS r, pg_catalog.row_number() OVER () AS position FROM %I AS t) AS n
             JOIN (SELECT pg_catalog.to_jsonb(t.*) AS r, pg_catalog.row_number() OVER () AS position FROM %I AS t) AS o
               ON n.position OPERATOR(pg_catalog.=) o.position
             ORDER BY n.position USING OPERATOR(pg_catalog.<)', new_table, old_table)
        END;
    EXECUTE pg_catalog.format(
        'SELECT amqp.publish($1, $2, %s, amqp.change_message($4, $5, $6, c.new_row, c.old_row, %s),
                NULL::integer, ''application/json''::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::boolean, NULL::pg_catalog.jsonb, NULL::pg_catalog.text,
                NULL::integer, NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.timestamptz, NULL::pg_catalog.text,
                NULL::pg_catalog.text, NULL::pg_catalog.text)
         FROM (%s) AS c',
        CASE WHEN has_placeholders
             THEN 'amqp.change_routing_key($3, $4, $5, $6, c.new_row, c.old_row)' ELSE '$3' END,
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN 'amqp.changed_columns(c.new_row, c.old_row)' ELSE 'NULL::pg_catalog.jsonb' END,
        rows_changed)
    USING broker_id, exchange, template, operation, TG_TABLE_SCHEMA, TG_TABLE_NAME;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION amqp.publish_change() IS
'Trigger function that publishes every change of a table: CREATE TRIGGER ... AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION amqp.publish_change(broker_id, exchange [, routing key template]). FOR EACH STATEMENT it needs transition tables (REFERENCING) and publishes one message a row too; for TRUNCATE one message without rows. The message is JSON: operation, schema, table, new, old, changed (columns, for UPDATE), transaction_id, time. The routing key is schema.table.operation, or the template with {op}, {schema}, {table}, {new.column} and {old.column} filled in. Runs with the rights of whoever changes the table, who needs USAGE on schema amqp. Errors: those of amqp.publish(), 22023 and 42P17 for a trigger that is defined wrongly.';
CREATE FUNCTION amqp.queue_bind(
    broker_id integer,
    queue text,
    exchange text,
    routing_key text DEFAULT '',
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).queue_bind(broker_id, queue, exchange, routing_key, arguments)$$;

COMMENT ON FUNCTION amqp.queue_bind(integer, text, text, text, jsonb) IS
'Routes what is published to an exchange with a matching routing key to a queue. Takes effect at once, not at commit. Returns true. AMQP 0-9-1: queue.bind. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';
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
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).queue_declare(broker_id, queue, passive, durable, exclusive, auto_delete, arguments)$$;

COMMENT ON FUNCTION amqp.queue_declare(integer, text, boolean, boolean, boolean, boolean, jsonb) IS
'Creates a queue; with passive, only makes sure that it exists. durable: it survives a restart of the broker; exclusive: it belongs to this session''s connection and goes with it; auto_delete: it goes with its last consumer. arguments as RabbitMQ knows them, such as {"x-queue-type": "quorum"}. Takes effect at once, not at commit. Returns true. AMQP 0-9-1: queue.declare. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';
CREATE FUNCTION amqp.queue_delete(
    broker_id integer,
    queue text,
    if_unused boolean DEFAULT false,
    if_empty boolean DEFAULT false
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).queue_delete(broker_id, queue, if_unused, if_empty)$$;

COMMENT ON FUNCTION amqp.queue_delete(integer, text, boolean, boolean) IS
'Deletes a queue and the messages in it; with if_unused only if it has no consumer, with if_empty only if it has no message. Takes effect at once, not at commit. Returns true, also if there is none. AMQP 0-9-1: queue.delete. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';
CREATE FUNCTION amqp.queue_purge(
    broker_id integer,
    queue text
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).queue_purge(broker_id, queue)$$;

COMMENT ON FUNCTION amqp.queue_purge(integer, text) IS
'Drops the messages of a queue that were not handed to a consumer yet. Takes effect at once, not at commit. Returns true. AMQP 0-9-1: queue.purge. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';
CREATE FUNCTION amqp.queue_unbind(
    broker_id integer,
    queue text,
    exchange text,
    routing_key text DEFAULT '',
    arguments jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).queue_unbind(broker_id, queue, exchange, routing_key, arguments)$$;

COMMENT ON FUNCTION amqp.queue_unbind(integer, text, text, text, jsonb) IS
'Removes the binding that amqp.queue_bind() made with the same parameters. Takes effect at once, not at commit. Returns true, also if there is none. AMQP 0-9-1: queue.unbind. Errors: those of a connection as for amqp.publish(); 42704 not found, 42501 access refused, 55000 precondition failed, 55006 in use, 22004 and 22023 bad parameter.';
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
    last_error text
)
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).status()$$;

COMMENT ON FUNCTION amqp.status() IS
'The brokers that this session has used: where it is connected, and how many messages it has published, how many of them the broker has confirmed, returned as unroutable (these count as confirmed too), or not confirmed or refused (failed), and how many wait for the commit of this transaction.';
CREATE TRIGGER broker_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON amqp.broker
    FOR EACH STATEMENT EXECUTE FUNCTION amqp.broker_changed();
-- In replication and restore as well, which fire no ordinary triggers.
ALTER TABLE amqp.broker ENABLE ALWAYS TRIGGER broker_changed;

COMMENT ON TRIGGER broker_changed ON amqp.broker IS
'Makes all sessions use the changed rows from their next transaction on.';
CREATE TRIGGER broker_check BEFORE INSERT OR UPDATE ON amqp.broker
    FOR EACH ROW EXECUTE FUNCTION amqp.broker_check();
ALTER TABLE amqp.broker ENABLE ALWAYS TRIGGER broker_check;

COMMENT ON TRIGGER broker_check ON amqp.broker IS
'Refuses rows that cannot work.';
-- USAGE on schema amqp, which nobody but its owner has, is the right to publish. What changes the
-- broker or the table of brokers takes a GRANT of its own.
REVOKE ALL ON TABLE amqp.broker FROM PUBLIC;
REVOKE ALL ON SEQUENCE amqp.broker_broker_id_seq FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION
    amqp.add_broker(text),
    amqp.exchange_delete(integer, text, boolean),
    amqp.exchange_bind(integer, text, text, text, jsonb),
    amqp.exchange_unbind(integer, text, text, text, jsonb),
    amqp.queue_declare(integer, text, boolean, boolean, boolean, boolean, jsonb),
    amqp.queue_bind(integer, text, text, text, jsonb),
    amqp.queue_unbind(integer, text, text, text, jsonb),
    amqp.queue_purge(integer, text),
    amqp.queue_delete(integer, text, boolean, boolean)
FROM PUBLIC;
