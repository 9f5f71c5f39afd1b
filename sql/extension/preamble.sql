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
                  HINT = 'Save the rows of amqp.broker, deliver what is in the outbox, remove it with pg-amqp install --uninstall, and create this extension, which brings an outbox of its own.';
    END IF;
    SELECT n.nspname INTO schema_name
    FROM pg_catalog.pg_namespace AS n
    WHERE n.nspname OPERATOR(pg_catalog.=) ANY ('{amqp,amqp_inner}')
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
CREATE SCHEMA amqp_inner;
