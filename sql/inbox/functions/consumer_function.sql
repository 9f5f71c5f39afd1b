-- Names alone would make another function of it when search_path changes, or when its own is given to another one; the
-- number of a function alone means nothing in another cluster, into which rows come by pg_dump or pg_upgrade. It looks
-- through the search_path of whoever writes the row.
CREATE FUNCTION amqp_inner.consumer_function(target_function text, target_function_id text, OUT function regprocedure, OUT id text)
LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
DECLARE
    place CONSTANT pg_catalog.text := amqp_inner.consumer_place();
    name CONSTANT pg_catalog.text := pg_catalog.regexp_replace(target_function, '\s*\(\s*amqp\.message\s*\)\s*$', '');
BEGIN
    IF name OPERATOR(pg_catalog.~) '\)\s*$' THEN
        RAISE EXCEPTION 'function % does not take an amqp.message', name USING ERRCODE = 'undefined_function';
    END IF;
    IF pg_catalog.starts_with(target_function_id, place) THEN
        SELECT p.oid INTO function FROM pg_catalog.pg_proc AS p
        WHERE p.oid OPERATOR(pg_catalog.=) pg_catalog.substr(
            target_function_id, pg_catalog.length(place) OPERATOR(pg_catalog.+) 1)::pg_catalog.oid
          -- A number may be used again.
          AND p.pronargs OPERATOR(pg_catalog.=) 1
          AND p.proargtypes[0] OPERATOR(pg_catalog.=) 'amqp.message'::pg_catalog.regtype::pg_catalog.oid;
    ELSE
        function := pg_catalog.to_regprocedure(pg_catalog.concat(name, '(amqp.message)'));
    END IF;
    IF function IS NULL THEN
        RAISE EXCEPTION 'function %(amqp.message) does not exist', name
            USING ERRCODE = 'undefined_function',
                  HINT = 'If it was dropped and created again: UPDATE amqp.consumer SET target_function = target_function.';
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_proc AS p
               WHERE p.oid OPERATOR(pg_catalog.=) function::pg_catalog.oid
                 AND (p.prokind OPERATOR(pg_catalog.<>) 'f' OR p.proretset)) THEN
        RAISE EXCEPTION '% is no function that returns one value', function USING ERRCODE = 'wrong_object_type';
    END IF;
    id := pg_catalog.concat(place, function::pg_catalog.oid);
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_function(text, text) IS
'Part of the inbox: the function that a row of amqp.consumer means.
Errors: 42883 it does not exist, 42809 it is a procedure, an aggregate or returns a set.';
