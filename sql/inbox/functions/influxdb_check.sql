-- Instead of CHECK, whose errors show the whole row, its password included.
CREATE FUNCTION amqp_inner.influxdb_check() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
    wrong pg_catalog.text := CASE
        WHEN COALESCE(NEW.name, '') OPERATOR(pg_catalog.=) '' THEN 'name must not be empty'
        WHEN NEW.url IS NULL OR NEW.url OPERATOR(pg_catalog.!~) '^https?://[^/@?#[:space:]]+/?$'
            THEN 'url must be http:// or https://, a host and a port, without a user and a path'
        WHEN NEW.api IS NULL OR NEW.api OPERATOR(pg_catalog.<>) ALL ('{v1,v2}'::pg_catalog.text[])
            THEN 'api must be v1 or v2'
        WHEN NEW.api OPERATOR(pg_catalog.=) 'v1' AND COALESCE(NEW.database, '') OPERATOR(pg_catalog.=) ''
            THEN 'api v1 needs database'
        WHEN NEW.api OPERATOR(pg_catalog.=) 'v1' AND pg_catalog.num_nonnulls(NEW.org, NEW.bucket, NEW.token) OPERATOR(pg_catalog.>) 0
            THEN 'org, bucket and token belong to api v2'
        WHEN NEW.password IS NOT NULL AND NEW.username IS NULL THEN 'password needs username'
        WHEN NEW.api OPERATOR(pg_catalog.=) 'v2' AND (COALESCE(NEW.org, '') OPERATOR(pg_catalog.=) '' OR COALESCE(NEW.bucket, '') OPERATOR(pg_catalog.=) ''
                  OR COALESCE(NEW.token, '') OPERATOR(pg_catalog.=) '')
            THEN 'api v2 needs org, bucket and token'
        WHEN NEW.api OPERATOR(pg_catalog.=) 'v2'
             AND pg_catalog.num_nonnulls(NEW.database, NEW.retention_policy, NEW.username) OPERATOR(pg_catalog.>) 0
            THEN 'database, retention_policy and username belong to api v1'
        END;
BEGIN
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'invalid row for table "amqp.influxdb": %', wrong USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION amqp_inner.influxdb_check() IS
'Trigger function of amqp.influxdb: raises check_violation for a row that cannot work, without
showing its password.';
