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
    IF pg_catalog.to_regprocedure('amqp.outbox_version()') IS NOT NULL THEN
        RAISE EXCEPTION 'the outbox is installed in this database without the extension'
            USING ERRCODE = 'duplicate_object',
                  DETAIL = 'Both own schema "amqp" and tables "amqp.broker" and "amqp.outbox".',
                  HINT = 'Save the rows of amqp.broker, deliver what is in the outbox, remove it with pg-amqp install-outbox --uninstall, and create this extension, which brings an outbox of its own.';
    END IF;
END
$$;

-- What the functions must find by name, whoever owns schema amqp: its owner can rename it, and put
-- another in its place.
CREATE SCHEMA amqp_python;
GRANT USAGE ON SCHEMA amqp_python TO PUBLIC;
COMMENT ON SCHEMA amqp_python IS 'Inner parts of extension pg_amqp_py, of no use to anybody else.';
