-- A table that was restored is another one, and so are the functions beside it; in a copy of the database (CREATE DATABASE
-- ... TEMPLATE) all have the numbers that they had.
CREATE FUNCTION amqp_inner.consumer_place() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT concat(c.system_identifier, '/', 'amqp.consumer'::regclass::oid, '/') FROM pg_control_system() AS c;
END;

COMMENT ON FUNCTION amqp_inner.consumer_place() IS
'Part of the inbox: where the number of a function means something.';
