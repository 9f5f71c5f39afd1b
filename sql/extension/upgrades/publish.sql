-- The exchange of amqp.publish() with properties has a type of its own now. A function that is dropped would take views with it
-- that call it: its signature is changed the hard way, as PostgreSQL's own extensions do. It is replaced below, which also
-- makes it depend on the type.
UPDATE pg_catalog.pg_proc AS p
SET proargtypes = pg_catalog.regexp_replace(
        p.proargtypes::pg_catalog.text, '^23 25 25 ',
        pg_catalog.concat('23 ', 'amqp.exchange'::pg_catalog.regtype::pg_catalog.oid, ' 25 '))::pg_catalog.oidvector
WHERE p.proname OPERATOR(pg_catalog.=) 'publish' AND p.pronamespace OPERATOR(pg_catalog.=) 'amqp'::pg_catalog.regnamespace
  AND p.pronargs OPERATOR(pg_catalog.=) 18;

-- Names of parameters cannot be taken away.
DROP FUNCTION IF EXISTS
    amqp_inner.publish_change(integer, text, text, text),
    amqp_inner.publish_change(integer, text, text, text, jsonb, text);
