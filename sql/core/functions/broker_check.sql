-- Instead of CHECK and NOT NULL, whose errors show the whole row, its password included.
CREATE FUNCTION amqp_inner.broker_check() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
    wrong pg_catalog.text := CASE
        WHEN NEW.broker_id IS NULL THEN 'broker_id must not be null'
        WHEN COALESCE(NEW.host, '') OPERATOR(pg_catalog.=) '' THEN 'host must not be empty'
        WHEN NEW.host OPERATOR(pg_catalog.~) '[]/@?#[[:space:]]|^[^:]*:[^:]*$'
            THEN 'host must be a name or an address alone; port, vhost and login have columns of their own'
        WHEN NEW.port IS NULL OR NEW.port OPERATOR(pg_catalog.<) 1 OR NEW.port OPERATOR(pg_catalog.>) 65535
            THEN 'port must be between 1 and 65535'
        WHEN NEW.mqtt_port OPERATOR(pg_catalog.<) 1 OR NEW.mqtt_port OPERATOR(pg_catalog.>) 65535
            THEN 'mqtt_port must be between 1 and 65535'
        WHEN NEW.vhost OPERATOR(pg_catalog.=) '' THEN 'vhost must not be empty'
        WHEN pg_catalog.octet_length(pg_catalog.convert_to(NEW.vhost, 'UTF8')) OPERATOR(pg_catalog.>) 255
            THEN 'vhost must not be longer than 255 bytes'
        WHEN NEW.ssl IS NULL OR NEW.ssl_verify_peer IS NULL OR NEW.ssl_verify_hostname IS NULL
            THEN 'ssl, ssl_verify_peer and ssl_verify_hostname must not be null'
        WHEN NEW.ssl_key IS NOT NULL AND NEW.ssl_cert IS NULL THEN 'ssl_key needs ssl_cert'
        WHEN NOT (NEW.ssl OR COALESCE(NEW.mqtt_ssl, false)) AND (NEW.ssl_cacert IS NOT NULL OR NEW.ssl_cert IS NOT NULL)
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

COMMENT ON FUNCTION amqp_inner.broker_check() IS
'Trigger function of amqp.broker: raises check_violation for a row that cannot work, without
showing its password.';
