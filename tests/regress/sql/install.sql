-- What CREATE EXTENSION gives. No broker is needed anywhere in these tests.
SET client_min_messages = warning;
CREATE EXTENSION pg_amqp_py CASCADE;
RESET client_min_messages;
SELECT e.extname, n.nspname, e.extrelocatable
FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'pg_amqp_py';
SELECT column_name, data_type, column_default, is_nullable
FROM information_schema.columns WHERE table_schema = 'amqp' AND table_name = 'broker' ORDER BY ordinal_position;
SELECT conname FROM pg_constraint WHERE conrelid = 'amqp.broker'::regclass AND contype IN ('c', 'p') ORDER BY 1;
SELECT p.oid::regprocedure AS function, p.prorettype::regtype AS result, l.lanname AS language,
       p.provolatile AS volatile, p.proparallel AS parallel, p.prosecdef AS definer
FROM pg_proc AS p JOIN pg_language AS l ON l.oid = p.prolang
WHERE p.pronamespace IN ('amqp'::regnamespace, 'amqp_inner'::regnamespace)
ORDER BY p.proname, p.oid::regprocedure::text COLLATE "C";
-- Who runs with its owner's rights has its search_path pinned.
SELECT oid::regprocedure FROM pg_proc
WHERE pronamespace IN ('amqp'::regnamespace, 'amqp_inner'::regnamespace) AND prosecdef
  AND NOT COALESCE('search_path=pg_catalog, pg_temp' = ANY (proconfig), false);
-- Every object has a comment.
SELECT pg_describe_object(classid, objid, objsubid)
FROM pg_depend
WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
  AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_amqp_py')
  AND classid IN ('pg_proc'::regclass, 'pg_class'::regclass)
  AND obj_description(objid, classid::regclass::name) IS NULL
  AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = objid AND c.relkind = 'S')
ORDER BY 1;
