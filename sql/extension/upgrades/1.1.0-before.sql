-- Complain if the script is sourced in psql rather than by ALTER EXTENSION.
\echo Use "ALTER EXTENSION pg_amqp_py UPDATE" to load this file. \quit

-- PostgreSQL puts schema amqp before its own: what its owner has put there would be taken for what is meant here.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- What users do not call has a schema of its own now. That of PL/Python becomes it: its functions hand on to those of schema
-- amqp, which come in their place.
ALTER SCHEMA amqp_python RENAME TO amqp_inner;
DROP FUNCTION
    amqp_inner.change_routing_key(text, text, name, name, jsonb, jsonb),
    amqp_inner.publish_outbox_change(integer, text, text, text);
ALTER FUNCTION amqp.broker_changed() SET SCHEMA amqp_inner;
-- Columns of a result cannot be replaced.
DROP FUNCTION amqp.status();

-- The tables of the outbox are changed below, and rows are moved, with the rights of whoever updates the extension.
DO $$
DECLARE
    table_name pg_catalog.text;
BEGIN
    SELECT c.oid::pg_catalog.regclass::pg_catalog.text INTO table_name
    FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) c.relowner
    WHERE c.oid OPERATOR(pg_catalog.=) ANY ('{amqp.outbox,amqp.outbox_dead,amqp.outbox_delivered,amqp.outbox_trouble}'::pg_catalog.regclass[])
      AND NOT r.rolsuper
      AND (EXISTS (SELECT FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid OPERATOR(pg_catalog.=) c.oid)
           OR EXISTS (SELECT FROM pg_catalog.pg_rewrite AS w WHERE w.ev_class OPERATOR(pg_catalog.=) c.oid)
           OR EXISTS (SELECT FROM pg_catalog.pg_constraint AS k
                      WHERE k.conrelid OPERATOR(pg_catalog.=) c.oid AND k.contype OPERATOR(pg_catalog.=) 'c')
           OR EXISTS (SELECT FROM pg_catalog.pg_inherits AS h
                      WHERE c.oid OPERATOR(pg_catalog.=) ANY (ARRAY[h.inhparent, h.inhrelid]))
           -- Defaults, types, and what indexes compute: what PostgreSQL brings itself is not among what they depend on.
           OR EXISTS (SELECT FROM pg_catalog.pg_depend AS p
                      WHERE p.refclassid OPERATOR(pg_catalog.=) ANY (
                                '{pg_catalog.pg_proc,pg_catalog.pg_operator,pg_catalog.pg_type,pg_catalog.pg_opclass}'::pg_catalog.regclass[])
                        AND (p.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
                             AND p.objid OPERATOR(pg_catalog.=) ANY (
                                 SELECT c.oid UNION SELECT i.indexrelid FROM pg_catalog.pg_index AS i
                                 WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid)
                             OR p.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass
                             AND p.objid OPERATOR(pg_catalog.=) ANY (
                                 SELECT d.oid FROM pg_catalog.pg_attrdef AS d
                                 WHERE d.adrelid OPERATOR(pg_catalog.=) c.oid)))
           OR EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                      WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attgenerated OPERATOR(pg_catalog.<>) ''));
    IF FOUND THEN
        RAISE EXCEPTION 'table "%" has a trigger, rule, constraint, child or generated column of its owner, or runs a function of his', table_name
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'It would run with the rights of whoever updates the extension.',
                  HINT = 'Drop it, update, and create it again as the owner.';
    END IF;
END
$$;

-- An identity takes its place, whose sequence is another one.
ALTER EXTENSION pg_amqp_py DROP SEQUENCE amqp.outbox_id_seq;
