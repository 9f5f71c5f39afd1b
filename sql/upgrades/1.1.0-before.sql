-- Complain if the script is sourced in psql rather than by ALTER EXTENSION.
\echo Use "ALTER EXTENSION pg_amqp_py UPDATE" to load this file. \quit

-- PostgreSQL puts schema amqp before its own: what its owner has put there would be taken for what is meant here.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

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
           OR EXISTS (SELECT FROM pg_catalog.pg_index AS i
                      WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid
                        AND (i.indexprs IS NOT NULL
                             OR i.indpred IS NOT NULL AND NOT EXISTS (
                                 SELECT FROM pg_catalog.pg_class AS x
                                 WHERE x.oid OPERATOR(pg_catalog.=) i.indexrelid
                                   AND x.relname OPERATOR(pg_catalog.=) ANY (
                                       '{outbox_ready_idx,outbox_waiting_idx,outbox_ready_key_idx,outbox_waiting_key_idx,outbox_dead_ordering_key_idx}'))))
           OR EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                      WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND a.attgenerated OPERATOR(pg_catalog.<>) ''));
    IF FOUND THEN
        RAISE EXCEPTION 'table "%" has a trigger, rule, constraint, index or generated column of its owner', table_name
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'It would run with the rights of whoever updates the extension.',
                  HINT = 'Drop it, update, and create it again as the owner.';
    END IF;
END
$$;

-- An identity takes its place, whose sequence is another one.
ALTER EXTENSION pg_amqp_py DROP SEQUENCE amqp.outbox_id_seq;
