-- Names are what statements are made of, and may be another object's by the time that one runs.
CREATE FUNCTION amqp_inner.consumer_same_target(consumer amqp.consumer) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN CASE
    WHEN ($1).target_table IS NOT NULL
    THEN format('pg_catalog.to_regclass(%L)::pg_catalog.oid OPERATOR(pg_catalog.=) %s',
                ($1).target_table::text, ($1).target_table::oid)
    WHEN ($1).target_function IS NOT NULL
    THEN (SELECT format('pg_catalog.to_regprocedure(%L)::pg_catalog.oid OPERATOR(pg_catalog.=) %s',
                        amqp_inner.consumer_signature(f.function), f.function::oid)
          FROM amqp_inner.consumer_function(($1).target_function, ($1).target_function_id) AS f)
    ELSE 'true' END;

COMMENT ON FUNCTION amqp_inner.consumer_same_target(amqp.consumer) IS
'Part of the inbox: SQL that says whether the name of the target still means the same.
Errors: those of amqp_inner.consumer_function().';
