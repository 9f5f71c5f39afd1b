CREATE FUNCTION amqp_inner.consumer_known_function(target_function_id text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT $1
    FROM pg_proc AS p
    WHERE starts_with($1, amqp_inner.consumer_place()) AND p.oid = substr($1, length(amqp_inner.consumer_place()) + 1)::oid
      -- A number may be used again.
      AND p.pronargs = 1 AND p.proargtypes[0] = 'amqp.message'::regtype;
END;

COMMENT ON FUNCTION amqp_inner.consumer_known_function(text) IS
'Part of the inbox: the same, if it names a function that is in this database; otherwise NULL.';
