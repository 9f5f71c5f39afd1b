CREATE FUNCTION amqp.consumer_place() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT concat(c.system_identifier, '/', d.oid, '/')
    FROM pg_control_system() AS c, pg_database AS d
    WHERE d.datname = current_database();
END;

COMMENT ON FUNCTION amqp.consumer_place() IS
'Part of the inbox: in which cluster and database the number of a function means something.';
