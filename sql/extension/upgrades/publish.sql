-- Texts of amqp.publish() with properties have a type of their own now, but for the message, which is its fourth parameter. A
-- function that is dropped would take views with it that call it: its signature is changed the hard way, as PostgreSQL's own
-- extensions do. It is replaced below, which also makes it depend on the type.
UPDATE pg_catalog.pg_proc AS p
SET proargtypes = (
    SELECT pg_catalog.string_agg(
        CASE WHEN a.type OPERATOR(pg_catalog.=) 'pg_catalog.text'::pg_catalog.regtype AND a.number OPERATOR(pg_catalog.<>) 4
             THEN 'amqp.short_string'::pg_catalog.regtype::pg_catalog.oid ELSE a.type END::pg_catalog.text,
        ' ' ORDER BY a.number)
    FROM pg_catalog.unnest(p.proargtypes::pg_catalog.oid[]) WITH ORDINALITY AS a (type, number))::pg_catalog.oidvector,
    -- Theirs would have to be of the same type.
    pronargdefaults = 0, proargdefaults = NULL
WHERE p.proname OPERATOR(pg_catalog.=) 'publish' AND p.pronamespace OPERATOR(pg_catalog.=) 'amqp'::pg_catalog.regnamespace
  AND p.pronargs OPERATOR(pg_catalog.=) 18;

-- Names of parameters cannot be taken away.
DROP FUNCTION IF EXISTS
    amqp_inner.publish_change(integer, text, text, text),
    amqp_inner.publish_change(integer, text, text, text, jsonb, text);
