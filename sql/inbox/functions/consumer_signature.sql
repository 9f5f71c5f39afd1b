CREATE FUNCTION amqp_inner.consumer_signature(function regprocedure) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN $1::text;

COMMENT ON FUNCTION amqp_inner.consumer_signature(regprocedure) IS
'Part of the inbox: name and parameters of a function, with its schema.';
